//! Health and readiness.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
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
        uptime: uptime(app.started.elapsed()),
    })
}

/// `GET /readyz`
pub(super) async fn ready(
    State(app): State<App>,
    caller: Option<Extension<Principal>>,
) -> Answer<Readiness> {
    let mut dependencies = app.dependencies.states();
    // Before the first probes nothing is known, and nothing unknown is ready.
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

/// A duration as Go prints it in whole seconds, which the monitoring guide shows: `3h14m52s`.
fn uptime(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_has_the_form_of_the_guide() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m1s"),
            (11_692, "3h14m52s"),
            (360_000, "100h0m0s"),
        ] {
            assert_eq!(uptime(Duration::from_secs(seconds)), text);
        }
    }
}
