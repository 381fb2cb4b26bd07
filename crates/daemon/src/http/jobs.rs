//! Jobs over HTTP.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use futures::stream::{self, StreamExt as _};
use lvp_api::{
    CancelledJob, ErrorCode, JobAccepted, JobEvent, JobId, JobList, JobState, JobStatus,
};
use tokio_stream::wrappers::WatchStream;

use super::error::ApiError;
use super::fields::Fields;
use super::request::Part;
use super::{Answer, App, list, request};
use crate::access::Principal;
use crate::access::audit::Subject;
use crate::job::record::Job;
use crate::jobs::Cancellation;
use crate::store::JobFilter;

/// Silence on an event stream after which a comment is sent, so that proxies keep it open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a listing may be asked for.
const LISTING: &[&str] = &["status", "limit", "offset"];

/// What the Go program's clients know these errors by.
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
    let spec = request::provision(&fields, &headers, &app.jobs.services().source)?;
    let job_id = app.jobs.submit(spec).await.map_err(|error| {
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
    let state = fields
        .text("status")?
        .map(|text| text.parse::<JobState>())
        .transpose()
        .map_err(|error| ApiError::bad_request(format!("status: {error}")))?;
    let Part { limit, offset } = Part::of(&fields)?;
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
        warnings: fields.warnings(),
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
    let cancelled = cancelled(&app, &id).await;
    cancelled.map_err(|error| error.phrased(NOT_CANCELLED))
}

async fn cancelled(app: &App, id: &str) -> Result<Json<CancelledJob>, ApiError> {
    let job_id = job_id(id)?;
    // The cancellation goes on whether or not the client waits for it.
    let jobs = app.jobs.clone();
    let cancelled = tokio::spawn(async move { jobs.cancel(job_id).await });
    let cancelled = cancelled
        .await
        .map_err(|_| ApiError::new(ErrorCode::Internal, "The cancellation crashed: see the log"))?;
    match cancelled? {
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
    .phrased(NOT_FOUND)
}
