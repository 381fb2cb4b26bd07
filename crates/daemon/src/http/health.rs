//! Health and readiness.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use lvp_api::units::duration_text;
use lvp_api::{Health, HealthStatus, Readiness};

use super::{Answer, App};
use crate::access::Principal;
use crate::clock;

/// `GET /health`, `/healthz`, `/livez`
pub(super) async fn health(State(app): State<App>) -> Json<Health> {
    let status = if app.jobs.at_capacity() {
        HealthStatus::Degraded
    } else {
        HealthStatus::Healthy
    };
    Json(Health {
        status,
        timestamp: clock::now_text(),
        version: concat!("v", env!("CARGO_PKG_VERSION")).to_owned(),
        uptime: duration_text(app.started.elapsed()),
    })
}

/// `GET /readyz`
pub(super) async fn ready(
    State(app): State<App>,
    caller: Option<Extension<Principal>>,
) -> Answer<Readiness> {
    let mut dependencies = app.dependencies.states();
    // Before the first probes, the state of the dependencies is unknown, which is not ready.
    let all_up = !dependencies.is_empty() && dependencies.values().all(|state| state.up);
    if caller.is_none() {
        // Errors name endpoints, paths and versions.
        dependencies
            .values_mut()
            .for_each(|state| state.error = None);
    }
    let ready = all_up && !app.jobs.is_stopping();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(Readiness {
            ready,
            dependencies,
        }),
    )
}
