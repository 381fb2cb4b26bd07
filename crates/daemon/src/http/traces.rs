//! One server span for every request except scrapes of `/metrics`.

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use lvp_api::routes;
use tracing::Instrument as _;

use super::request_id::RequestId;
use crate::telemetry::traces;

/// Continues the client's trace, or begins one.
pub(super) async fn trace(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map(MatchedPath::as_str);
    if route == Some(routes::METRICS) {
        return next.run(request).await;
    }
    let method = request.method().to_string();
    let name = match route {
        Some(route) => format!("{method} {route}"),
        None => method.clone(),
    };
    let id = request.extensions().get::<RequestId>();
    let span = tracing::error_span!(
        target: traces::TARGET, "request", otel.name = name, otel.kind = "server",
        request_id = id.map(|id| id.0.as_str())
    );
    let traceparent = request.headers().get("traceparent");
    traces::continue_from(&span, traceparent.and_then(|value| value.to_str().ok()));
    traces::attribute(&span, "http.request.method", Some(method));
    traces::attribute(&span, "http.route", route.map(str::to_owned));
    traces::attribute(&span, "url.path", Some(request.uri().path().to_owned()));
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    traces::attribute(
        &span,
        "http.response.status_code",
        Some(i64::from(status.as_u16())),
    );
    if status.is_server_error() {
        traces::failed(&span, "http_5xx", status.to_string());
    }
    response
}
