//! The handlers of volumes.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use lvp_api::{ErrorCode, JobAccepted, VerifiedVolume, VolumeInfo, VolumeList, VolumeName};

use super::error::ApiError;
use super::{Answer, App, gather, request};
use crate::access::audit::Subject;
use crate::golden::Basis;
use crate::golden::content::Watch;
use crate::volume::Volume;

/// `GET /api/v1/volumes`
pub(super) async fn list(State(app): State<App>) -> Result<Response, ApiError> {
    let services = Arc::clone(&app.services);
    let list = move || async move {
        let volumes = services.volumes.list().await?;
        let volumes: Vec<_> = volumes.into_iter().map(Volume::info).collect();
        let list = VolumeList {
            count: volumes.len(),
            volumes,
        };
        let json = serde_json::to_vec(&list).map_err(|error| {
            let message = format!("The list of volumes cannot be written: {error}");
            ApiError::new(ErrorCode::Internal, message)
        })?;
        Ok(Bytes::from(json))
    };
    let json = app
        .shared
        .volumes
        .get(list)
        .await
        .map_err(|gather::ReadCrashed| {
            ApiError::new(
                ErrorCode::Internal,
                "Listing the volumes crashed: see the log",
            )
        })??;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// `POST /api/v1/volumes/{name}/verify`
pub(super) async fn verify(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<VerifiedVolume>, ApiError> {
    // The name of a golden volume is allowed too.
    let name: VolumeName = name
        .parse()
        .map_err(|error| ApiError::bad_request(format!("name: {error}")))?;
    let Ok(_place) = app.shared.verifications.try_acquire() else {
        return Err(ApiError::new(
            ErrorCode::TooManyRequests,
            "Another volume is being verified, and only one can be at a time: try again later",
        ));
    };
    let watch = Watch::default();
    let verified = app.services.golden.verify(&name, None, &watch, |_| {});
    Ok(Json(verified.await?))
}

/// `POST /api/v1/verifications`
pub(super) async fn verify_as_job(
    State(app): State<App>,
    request: Request<Body>,
) -> Result<Answer<JobAccepted>, ApiError> {
    let headers = request.headers().clone();
    let subject = Subject::of(request.extensions());
    let fields = request::verification_fields(request).await?;
    if let Ok(Some(name)) = fields.text("volume_name") {
        subject.is(format!("volume {name}"));
    }
    let (name, new) = request::verification(&fields, &headers)?;
    let correlated = |error| request::correlated(error, &fields);
    // What can be told at once is told now, and by a job only what changes until it runs.
    // Of a volume that a job holds, the admission says which, or that this is a repeat.
    let holder = app.services.store.holder(name.clone()).await;
    if holder.map_err(|error| correlated(error.into()))?.is_none() {
        expect_verifiable(&app, &name).await.map_err(correlated)?;
    }
    let submitted = app.jobs.submit(new).await;
    let job_id = submitted.map_err(|error| correlated(error.into()))?;
    subject.made_job(job_id);
    let warnings = fields.warnings();
    Ok((StatusCode::ACCEPTED, Json(JobAccepted { job_id, warnings })))
}

/// Fails if a volume cannot be verified as it is now.
async fn expect_verifiable(app: &App, name: &VolumeName) -> Result<(), ApiError> {
    let needed = match app.services.golden.basis(name).await? {
        Basis::Known => return Ok(()),
        Basis::Image(needed) => needed,
    };
    match app.services.cache.pin(needed.image.digest).await? {
        Some(_) => Ok(()),
        None => Err(needed.is_missing(name).into()),
    }
}

/// `POST /api/v1/volumes/{name}/adopt`
pub(super) async fn adopt(
    State(app): State<App>,
    subject: Option<Extension<Subject>>,
    Path(name): Path<String>,
) -> Result<Json<VolumeInfo>, ApiError> {
    let name = request::volume_name("name", &name)?;
    if let Some(Extension(subject)) = subject {
        subject.is(format!("volume {name}"));
    }
    let adopted = app.services.volumes.adopt(&name).await?;
    Ok(Json(adopted.info()))
}
