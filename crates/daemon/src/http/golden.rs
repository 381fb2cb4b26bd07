//! The handlers of golden volumes.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Request;
use lvp_api::{DeletedImage, ErrorCode, GoldenVolume, GoldenVolumes, JobAccepted};

use super::cache::{key_of, new_job};
use super::error::ApiError;
use super::{Answer, App};
use crate::golden::{Entry, GoldenError};
use crate::job::work::Work;

/// `GET /api/v1/golden`
pub(super) async fn list(State(app): State<App>) -> Result<Json<GoldenVolumes>, ApiError> {
    let _place = app.shared.lists.place().await?;
    // Golden volumes from before are listed even where new ones are not made.
    let entries = match app.services.golden.list().await {
        Ok(entries) => entries,
        Err(GoldenError::Unavailable(_)) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let unavailable = app.services.why_no_clones().await;
    let volumes: Vec<_> = entries.into_iter().rev().map(shown).collect();
    Ok(Json(GoldenVolumes {
        count: volumes.len(),
        volumes,
        unavailable,
    }))
}

/// `POST /api/v1/golden`
pub(super) async fn make(
    State(app): State<App>,
    request: Request<Body>,
) -> Result<Answer<JobAccepted>, ApiError> {
    new_job(&app, request, |image| Work::Golden { image }).await
}

/// `DELETE /api/v1/golden/{key}`
pub(super) async fn delete(
    State(app): State<App>,
    Path(key): Path<String>,
) -> Result<Json<DeletedImage>, ApiError> {
    let digest = key_of(&key, "GET /api/v1/golden")?;
    let services = &app.services;
    if services.golden.remove(digest).await? {
        services.measure_golden().await;
        Ok(Json(DeletedImage {
            status: "deleted".to_owned(),
            key,
        }))
    } else {
        let message = format!("Image {key} has no golden volume: GET /api/v1/golden lists them");
        Err(ApiError::new(ErrorCode::NotFound, message))
    }
}

fn shown(entry: Entry) -> GoldenVolume {
    let Entry {
        golden,
        row,
        in_use,
    } = entry;
    GoldenVolume {
        key: golden.key.digest.to_string(),
        image_type: golden.key.image_type,
        image_url: row
            .as_ref()
            .map_or_else(String::new, |row| row.image_url.clone()),
        path: golden.volume.path.display().to_string(),
        disk_bytes: golden.content.map(|content| content.size_bytes),
        own_bytes: golden.own_bytes,
        content_digest: golden.content.map(|content| content.digest.to_string()),
        clones: row.as_ref().map_or(0, |row| row.clones),
        made_at: row.as_ref().map(|row| row.made_at.clone()),
        last_used: row.map(|row| row.last_used_at),
        in_use,
        flaw: golden.flaw,
    }
}
