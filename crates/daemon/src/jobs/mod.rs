//! Jobs: accepted durably, run a few at a time, taken up again after a crash.
//!
//! ```text
//!  submit --(one transaction)--> pending --(slot)--> running --> completed
//!                                   |                   |------> failed
//!                                   '----- cancel ------+------> cancelled
//!             start of the daemon:  running (left by a crash or a shutdown) -> runs again
//! ```
//!
//! - Invariant: a job's state is changed by its own task alone ([`Jobs::drive`]); everybody else
//!   asks by [`Stop`](crate::job::stop::Stop). That a client goes away changes nothing.
//! - Invariant: a state is in the database before anybody is told of it.
//! - Invariant: a job that comes from the database writes its volume only where the volume's own
//!   record says that it may ([`standing`]).
//! - Invariant: nothing runs twice at once: one task per job, one unfinished job per volume
//!   (a unique index), one flight per object.
//!
//! Slots are a fair semaphore, so jobs start in the order of their acceptance. A task that waits for
//! a slot costs a few hundred bytes; `jobs.queue_limit` bounds their number.

mod failure;
pub mod feed;
pub mod former;
pub mod live;
mod reconcile;
pub mod retry;
mod settings;
mod standing;
mod steps;
mod undo;
mod waiting;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use lvp_api::{ErrorCode, JobId, JobState};
use lvp_image::copy::{Engine, TailPolicy};
use tokio::sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

use crate::cache::Cache;
use crate::clock;
use crate::delivery::webhooks::Webhooks;
use crate::delivery::{Delivery, Observer as _};
use crate::error::chain;
use crate::job::admission::{self, Decision, Refusal};
use crate::job::error::JobError;
use crate::job::kind::JobErrorKind;
use crate::job::record::{Job, JobSpec};
use crate::job::stop::StopReason;
use crate::libvirt::Hypervisor;
use crate::source::Source;
use crate::store::{JobFilter, Store, StoreError};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces;
use crate::volume::{VolumeState, Volumes};
use feed::Feed;
use live::Live;
pub use reconcile::Reconciled;

/// How often a running job's counters are shown on its record.
pub(crate) const SAMPLE_INTERVAL: Duration = Duration::from_millis(200);

/// A job that was started so often without reaching an end is given up: something about it brings
/// the daemon down.
const MAX_ATTEMPTS: u32 = 5;

/// How long a cancellation waits for the job to end; it is within a second unless a device hangs.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits between attempts to write a job's end to a database that cannot be written.
const SAVE_BACKOFF: Duration = Duration::from_secs(2);

/// What jobs need to know of the configuration.
#[derive(Debug, Clone)]
pub struct JobSettings {
    /// Jobs at once.
    pub max_concurrent: usize,
    /// Most waiting jobs.
    pub queue_limit: usize,
    /// Longest run of a job.
    pub timeout: Duration,
    /// How long ended jobs stay readable.
    pub retention: Duration,
    /// Refuse images without a sidecar.
    pub require_checksum: bool,
    /// What becomes of older data behind the image's end.
    pub tail: TailPolicy,
    /// Whether volumes that nobody marked are taken over without the request saying so.
    pub adopt_untagged: bool,
    /// Limit of one job's writes.
    pub max_write_bytes_per_sec: Option<std::num::NonZeroU64>,
}

/// What jobs work with.
#[derive(Debug)]
pub struct Services {
    /// Where images come from.
    pub source: Source,
    /// Where they are kept.
    pub cache: Cache,
    /// Where they are put.
    pub volumes: Arc<dyn Volumes>,
    /// What all copies share.
    pub engine: Engine,
    /// libvirt, where it is used.
    pub hypervisor: Option<Arc<dyn Hypervisor>>,
    /// Where intent and results are.
    pub store: Store,
    /// Told of everything that happens.
    pub metrics: Arc<Metrics>,
    /// Who is told of jobs' ends.
    pub webhooks: Option<Arc<Webhooks>>,
    /// Rung when a job failed for want of a dependency, so that the dependencies are probed at once.
    pub doubt: Arc<Notify>,
    /// The rules.
    pub settings: JobSettings,
}

impl Services {
    /// Brings the cache's gauges up to date.
    pub async fn measure_cache(&self) {
        match (self.cache.usage().await, self.cache.free_bytes()) {
            (Ok(usage), Ok(free_bytes)) => {
                let (size_bytes, images) = (usage.size_bytes, usage.images);
                self.metrics.cache_measured(size_bytes, images, free_bytes);
            }
            (Err(error), _) | (_, Err(error)) => {
                let error = chain(&error);
                tracing::warn!(component = "cache", error, "The cache cannot be measured");
            }
        }
    }
}

/// Why a job was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The request cannot be a job now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The daemon is stopping.
    #[error("The daemon is stopping: send the request again when it is back")]
    Stopping,
    /// The job could not be made durable.
    #[error("The job could not be recorded")]
    Store(#[from] StoreError),
    /// A fault of the daemon.
    #[error("The request crashed; see the log")]
    Internal,
}

/// What became of a wish to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancellation {
    /// The job is cancelled.
    Cancelled,
    /// It had ended before, so.
    Ended(JobState),
    /// There is no such job.
    Unknown,
    /// It was told to stop and has not ended in time.
    Slow,
}

/// All jobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Jobs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    services: Services,
    live: Mutex<HashMap<JobId, Arc<Live>>>,
    feed: Arc<Feed>,
    slots: Arc<Semaphore>,
    active: AtomicUsize,
    /// Completed jobs whose volumes are known to be gone, so that each is logged once.
    missing: Mutex<HashSet<JobId>>,
    tasks: TaskTracker,
    stopping: AtomicBool,
}

impl Jobs {
    /// No job runs before [`Jobs::resume`].
    pub fn new(services: Services) -> Self {
        let slots = Arc::new(Semaphore::new(services.settings.max_concurrent));
        Self(Arc::new(Inner {
            services,
            live: Mutex::default(),
            feed: Arc::default(),
            slots,
            active: AtomicUsize::new(0),
            missing: Mutex::default(),
            tasks: TaskTracker::new(),
            stopping: AtomicBool::new(false),
        }))
    }

    /// What jobs work with.
    pub fn services(&self) -> &Services {
        &self.0.services
    }

    /// Takes up the jobs that had not ended when the daemon did; returns how many.
    pub async fn resume(&self) -> Result<usize, StoreError> {
        let jobs = self.0.services.store.unfinished_jobs().await?;
        let count = jobs.len();
        for job in jobs {
            self.spawn(job, true);
        }
        Ok(count)
    }

    /// Makes a request a job. It happens whole or not at all, whether or not the caller waits.
    pub async fn submit(&self, spec: JobSpec) -> Result<JobId, SubmitError> {
        if self.0.stopping.load(Ordering::Acquire) {
            return Err(SubmitError::Stopping);
        }
        let jobs = self.clone();
        let admitted = tokio::spawn(async move {
            let job = Job::new(JobId::random(), spec, clock::now_text());
            let queue_limit = jobs.0.services.settings.queue_limit;
            let decision = jobs
                .0
                .services
                .store
                .admit(job.clone(), move |around, job| {
                    let decision = admission::decide(around, job, queue_limit);
                    (decision == Decision::Accept, decision)
                })
                .await?;
            match decision {
                Decision::Accept => {
                    let id = job.id;
                    jobs.spawn(job, false);
                    Ok(id)
                }
                Decision::AlreadyDone(id) => Ok(id),
                Decision::Refused(refusal) => Err(SubmitError::Refused(refusal)),
            }
        });
        admitted.await.unwrap_or(Err(SubmitError::Internal))
    }

    /// One job, as it is now.
    pub async fn get(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        if let Some(live) = self.find(id) {
            return Ok(Some(live.job()));
        }
        self.0.services.store.job(id).await
    }

    /// Jobs, newest first, and how many match in all.
    pub async fn list(&self, filter: JobFilter) -> Result<(Vec<Job>, u64), StoreError> {
        let (mut jobs, total) = self.0.services.store.jobs(filter).await?;
        for job in &mut jobs {
            // The record of a running job is fresher than its row.
            if let Some(live) = self.find(job.id).map(|live| live.job())
                && live.state == job.state
            {
                *job = live;
            }
        }
        Ok((jobs, total))
    }

    /// Follows a job that has not ended.
    pub fn watch(&self, id: JobId) -> Option<watch::Receiver<Job>> {
        self.find(id).map(|live| live.watch())
    }

    /// What changes about all jobs.
    pub fn feed(&self) -> &Feed {
        &self.0.feed
    }

    /// Stops a job and waits until it has ended and what it did is undone.
    pub async fn cancel(&self, id: JobId) -> Result<Cancellation, StoreError> {
        let Some(live) = self.find(id) else {
            let job = self.0.services.store.job(id).await?;
            return Ok(job.map_or(Cancellation::Unknown, |job| Cancellation::Ended(job.state)));
        };
        let mut record = live.watch();
        live.stop.stop(StopReason::Cancelled);
        let ended = record.wait_for(|job| job.state.is_terminal());
        match tokio::time::timeout(CANCEL_TIMEOUT, ended).await {
            Ok(Ok(job)) if job.state == JobState::Cancelled => Ok(Cancellation::Cancelled),
            Ok(Ok(job)) => Ok(Cancellation::Ended(job.state)),
            Ok(Err(_)) | Err(_) => Ok(Cancellation::Slow),
        }
    }

    /// How many jobs run now.
    pub fn active(&self) -> usize {
        self.0.active.load(Ordering::Acquire)
    }

    /// Whether every slot is taken.
    pub fn at_capacity(&self) -> bool {
        self.active() >= self.0.services.settings.max_concurrent
    }

    /// Whether the daemon takes no further job.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Acquire)
    }

    /// Forgets jobs that ended longer ago than `jobs.retention`, but for those that volumes name;
    /// returns how many.
    pub async fn forget_old(&self) -> Result<usize, JobError> {
        let services = &self.0.services;
        let oldest = clock::text(clock::now() - services.settings.retention);
        // What volumes name is what unfinished jobs are compared with after a restart.
        let volumes = services.volumes.list().await?;
        let named = volumes.iter().flat_map(|volume| match volume.state {
            VolumeState::Ready { job, .. } => [job, volume.last_ended],
            _ => [None, volume.last_ended],
        });
        let named = named.flatten().collect();
        Ok(services.store.forget_jobs_before(oldest, named).await?)
    }

    /// Takes no further job, waits for the running ones, and after `grace` leaves the rest to the
    /// next start.
    pub async fn shut_down(&self, grace: Duration) {
        self.0.stopping.store(true, Ordering::Release);
        self.0.tasks.close();
        // Those who follow it would hold up the end of their connections.
        self.0.feed.close();
        // Waiting jobs do not begin any more: they stay pending.
        self.0.slots.close();
        if tokio::time::timeout(grace, self.0.tasks.wait())
            .await
            .is_err()
        {
            for live in self.lock().values() {
                live.stop.stop(StopReason::Shutdown);
            }
            if tokio::time::timeout(CANCEL_TIMEOUT, self.0.tasks.wait())
                .await
                .is_err()
            {
                tracing::warn!(
                    component = "provisioner",
                    "Some jobs did not stop in time; they go on at the next start"
                );
            }
        }
    }

    fn find(&self, id: JobId) -> Option<Arc<Live>> {
        self.lock().get(&id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Live>>> {
        // A map of pointers that no panic can leave half-changed.
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, job: Job, taken_up: bool) {
        let live = Arc::new(Live::new(job, taken_up, Arc::clone(&self.0.feed)));
        self.lock().insert(live.id, Arc::clone(&live));
        self.0.services.metrics.job_queued();
        // The first look takes the place in the semaphore's queue. It is taken here: tasks begin in any
        // order.
        let mut turn = Box::pin(Arc::clone(&self.0.slots).acquire_owned());
        let first = turn.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let turn = async move {
            match first {
                Poll::Ready(slot) => slot,
                Poll::Pending => turn.await,
            }
        };
        let jobs = self.clone();
        self.0
            .tasks
            .spawn(async move { jobs.drive(live, turn).await });
    }

    /// A job's whole life after its acceptance; the only place that changes its state.
    async fn drive(
        &self,
        live: Arc<Live>,
        turn: impl Future<Output = Result<OwnedSemaphorePermit, AcquireError>>,
    ) {
        let metrics = &self.0.services.metrics;
        let accepted = Instant::now();
        let slot = tokio::select! {
            biased;
            reason = live.stop.stopped() => Err(JobError::stopped(reason)),
            slot = turn => slot.map_err(|_| JobError::stopped(StopReason::Shutdown)),
        };
        metrics.job_left_queue(accepted.elapsed());
        // A job that never runs has none.
        let mut span = Span::none();
        let (ended, ran) = match slot {
            Err(error) => (Err(error), None),
            Ok(_slot) => {
                let started = Instant::now();
                self.0.active.fetch_add(1, Ordering::AcqRel);
                metrics.job_started(live.id);
                span = job_span(&live);
                let ended = self.run(&live).instrument(span.clone()).await;
                metrics.job_stopped(live.id, live.meter.moved());
                self.0.active.fetch_sub(1, Ordering::AcqRel);
                (ended, Some(started.elapsed()))
            }
        };
        let left_for_next_start = live.stop.reason() == Some(StopReason::Shutdown)
            || matches!(&ended, Err(error) if error.stop_reason() == Some(StopReason::Shutdown));
        let ended = match ended {
            Err(error) if !left_for_next_start => {
                self.undo(&live, error).instrument(span.clone()).await
            }
            ended => ended,
        };
        self.end(&live, ended, ran).instrument(span).await;
        self.lock().remove(&live.id);
    }

    async fn run(&self, live: &Arc<Live>) -> Result<(), JobError> {
        // Before anything that may fail: what is done needs neither the image nor another attempt.
        if self.has_finished(live).await {
            return Ok(());
        }
        let mut job = live.job();
        if job.attempts >= MAX_ATTEMPTS {
            return Err(JobError::new(
                JobErrorKind::Attempts,
                format!(
                    "The job was started {MAX_ATTEMPTS} times and the daemon ended each time before \
                     it did: see the daemon's log for the reason, then send the request again"
                ),
            ));
        }
        job.state = JobState::Running;
        job.attempts += 1;
        job.updated_at = clock::now_text();
        job.started_at.get_or_insert_with(clock::now_text);
        self.save_start(live, &job).await?;
        live.update(|record| {
            job.notes.clone_from(&record.notes);
            *record = job;
        });
        let resumed = live.job().attempts > 1;
        tracing::info!(
            component = "provisioner", job_id = %live.id,
            correlation_id = live.spec().correlation_id.as_deref(),
            image_url = %live.spec().image_url,
            volume = live.spec().volume.as_ref().map(|volume| volume.name.as_str()),
            resumed, "Job started"
        );
        let work = {
            let (jobs, live) = (self.clone(), Arc::clone(live));
            // A task of its own: a panic in a step ends the job, not its bookkeeping.
            let steps = async move { steps::run(&jobs.0.services, &live).await };
            tokio::spawn(steps.in_current_span())
        };
        let deadline = tokio::time::sleep(self.0.services.settings.timeout);
        let mut tick = tokio::time::interval(SAMPLE_INTERVAL);
        tokio::pin!(work, deadline);
        loop {
            tokio::select! {
                ended = &mut work => {
                    return ended.unwrap_or_else(|error| {
                        let what = "The job crashed; see the log";
                        Err(JobError::new(JobErrorKind::Internal, what).because(error))
                    });
                }
                () = &mut deadline, if live.stop.reason().is_none() => {
                    live.stop.stop(StopReason::TimedOut);
                }
                _ = tick.tick() => {
                    live.sample();
                    self.0.services.metrics.job_moved(live.id, live.meter.moved());
                }
            }
        }
    }

    /// Records that a job runs, once the database can be written.
    async fn save_start(&self, live: &Live, job: &Job) -> Result<(), JobError> {
        let services = &self.0.services;
        loop {
            match services.store.update_job(job.clone()).await {
                Err(error) if error.may_heal() => {
                    waiting::until_healed(services, live, &error.into()).await?;
                }
                saved => return Ok(saved?),
            }
        }
    }

    /// Records how a job ended, then tells everybody.
    async fn end(&self, live: &Live, ended: Result<(), JobError>, ran: Option<Duration>) {
        let stopped = live.stop.reason();
        let mut job = live.job();
        let was_running = job.state == JobState::Running;
        job.state = match &ended {
            Ok(()) => JobState::Completed,
            Err(error) => match error.stop_reason().or(stopped) {
                Some(StopReason::Shutdown) => {
                    tracing::info!(
                        component = "provisioner", job_id = %live.id,
                        "Job left for the next start"
                    );
                    return;
                }
                Some(StopReason::Cancelled) => JobState::Cancelled,
                Some(StopReason::TimedOut) | None => JobState::Failed,
            },
        };
        if let Err(error) = &ended
            && job.state == JobState::Failed
        {
            let error = match stopped {
                // What the stop broke is not why the job failed.
                Some(reason) => &JobError::stopped(reason),
                None => error,
            };
            let failure = error.failure();
            self.0.services.metrics.job_failed(error.kind());
            if failure.code == ErrorCode::Unavailable.status() {
                self.0.services.doubt.notify_one();
            }
            job.failure = Some(failure);
        }
        if was_running || ended.is_ok() {
            job.progress = Some(live.meter.final_progress(job.state == JobState::Completed));
        }
        let now = clock::now_text();
        job.updated_at.clone_from(&now);
        job.finished_at = Some(now);
        self.save_end(&job).await;
        self.0.services.metrics.job_ended(job.state, ran);
        describe(&Span::current(), &job, live);
        self.log_end(&job);
        live.end(job);
    }

    /// Writes a job's end to the database, again and again while it cannot be written: a result
    /// that is not recorded would be worked for a second time.
    async fn save_end(&self, job: &Job) {
        let Services {
            store,
            webhooks,
            metrics,
            ..
        } = &self.0.services;
        let events = webhooks.as_ref().map(|webhooks| webhooks.events(job));
        let events = events.unwrap_or_default();
        loop {
            match store.end_job(job.clone(), events.clone()).await {
                Ok(dropped) => {
                    metrics.deliveries(Delivery::Dropped, dropped);
                    return webhooks.iter().for_each(|webhooks| webhooks.ring());
                }
                Err(StoreError::Closed) => return,
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(
                        component = "storage", job_id = %job.id, error,
                        "A job's end cannot be recorded; trying again"
                    );
                    self.0.services.doubt.notify_one();
                    if self.0.stopping.load(Ordering::Acquire) {
                        return;
                    }
                    tokio::time::sleep(SAVE_BACKOFF).await;
                }
            }
        }
    }

    fn log_end(&self, job: &Job) {
        let correlation_id = job.spec.correlation_id.as_deref();
        match &job.failure {
            Some(failure) => tracing::error!(
                component = "provisioner", job_id = %job.id, correlation_id,
                error_type = failure.error_type, error = failure.message,
                "Job failed"
            ),
            None => tracing::info!(
                component = "provisioner", job_id = %job.id, correlation_id,
                cache_hit = job.cache_hit, volume_path = job.volume_path,
                "Job {}", job.state
            ),
        }
    }
}

/// The span of a job's run, below the request that made the job.
fn job_span(live: &Live) -> Span {
    let spec = live.spec();
    let url = &spec.image_url;
    let name = match &spec.volume {
        Some(_) => "runJob",
        None => "runCacheJob",
    };
    let span = tracing::error_span!(
        target: traces::TARGET, "job", otel.name = name, job_id = %live.id,
        correlation_id = spec.correlation_id.as_deref(), image_url = %url,
        volume = spec.volume.as_ref().map(|volume| volume.name.as_str()),
    );
    traces::continue_from(&span, spec.traceparent.as_deref());
    span
}

/// Says on a job's span how it ended.
fn describe(span: &Span, job: &Job, live: &Live) {
    use traces::{attribute, number};
    let moved = live.meter.moved();
    let retries = live.meter.retries.load(Ordering::Relaxed);
    attribute(span, "retries", Some(number(retries)));
    attribute(span, "job.status", Some(job.state.as_str()));
    attribute(span, "job.attempts", Some(i64::from(job.attempts)));
    attribute(span, "cache.hit", job.cache_hit);
    attribute(span, "volume.path", job.volume_path.clone());
    for (name, bytes) in [
        ("bytes.read", moved.fetched_bytes),
        ("bytes.written", moved.written_bytes),
        ("bytes.zeroed", moved.zeroed_bytes),
    ] {
        attribute(span, name, Some(number(bytes)));
    }
    if let Some(failure) = &job.failure {
        traces::failed(span, failure.error_type.clone(), failure.message.clone());
    }
}
