//! What a request would do.

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

/// Plans that are made at once; further callers wait in order. Each reads an image's metadata.
const MAKERS: usize = 2;

/// Places for those who make plans.
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
    let closed = |_| ApiError::new(ErrorCode::Internal, "The daemon is ending");
    let _place = app.shared.plans.0.acquire().await.map_err(closed)?;
    let planned = jobs::plan::plan(&app.services, &new).await;
    let mut plan = planned.map_err(|error| ApiError::new(error.kind().code(), chain(&error)))?;
    plan.warnings.extend(fields.warnings());
    Ok(Json(plan))
}
