//! The handlers of jobs.

use std::fmt::Display;
use std::str::FromStr;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode, Uri};
use lvp_api::{CancelledJob, ErrorCode, JobAccepted, JobId, JobList, JobLog, JobStatus, Timeline};

use super::error::ApiError;
use super::fields::Fields;
use super::request::Part;
use super::{Answer, App, list, request};
use crate::access::audit::Subject;
use crate::clock;
use crate::job::record::Job;
use crate::jobs::Cancellation;
use crate::jobs::retry::RetryError;
use crate::store::JobFilter;
use crate::telemetry::traces;

/// The query parameters of a listing.
const LISTING: &[&str] = &[
    "status", "priority", "volume", "image", "q", "since", "until", "limit", "offset",
];

/// The phrases by which clients of the Go program recognise these errors.
const NOT_FOUND: &str = "job not found";
const NOT_CANCELLED: &str = "failed to cancel job";
const NOT_STARTED: &str = "failed to start provisioning";

/// `POST /api/v1/jobs`
pub(super) async fn create(
    State(app): State<App>,
    request: Request<Body>,
) -> Result<Answer<JobAccepted>, ApiError> {
    let headers = request.headers().clone();
    let subject = Subject::of(request.extensions());
    let fields = request::provision_fields(request).await?;
    if let Ok(Some(name)) = fields.text("volume_name") {
        subject.is(format!("volume {name}"));
    }
    let new = request::provision(&fields, &headers, &app.services.source)?;
    let job_id = app.jobs.submit(new).await.map_err(|error| {
        let error = request::correlated(error.into(), &fields);
        match error.code() {
            ErrorCode::Internal => error.phrased(NOT_STARTED),
            _ => error,
        }
    })?;
    subject.made_job(job_id);
    let warnings = fields.warnings();
    Ok((StatusCode::ACCEPTED, Json(JobAccepted { job_id, warnings })))
}

/// `GET /api/v1/jobs`
pub(super) async fn list(State(app): State<App>, uri: Uri) -> Result<Json<JobList>, ApiError> {
    let fields = Fields::of_query(&uri, LISTING)?;
    let Part { limit, offset } = Part::of(&fields)?;
    let _place = app.shared.lists.place().await?;
    let (jobs, total) = app
        .jobs
        .list(JobFilter {
            states: words("status", fields.text("status")?.as_deref())?,
            priorities: words("priority", fields.text("priority")?.as_deref())?,
            volume: fields.text("volume")?,
            image: fields.text("image")?,
            text: fields.text("q")?,
            since: moment("since", fields.text("since")?)?,
            until: moment("until", fields.text("until")?)?,
            limit,
            offset,
            max_bytes: list::LIST_MAX_BYTES,
        })
        .await?;
    let read = u64::from(offset).saturating_add(u64::try_from(jobs.len()).unwrap_or(u64::MAX));
    let is_cut = jobs.len() < usize::try_from(limit).unwrap_or(usize::MAX)
        && read < total
        && !jobs.is_empty();
    let part = list::part(jobs.iter().map(Job::status), offset, is_cut)?;
    Ok(Json(JobList {
        count: part.items.len(),
        jobs: part.items,
        total,
        offset,
        limit,
        next_offset: part.next_offset,
        warnings: fields.warnings(),
    }))
}

/// `failed,cancelled`: any of them.
fn words<T>(field: &str, text: Option<&str>) -> Result<Vec<T>, ApiError>
where
    T: FromStr<Err: Display>,
{
    let words = text.iter().flat_map(|text| text.split(','));
    words
        .map(|word| {
            let word = word.trim().parse();
            word.map_err(|error| ApiError::bad_request(format!("{field}: {error}")))
        })
        .collect()
}

/// Parses a time in RFC 3339, and returns it in the form that the database compares.
fn moment(field: &str, text: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(text) = text else {
        return Ok(None);
    };
    match clock::parsed(&text) {
        Some(time) => Ok(Some(clock::text(time))),
        None => Err(ApiError::bad_request(format!(
            "{field}: must be a time such as 2026-01-27T10:30:00Z, not {text:?} (in a URL, write \
             + as %2B)"
        ))),
    }
}

/// `GET /api/v1/jobs/{id}`
pub(super) async fn get(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<JobStatus>, ApiError> {
    let job = app
        .jobs
        .get(job_id(&id)?)
        .await?
        .ok_or_else(|| unknown(&id))?;
    Ok(Json(job.status()))
}

/// `GET /api/v1/jobs/{id}/timeline`
pub(super) async fn timeline(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Timeline>, ApiError> {
    let timeline = app.jobs.timeline(job_id(&id)?).await?;
    timeline.map(Json).ok_or_else(|| unknown(&id))
}

/// `GET /api/v1/jobs/{id}/log`
pub(super) async fn log(
    State(app): State<App>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<JobLog>, ApiError> {
    let after = Fields::of_query(&uri, &["after"])?.whole_text("after")?;
    let log = app.jobs.log(job_id(&id)?, after).await?;
    log.map(Json).ok_or_else(|| unknown(&id))
}

/// `POST /api/v1/jobs/{id}/cancel`
pub(super) async fn cancel(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<CancelledJob>, ApiError> {
    let cancelled = cancelled(&app, &id).await;
    cancelled.map_err(|error| error.phrased(NOT_CANCELLED))
}

async fn cancelled(app: &App, id: &str) -> Result<Json<CancelledJob>, ApiError> {
    let job_id = job_id(id)?;
    match app.jobs.cancel(job_id).await? {
        Cancellation::Cancelled => Ok(Json(CancelledJob {
            status: "cancelled".to_owned(),
            job_id,
        })),
        Cancellation::Ended(state) => Err(ApiError::bad_request(format!(
            "Job {job_id} has already ended: it is {state}"
        ))),
        Cancellation::Unknown => Err(unknown(id)),
        Cancellation::Slow => Err(ApiError::new(
            ErrorCode::Unavailable,
            format!("Job {job_id} was told to stop, and has not ended yet: check its status"),
        )),
    }
}

/// `POST /api/v1/jobs/{id}/retry`
pub(super) async fn retry(
    State(app): State<App>,
    Path(id): Path<String>,
    request: Request<Body>,
) -> Result<Answer<JobAccepted>, ApiError> {
    let subject = Subject::of(request.extensions());
    let key = request::idempotency_key(request.headers())?;
    let traceparent = traces::current_traceparent();
    let retried = app.jobs.retry(job_id(&id)?, key, traceparent);
    let job_id = retried.await.map_err(|error| match error {
        RetryError::Unknown => unknown(&id),
        RetryError::NotFailed(..) | RetryError::QueryNotKept(_) => {
            ApiError::bad_request(error.to_string())
        }
        RetryError::Overtaken { .. } => ApiError::new(ErrorCode::Conflict, error.to_string()),
        RetryError::Source(error) => error.into(),
        RetryError::Submit(error) => error.into(),
        RetryError::Store(error) => error.into(),
    })?;
    subject.made_job(job_id);
    let warnings = Vec::new();
    Ok((StatusCode::ACCEPTED, Json(JobAccepted { job_id, warnings })))
}

pub(super) fn job_id(text: &str) -> Result<JobId, ApiError> {
    // A text that is not an id names no job.
    text.parse().map_err(|_| unknown(text))
}

pub(super) fn unknown(id: &str) -> ApiError {
    let id: String = id.chars().take(64).collect();
    ApiError::new(
        ErrorCode::NotFound,
        format!("There is no job {id}: GET /api/v1/jobs lists them"),
    )
    .phrased(NOT_FOUND)
}
