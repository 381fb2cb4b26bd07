//! The handler of plans: what a request would do.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use lvp_api::ErrorCode;
use lvp_api::plan::Plan;
use tokio::sync::Semaphore;

use super::error::ApiError;
use super::{App, request};
use crate::error::chain;
use crate::jobs;

/// Plans that are made at the same time. Each reads an image's metadata.
const MAKERS: usize = 8;

/// How long a further caller waits: until the plans in progress have ended, even by their time limit.
const WAIT: Duration = Duration::from_secs(15);

/// How long a plan may take: somebody is waiting for it, and a store that does not answer for this long is
/// worth reporting.
const LIMIT: Duration = Duration::from_secs(10);

/// Limits how many plans are made at the same time.
#[derive(Debug)]
pub(super) struct Makers(Semaphore);

impl Default for Makers {
    fn default() -> Self {
        Self(Semaphore::new(MAKERS))
    }
}

/// `POST /api/v1/plan`
pub(super) async fn plan(
    State(app): State<App>,
    request: Request<Body>,
) -> Result<Json<Plan>, ApiError> {
    let headers = request.headers().clone();
    let fields = request::provision_fields(request).await?;
    let new = request::provision(&fields, &headers, &app.services.source)?;
    let closed = |_| ApiError::new(ErrorCode::Internal, "The daemon is stopping");
    let place = tokio::time::timeout(WAIT, app.shared.plans.0.acquire()).await;
    let busy = |_| {
        let message =
            format!("{MAKERS} plans are being made, and none has ended in time: try again");
        ApiError::new(ErrorCode::Unavailable, message)
    };
    let _place = place.map_err(busy)?.map_err(closed)?;
    let planned = tokio::time::timeout(LIMIT, jobs::plan::plan(&app.services, &new)).await;
    let late = |_| {
        let message = format!(
            "The plan could not be made within {} s: the object store, the volumes or the \
             database do not answer; GET /readyz says which (a job would wait longer)",
            LIMIT.as_secs()
        );
        ApiError::new(ErrorCode::Unavailable, message)
    };
    let planned = planned.map_err(late)?;
    let mut plan = planned.map_err(|error| ApiError::new(error.kind().code(), chain(&error)))?;
    plan.jobs_ahead = app.jobs.ahead(plan.priority);
    plan.warnings.extend(fields.warnings());
    Ok(Json(plan))
}
