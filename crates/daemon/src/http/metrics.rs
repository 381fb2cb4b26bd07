//! The handler of `/metrics`, and the counting of requests.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use lvp_api::ErrorCode;
use lvp_image::sandbox::Sandbox;

use super::App;
use super::error::ApiError;
use crate::telemetry::metrics::{Counted, Format};

/// `GET /metrics`
pub(super) async fn serve(
    State(app): State<App>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let accept = headers.get(header::ACCEPT);
    let format = Format::accepted(accept.and_then(|value| value.to_str().ok()));
    let services = &app.services;
    let counted = Counted {
        source: &services.source,
        evicted_images: services.cache.evicted_images(),
        golden_dropped: services.golden.dropped(),
        decoders: services.engine.sandbox().map(Sandbox::counts),
        tokio_tasks: tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks(),
        access: &app.access,
        load: &app.load,
        exports: &app.exports,
    };
    let text = services.metrics.render(format, &counted).map_err(|_| {
        ApiError::new(
            ErrorCode::Internal,
            "The metrics could not be written: see the log",
        )
    })?;
    Ok(([(header::CONTENT_TYPE, format.content_type())], text).into_response())
}

/// Counts and times every request by the template of its route.
pub(super) async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    app.services.metrics.request_answered(
        method.as_str(),
        route.as_ref().map(MatchedPath::as_str),
        response.status().as_u16(),
        started.elapsed(),
    );
    response
}
