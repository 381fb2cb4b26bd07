//! Jobs over HTTP.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{Request, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use futures::stream::{self, StreamExt as _};
use lvp_api::{
    CancelledJob, ErrorCode, JobAccepted, JobEvent, JobId, JobList, JobState, JobStatus,
};
use serde::Deserialize;
use tokio_stream::wrappers::WatchStream;

use super::error::ApiError;
use super::{Answer, App, list, request};
use crate::access::Principal;
use crate::access::audit::Subject;
use crate::job::record::Job;
use crate::jobs::Cancellation;
use crate::store::JobFilter;

/// Listed jobs unless `limit` says otherwise.
const LIST_LIMIT: u32 = 100;
/// Listed jobs at most.
const LIST_LIMIT_MAX: u32 = 1000;

/// Silence on an event stream after which a comment is sent, so that proxies keep it open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a listing is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    status: Option<String>,
    limit: Option<u32>,
    offset: Option<u32>,
}

/// `POST /api/v1/jobs`
pub(super) async fn create(
    State(app): State<App>,
    request: Request<Body>,
) -> Result<Answer<JobAccepted>, ApiError> {
    let headers = request.headers().clone();
    let subject = Subject::of(request.extensions());
    let body: lvp_api::ProvisionRequest = request::json(request).await?;
    let correlation_id = body.correlation_id.clone();
    subject.is(format!("volume {}", body.volume_name));
    let new = request::provision(body, &headers, &app.services.source)?;
    let submitted = app.jobs.submit(new).await;
    let job_id = submitted.map_err(|error| ApiError::from(error).correlated(correlation_id))?;
    subject.made_job(job_id);
    Ok((StatusCode::ACCEPTED, Json(JobAccepted { job_id })))
}

/// `GET /api/v1/jobs`
pub(super) async fn list(
    State(app): State<App>,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<JobList>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let state = query
        .status
        .map(|text| text.parse::<JobState>())
        .transpose()
        .map_err(|error| ApiError::bad_request(format!("status: {error}")))?;
    let limit = query.limit.unwrap_or(LIST_LIMIT).min(LIST_LIMIT_MAX);
    let offset = query.offset.unwrap_or(0);
    let _place = app.shared.lists.place().await?;
    let (jobs, total) = app
        .jobs
        .list(JobFilter {
            state,
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
    }))
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

/// `POST /api/v1/jobs/{id}/cancel`
pub(super) async fn cancel(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<CancelledJob>, ApiError> {
    let job_id = job_id(&id)?;
    match app.jobs.cancel(job_id).await? {
        Cancellation::Cancelled => Ok(Json(CancelledJob {
            status: "cancelled".to_owned(),
            job_id,
        })),
        Cancellation::Ended(state) => Err(ApiError::bad_request(format!(
            "Job {job_id} has already ended: it is {state}"
        ))),
        Cancellation::Unknown => Err(unknown(&id)),
        Cancellation::Slow => Err(ApiError::new(
            ErrorCode::Unavailable,
            format!("Job {job_id} was told to stop and has not ended yet: ask for its status"),
        )),
    }
}

/// `GET /api/v1/jobs/{id}/events`
pub(super) async fn events(
    State(app): State<App>,
    caller: Option<Extension<Principal>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let job_id = job_id(&id)?;
    let stream = match app.jobs.watch(job_id) {
        Some(watch) => {
            // The terminal state is the last event; the stream ends with it.
            let mut ended = false;
            let until_end = move |job: &Job| {
                let go_on = !ended;
                ended = job.state.is_terminal();
                std::future::ready(go_on)
            };
            // Whoever is not known is on this host.
            let Extension(caller) = caller.unwrap_or(Extension(Principal::Local));
            let place = app.shared.streams.open(caller).map_err(|refusal| {
                app.load.count_refused(refusal.full);
                ApiError::from(refusal)
            })?;
            WatchStream::new(watch)
                .take_while(until_end)
                .map(move |job| {
                    // It goes when the stream does.
                    let _ = &place;
                    event(&job)
                })
                .boxed()
        }
        None => {
            let job = app.jobs.get(job_id).await?.ok_or_else(|| unknown(&id))?;
            stream::once(async move { event(&job) }).boxed()
        }
    };
    Ok(Sse::new(stream)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response())
}

fn event(job: &Job) -> Result<Event, Infallible> {
    let name = if job.state.is_terminal() {
        JobEvent::End
    } else {
        JobEvent::Progress
    };
    let event = Event::default().event(name.as_str());
    // A status is plain data; there is nothing in it that JSON cannot say.
    Ok(event.json_data(job.status()).unwrap_or_default())
}

fn job_id(text: &str) -> Result<JobId, ApiError> {
    // What is no id names no job.
    text.parse().map_err(|_| unknown(text))
}

fn unknown(id: &str) -> ApiError {
    let id: String = id.chars().take(64).collect();
    ApiError::new(
        ErrorCode::NotFound,
        format!("There is no job {id}: GET /api/v1/jobs lists them"),
    )
}
