//! Event streams: one job's, and all jobs'.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::Stream;
use futures::stream::{self, StreamExt as _};
use lvp_api::{FeedEvent, JobEvent};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

use super::App;
use super::error::ApiError;
use super::jobs::{job_id, unknown};
use super::streams::Stream as Place;
use crate::access::{Access, Principal};
use crate::job::record::Job;
use crate::jobs::Jobs;
use crate::jobs::feed::{Change, Cursor};
use crate::net::Peer;

/// Silence on an event stream after which a comment is sent, so that proxies keep it open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Changes of all jobs are collected for this long, so that a burst of changes wakes each follower once.
const GATHER: Duration = Duration::from_millis(100);

/// `GET /api/v1/jobs/{id}/events`
pub(super) async fn of_job(
    State(app): State<App>,
    caller: Option<Extension<Principal>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let mut credential = Credential::new(&app, headers, peer);
    let job_id = job_id(&id)?;
    let stream = match app.jobs.watch(job_id) {
        Some(watch) => {
            // The terminal state is the last event; the stream ends with it.
            let mut ended = false;
            let until_end = move |job: &Job| {
                let good = credential.as_mut().is_none_or(Credential::is_good);
                let go_on = !ended && good;
                ended = job.state.is_terminal();
                std::future::ready(go_on)
            };
            let place = place(&app, caller)?;
            WatchStream::new(watch)
                .take_while(until_end)
                .map(move |job| {
                    // Released when the stream is dropped.
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
    Ok(answer(stream))
}

/// `GET /api/v1/events`
pub(super) async fn of_all(
    State(app): State<App>,
    caller: Option<Extension<Principal>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let place = place(&app, caller)?;
    let last = headers.get("last-event-id");
    let cursor = last.and_then(|id| id.to_str().ok()?.parse().ok());
    let credential = Credential::new(&app, headers, peer);
    Ok(answer(
        Follower::new(app.jobs, cursor, credential, place).stream(),
    ))
}

/// Counts one more stream of the caller.
fn place(app: &App, caller: Option<Extension<Principal>>) -> Result<Place, ApiError> {
    // Without authentication, all callers are on this host.
    let Extension(caller) = caller.unwrap_or(Extension(Principal::Local));
    app.shared.streams.open(caller).map_err(|refusal| {
        app.load.count_refused(refusal.full);
        ApiError::from(refusal)
    })
}

fn answer(stream: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    Sse::new(stream)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response()
}

fn event(job: &Job) -> Result<Event, Infallible> {
    let name = if job.state.is_terminal() {
        JobEvent::End
    } else {
        JobEvent::Progress
    };
    let event = Event::default().event(name.as_str());
    // A status is plain data, which always serialises.
    Ok(event.json_data(job.status()).unwrap_or_default())
}

/// How long a stream continues before its credential is checked again.
const TRUST: Duration = Duration::from_secs(5);

/// The credential that a stream was requested with: the stream ends when it is no longer valid.
struct Credential {
    access: Arc<Access>,
    headers: HeaderMap,
    peer: Peer,
    looked_at: Instant,
}

impl Credential {
    fn new(app: &App, headers: HeaderMap, peer: Option<Extension<Peer>>) -> Option<Self> {
        let Extension(peer) = peer?;
        Some(Self {
            access: Arc::clone(&app.access),
            headers,
            peer,
            looked_at: Instant::now(),
        })
    }

    /// Whether the credential may still read, according to the files as they were at most [`TRUST`] ago.
    fn is_good(&mut self) -> bool {
        if self.looked_at.elapsed() < TRUST {
            return true;
        }
        self.looked_at = Instant::now();
        self.access.identify(&self.headers, &self.peer).is_ok()
    }
}

/// A client that follows all jobs.
struct Follower {
    jobs: Jobs,
    news: watch::Receiver<u64>,
    /// The last change that it has seen; None before the first.
    cursor: Option<Cursor>,
    /// The changes that it gets next.
    ready: VecDeque<(Cursor, Arc<Change>)>,
    /// None if no credentials are required.
    credential: Option<Credential>,
    _place: Place,
}

impl Follower {
    fn new(
        jobs: Jobs,
        cursor: Option<Cursor>,
        credential: Option<Credential>,
        place: Place,
    ) -> Self {
        let mut news = jobs.feed().news();
        // So that it first asks for what it missed before it connected.
        news.mark_changed();
        Self {
            jobs,
            news,
            cursor,
            ready: VecDeque::new(),
            credential,
            _place: place,
        }
    }

    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, async |mut follower| {
            let event = follower.next().await?;
            Some((Ok(event), follower))
        })
    }

    /// The next event; None when the daemon stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if self
                .credential
                .as_mut()
                .is_some_and(|credential| !credential.is_good())
            {
                return None;
            }
            if let Some((cursor, change)) = self.ready.pop_front() {
                self.cursor = Some(cursor);
                return Some(feed_event(FeedEvent::Job, cursor, &change.json()));
            }
            let feed = self.jobs.feed();
            let changes = self.cursor.and_then(|cursor| feed.since(cursor));
            let Some(changes) = changes else {
                let now = feed.now();
                self.cursor = Some(now);
                return Some(feed_event(FeedEvent::Reset, now, b"{}"));
            };
            if changes.is_empty() {
                self.news.changed().await.ok()?;
                if *self.news.borrow_and_update() == u64::MAX {
                    return None;
                }
                tokio::time::sleep(GATHER).await;
            }
            self.ready = changes.into();
        }
    }
}

fn feed_event(name: FeedEvent, cursor: Cursor, json: &[u8]) -> Event {
    Event::default()
        .event(name.as_str())
        .id(cursor.to_string())
        // JSON is UTF-8.
        .data(String::from_utf8_lossy(json))
}
