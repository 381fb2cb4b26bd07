//! The HTTP API. Handlers unpack, call, and wrap; decisions are made in lower layers.
//!
//! Both generations of routes are served by the same handlers ([`lvp_api::routes`]).

mod cache;
mod calls;
pub mod error;
mod events;
mod fields;
mod fleet;
mod gather;
mod golden;
mod guard;
mod health;
mod host;
mod images;
mod jobs;
mod list;
mod metrics;
mod openapi;
mod page;
mod plan;
mod request;
mod request_id;
mod streams;
mod traces;
mod upload;
mod volumes;

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use lvp_api::{ErrorCode, routes};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument as _;

use crate::access::Access;
use crate::dependencies::Dependencies;
use crate::fleet::Fleet;
use crate::jobs::{Jobs, Services};
use crate::net::Load;
use crate::telemetry::Exports;
use calls::CALLS;
use error::ApiError;
pub use gather::Gather;
pub use host::Checkup;
pub use streams::Streams;

pub use openapi::document as openapi_document;

/// What handlers use.
#[derive(Debug, Clone)]
pub struct App {
    /// The services that jobs and handlers use.
    pub services: Arc<Services>,
    /// All jobs.
    pub jobs: Jobs,
    /// Authentication and authorisation.
    pub access: Arc<Access>,
    /// This host's part in a fleet, if it has one.
    pub fleet: Option<Fleet>,
    /// The results of the probes.
    pub dependencies: Arc<Dependencies>,
    /// When the daemon started.
    pub started: Instant,
    /// Whether scrapers are served.
    pub serve_metrics: bool,
    /// Whether the page is served.
    pub serve_page: bool,
    /// Where traces are looked at.
    pub trace_url: Option<Arc<str>>,
    /// Runs the checks of `doctor`.
    pub checkup: Checkup,
    /// Counters of exported log lines and spans.
    pub exports: Arc<Exports>,
    /// The load by all connections, and its limits.
    pub load: Arc<Load>,
    /// State that handlers share.
    pub shared: Arc<Shared>,
}

/// Bounds what handlers cost, whatever the number of callers.
#[derive(Debug)]
pub struct Shared {
    /// The open event streams.
    pub streams: Arc<Streams>,
    /// The list of volumes, as JSON.
    pub volumes: Gather<Result<Bytes, ApiError>>,
    /// Limits the lists that are made at the same time.
    lists: list::Makers,
    /// Limits the plans that are made at the same time.
    plans: plan::Makers,
    /// Limits verifications to one at a time, as each uses a disk's full throughput.
    verifications: Semaphore,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            streams: Arc::default(),
            volumes: Gather::default(),
            lists: list::Makers::default(),
            plans: plan::Makers::default(),
            verifications: Semaphore::new(1),
        }
    }
}

/// All routes of both generations, and the API's own description.
pub fn router(app: App) -> Router {
    let metrics = &app.services.metrics;
    metrics.requests_begin(openapi::answers());
    let mut router = Router::new();
    for call in CALLS {
        if call.routes.contains(&routes::METRICS) && !app.serve_metrics {
            continue;
        }
        for route in call.routes {
            router = router.route(route, call.served());
        }
    }
    if app.serve_page {
        router = router
            .route(routes::PAGE, get(page::index))
            .route(routes::PAGE_FILE, get(page::file));
    }
    router
        .route(routes::OPENAPI, get(openapi::serve))
        .route(routes::DOCS, get(openapi::docs))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(middleware::from_fn(detached))
        .layer(middleware::from_fn_with_state(app.clone(), guard::guard))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(traces::trace))
        // Outside of these, so that a request that crashed is counted too, and has its id.
        .layer(middleware::from_fn_with_state(app.clone(), metrics::count))
        .layer(middleware::from_fn(request_id::identify))
        .with_state(app)
}

/// The end of a verification's path, and of no other.
const VERIFY: &str = "/verify";

/// Runs the handler of a request that changes something to its end: otherwise, a client that disconnects would
/// cancel the handler wherever it is. A plan and a verification change nothing, and are cancelled when their
/// client disconnects.
async fn detached(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let changes_nothing = path == routes::PLAN || path.ends_with(VERIFY);
    if request.method().is_safe() || changes_nothing {
        return next.run(request).await;
    }
    let handled = tokio::spawn(next.run(request).in_current_span());
    handled
        .await
        .unwrap_or_else(|error| panicked(Box::new(error)))
}

async fn not_found(uri: axum::http::Uri) -> ApiError {
    let message = format!(
        "There is nothing at {}: see /openapi.json for the routes",
        uri.path()
    );
    ApiError::new(ErrorCode::NotFound, message)
}

async fn method_not_allowed(method: axum::http::Method, uri: axum::http::Uri) -> ApiError {
    let message = format!(
        "{} does not support {method}: see /openapi.json for the methods that it supports",
        uri.path()
    );
    ApiError::new(ErrorCode::MethodNotAllowed, message)
}

fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    // The panic itself is in the log, by the hook that `telemetry` sets.
    ApiError::new(
        ErrorCode::Internal,
        "The request crashed: see the daemon's log",
    )
    .into_response()
}

/// For handlers whose answer has a status of its own.
type Answer<T> = (StatusCode, axum::Json<T>);
