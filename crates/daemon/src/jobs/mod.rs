//! Jobs: accepted durably, run a few at a time, resumed after a crash.
//!
//! What a job is, its states and its commands are described in [`job`](crate::job). This module does the work:
//! `drive` takes one job from its acceptance to its end, `steps` moves its bytes, `undo` reverts what a failed
//! job did, `standing` and `reconcile` resolve disagreements between the database and the volumes.
//!
//! - Invariant: only a job's own task changes its state (`drive`); everything else requests a stop through
//!   [`Stop`](crate::job::stop::Stop). A client that disconnects changes nothing.
//! - Invariant: a state is in the database before anybody is told about it.
//! - Invariant: a job that comes from the database writes its volume only where the volume's own
//!   record says that it may ([`standing`]).
//! - Invariant: nothing runs twice at once: one task per job, one unfinished job per volume
//!   (a unique index), one flight per object.
//!
//! Which jobs run now is decided in [`slots`]: by priority, and within a priority in the order of acceptance. A task that
//! waits for a slot costs a few hundred bytes; `jobs.queue_limit` bounds their number.

mod course;
mod drive;
mod failure;
pub mod feed;
pub mod former;
pub mod gates;
mod held;
pub mod live;
mod paused;
pub mod plan;
pub mod rates;
mod reconcile;
pub mod retry;
mod room;
mod services;
mod settings;
mod slots;
mod spans;
mod standing;
mod steps;
mod undo;
mod waiting;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lvp_api::{JobId, JobState, Priority, VolumeKind};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::error::chain;
use crate::job::admission::{self, Decision, Refusal};
use crate::job::error::JobError;
use crate::job::record::{Course, Job, NewJob};
use crate::job::stop::StopReason;
use crate::store::{JobFilter, StoreError};
use crate::volume::VolumeState;
use feed::Feed;
use live::{Live, Origin};
pub use reconcile::Reconciled;
pub use services::Services;
pub use settings::JobSettings;
use slots::{Slots, Ticket};

/// How often a running job's counters are shown on its record.
pub(crate) const SAMPLE_INTERVAL: Duration = Duration::from_millis(200);

/// How long a cancellation waits for the job to end; it is within a second unless a device hangs.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// A bug in the daemon.
    #[error("The request crashed; see the log")]
    Internal,
}

/// The result of a request to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancellation {
    /// The job is cancelled.
    Cancelled,
    /// It had already ended, in this state.
    Ended(JobState),
    /// There is no such job.
    Unknown,
    /// It was told to stop, and did not end in time.
    Slow,
}

/// All jobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Jobs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    services: Arc<Services>,
    live: Mutex<HashMap<JobId, Arc<Live>>>,
    feed: Arc<Feed>,
    slots: Arc<Slots>,
    active: AtomicUsize,
    waiting_for_room: AtomicUsize,
    /// Completed jobs whose volumes are known to be gone, so that each is logged once.
    missing: Mutex<HashSet<JobId>>,
    tasks: TaskTracker,
    stopping: AtomicBool,
}

impl Jobs {
    /// Jobs that the database already has do not run before [`Jobs::resume`].
    pub fn new(services: Arc<Services>) -> Self {
        let slots = Slots::new(services.settings.max_concurrent);
        Self(Arc::new(Inner {
            services,
            live: Mutex::default(),
            feed: Arc::default(),
            slots,
            active: AtomicUsize::new(0),
            waiting_for_room: AtomicUsize::new(0),
            missing: Mutex::default(),
            tasks: TaskTracker::new(),
            stopping: AtomicBool::new(false),
        }))
    }

    /// Resumes the jobs that had not ended when the daemon did; returns how many.
    pub async fn resume(&self) -> Result<usize, StoreError> {
        let mut jobs = self.0.services.store.unfinished_jobs().await?;
        // A less urgent one would begin only to be paused at once.
        jobs.sort_by_key(|job| Reverse(job.spec.priority));
        let count = jobs.len();
        for mut job in jobs {
            let key = job.spec.idempotency_key.as_deref();
            if job.state == JobState::Running && !self.0.services.gates.is_open(key) {
                // It does not go on before its gate is opened.
                job.state = JobState::Pending;
                self.0.services.store.update_job(job.clone()).await?;
            }
            let course = self.0.services.store.course(job.id).await?;
            self.spawn(job, Origin::Database, course);
        }
        Ok(count)
    }

    /// Makes a request a job. It is done completely or not at all, whether or not the caller waits.
    pub async fn submit(&self, new: NewJob) -> Result<JobId, SubmitError> {
        if self.0.stopping.load(Ordering::Acquire) {
            return Err(SubmitError::Stopping);
        }
        let jobs = self.clone();
        let admitted = tokio::spawn(async move {
            let NewJob { spec, location } = new;
            let job = Job::new(JobId::random(), spec, clock::now_text());
            let queue_limit = jobs.services().settings.queue_limit;
            let store = &jobs.services().store;
            let no_room = match job.spec.work.volume().and_then(|volume| volume.room_wait) {
                Some(_) => None,
                None => jobs.has_no_room(&job).await,
            };
            let queue_limit = queue_limit.saturating_sub(jobs.waiting_for_room());
            let decision = store.admit(job.clone(), move |around, job| {
                let decision = admission::decide(around, job, queue_limit, no_room);
                (decision == Decision::Accept, decision)
            });
            match decision.await? {
                Decision::Accept => {
                    let id = job.id;
                    jobs.spawn(job, Origin::Request(location), Course::default());
                    Ok(id)
                }
                Decision::AlreadyDone(id) => Ok(id),
                Decision::Refused(refusal) => Err(SubmitError::Refused(refusal)),
            }
        });
        admitted.await.unwrap_or(Err(SubmitError::Internal))
    }

    /// Why a job's volume has no room in the pool that volumes share, as of the last look, so that the request
    /// is refused instead of the job failing later. A volume with extents of its own needs no room there.
    async fn has_no_room(&self, job: &Job) -> Option<String> {
        let volumes = &self.services().volumes;
        let error = volumes.has_room().err()?;
        let has_its_own = match job.spec.work.volume() {
            // If the lookup fails, the job will report why.
            Some(request) => match volumes.lookup(&request.name).await {
                Ok(found) => found.is_some_and(|found| found.kind == Some(VolumeKind::Linear)),
                Err(_) => true,
            },
            // Golden volumes are removed to make room, and made again.
            None => true,
        };
        (!has_its_own).then(|| chain(&error))
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

    /// A receiver of the changes of a job that has not ended.
    pub fn watch(&self, id: JobId) -> Option<watch::Receiver<Job>> {
        self.find(id).map(|live| live.watch())
    }

    /// The changes of all jobs.
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

    /// How many waiting jobs would begin before a new one of this priority.
    pub fn ahead(&self, priority: Priority) -> usize {
        self.0.slots.ahead(priority)
    }

    /// Whether every slot is taken.
    pub fn at_capacity(&self) -> bool {
        self.active() >= self.0.services.settings.max_concurrent
    }

    /// Whether the daemon is stopping and accepts no more jobs.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Acquire)
    }

    /// Forgets jobs that ended longer ago than `jobs.retention`, except those that volumes name; returns how
    /// many.
    pub async fn forget_old(&self) -> Result<usize, JobError> {
        let services = &self.0.services;
        let oldest = clock::text(clock::now() - services.settings.retention);
        // After a restart, unfinished jobs are compared with the jobs that volumes name.
        let volumes = services.volumes.list().await?;
        let named = volumes.iter().flat_map(|volume| match volume.state {
            VolumeState::Ready { job, .. } => [job, volume.last_ended],
            _ => [None, volume.last_ended],
        });
        let named = named.flatten().collect();
        Ok(services.store.forget_jobs_before(oldest, named).await?)
    }

    /// Accepts no more jobs, waits for the running ones, and after `grace` leaves the rest to the next start.
    pub async fn shut_down(&self, grace: Duration) {
        self.0.stopping.store(true, Ordering::Release);
        self.0.tasks.close();
        // Open event streams would delay the end of their connections.
        self.0.feed.close();
        // Waiting jobs no longer start: they stay pending.
        self.0.slots.close();
        self.0.services.gates.end();
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
                    "Some jobs did not stop in time; they continue at the next start"
                );
            }
        }
    }

    fn services(&self) -> &Services {
        &self.0.services
    }

    fn find(&self, id: JobId) -> Option<Arc<Live>> {
        self.lock().get(&id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Live>>> {
        // A map of pointers that no panic can leave half-changed.
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, job: Job, origin: Origin, course: Course) {
        let feed = Arc::clone(&self.0.feed);
        let live = Arc::new(Live::new(job, origin, course, self.services(), feed));
        self.lock().insert(live.id, Arc::clone(&live));
        self.0.services.metrics.job_queued();
        // Here, as tasks start in any order. A job behind a closed gate takes no place before that is opened.
        let key = live.spec().idempotency_key.as_deref();
        let may_run = self.0.services.gates.is_open(key);
        let ticket = may_run.then(|| self.ask_for_slot(&live));
        let jobs = self.clone();
        self.0
            .tasks
            .spawn(async move { jobs.drive(live, ticket).await });
    }

    /// Takes a place in the queue.
    fn ask_for_slot(&self, live: &Live) -> Ticket {
        let pause = Arc::clone(&live.meter.pause);
        self.0.slots.ask(live.spec().priority, pause)
    }
}
