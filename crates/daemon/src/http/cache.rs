//! The cache's handlers.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode, Uri};
use lvp_api::{CachedImages, DeletedImage, ErrorCode, JobAccepted, Sha256Digest};

use super::error::ApiError;
use super::fields::Fields;
use super::request::Part;
use super::{Answer, App, list, request};
use crate::access::audit::Subject;
use crate::job::work::{ImageRequest, Work};
use crate::source::url::redact;

/// The query parameters of a listing.
const LISTING: &[&str] = &["limit", "offset"];

/// `GET /api/v1/cache/images`
pub(super) async fn list(State(app): State<App>, uri: Uri) -> Result<Json<CachedImages>, ApiError> {
    let fields = Fields::of_query(&uri, LISTING)?;
    let Part { limit, offset } = Part::of(&fields)?;
    let _place = app.shared.lists.place().await?;
    // At most a thousand rows are read, with URLs of at most 4 KiB.
    let cache = &app.services.cache;
    let mut images = cache.list(limit, offset).await?;
    let golden = app.services.golden.digests().await?;
    for image in &mut images {
        image.golden = golden.contains(&image.key);
    }
    let total = cache.count().await?;
    let part = list::part(images, offset, false)?;
    Ok(Json(CachedImages {
        count: total,
        total,
        images: part.items,
        offset,
        limit,
        next_offset: part.next_offset,
        warnings: fields.warnings(),
    }))
}

/// `POST /api/v1/cache/fetch`
pub(super) async fn fetch(
    State(app): State<App>,
    request: Request<Body>,
) -> Result<Answer<JobAccepted>, ApiError> {
    new_job(&app, request, |image| Work::Fetch { image }).await
}

/// Makes a job from a request that names an image and no volume.
pub(super) async fn new_job(
    app: &App,
    request: Request<Body>,
    work: fn(ImageRequest) -> Work,
) -> Result<Answer<JobAccepted>, ApiError> {
    let headers = request.headers().clone();
    let subject = Subject::of(request.extensions());
    let fields = request::cache_fetch_fields(request).await?;
    if let Ok(Some(url)) = fields.text("image_url") {
        subject.is(format!("image {}", redact(&url)));
    }
    let new = request::of_image(&fields, &headers, &app.services.source, work)?;
    let submitted = app.jobs.submit(new).await;
    let job_id = submitted.map_err(|error| request::correlated(error.into(), &fields))?;
    subject.made_job(job_id);
    let warnings = fields.warnings();
    Ok((StatusCode::ACCEPTED, Json(JobAccepted { job_id, warnings })))
}

/// `DELETE /api/v1/cache/images/{key}`
pub(super) async fn delete(
    State(app): State<App>,
    Path(key): Path<String>,
) -> Result<Json<DeletedImage>, ApiError> {
    let digest = key_of(&key, "GET /api/v1/cache/images")?;
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

/// Parses an image's key, which is its digest.
pub(super) fn key_of(key: &str, listed_by: &str) -> Result<Sha256Digest, ApiError> {
    let digest: Option<Sha256Digest> = key.parse().ok();
    let digest = digest.filter(|digest| digest.to_string() == key);
    digest.ok_or_else(|| {
        ApiError::bad_request(format!(
            "The key must be 64 lowercase hex digits: {listed_by} lists the keys"
        ))
    })
}
