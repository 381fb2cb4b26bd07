//! The handlers of volumes.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use lvp_api::{ErrorCode, VerifiedVolume, VolumeInfo, VolumeList, VolumeName};

use super::error::ApiError;
use super::{App, gather, request};
use crate::access::audit::Subject;
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
    Ok(Json(app.services.golden.verify(&name).await?))
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
