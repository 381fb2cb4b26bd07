//! The cache over HTTP.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{Request, StatusCode};
use lvp_api::{CachedImages, DeletedImage, ErrorCode, JobAccepted, Sha256Digest};
use serde::Deserialize;

use super::error::ApiError;
use super::{Answer, App, list, request};
use crate::access::audit::Subject;
use crate::source::url::redact;

/// Listed images unless `limit` says otherwise.
const LIST_LIMIT: u32 = 100;
/// Listed images at most.
const LIST_LIMIT_MAX: u32 = 1000;

/// What a listing is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    limit: Option<u32>,
    offset: Option<u32>,
}

/// `GET /api/v1/cache/images`
pub(super) async fn list(
    State(app): State<App>,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<CachedImages>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let limit = query.limit.unwrap_or(LIST_LIMIT).min(LIST_LIMIT_MAX);
    let offset = query.offset.unwrap_or(0);
    let _place = app.shared.lists.place().await?;
    // A thousand rows of URLs of 4 KiB are read at most.
    let images = app.services.cache.list(limit, offset).await?;
    let part = list::part(images, offset, false)?;
    Ok(Json(CachedImages {
        count: part.items.len(),
        images: part.items,
        offset,
        limit,
        next_offset: part.next_offset,
    }))
}

/// `POST /api/v1/cache/fetch`
pub(super) async fn fetch(
    State(app): State<App>,
    request: Request<Body>,
) -> Result<Answer<JobAccepted>, ApiError> {
    let headers = request.headers().clone();
    let subject = Subject::of(request.extensions());
    let body: lvp_api::CacheFetchRequest = request::json(request).await?;
    let correlation_id = body.correlation_id.clone();
    subject.is(format!("image {}", redact(&body.image_url)));
    let new = request::cache_fetch(body, &headers, &app.services.source)
        .map_err(|error| error.correlated(correlation_id.clone()))?;
    let submitted = app.jobs.submit(new).await;
    let job_id = submitted.map_err(|error| ApiError::from(error).correlated(correlation_id))?;
    subject.made_job(job_id);
    Ok((StatusCode::ACCEPTED, Json(JobAccepted { job_id })))
}

/// `DELETE /api/v1/cache/images/{key}`
pub(super) async fn delete(
    State(app): State<App>,
    Path(key): Path<String>,
) -> Result<Json<DeletedImage>, ApiError> {
    let digest: Option<Sha256Digest> = key
        .parse()
        .ok()
        .filter(|digest: &Sha256Digest| digest.to_string() == key);
    let Some(digest) = digest else {
        return Err(ApiError::bad_request(
            "The key must be 64 lowercase hex digits: GET /api/v1/cache/images lists the keys",
        ));
    };
    let services = &app.services;
    if services.cache.delete(digest).await? {
        services.measure_cache().await;
        Ok(Json(DeletedImage {
            status: "deleted".to_owned(),
            key,
        }))
    } else {
        let message =
            format!("Image {key} is not in the cache: GET /api/v1/cache/images lists them");
        Err(ApiError::new(ErrorCode::NotFound, message))
    }
}
