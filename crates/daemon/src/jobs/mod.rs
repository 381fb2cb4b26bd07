//! Jobs: accepted durably, run a few at a time, taken up again after a crash.
//!
//! What a job is, its states and the commands that it takes stand in [`job`](crate::job). Here is what does the
//! work: `drive` takes one job from its acceptance to its end, `steps` is the way of its bytes, `undo` takes back
//! what a job that failed did, `standing` and `reconcile` settle what jobs and volumes say of each other.
//!
//! - Invariant: a job's state is changed by its own task alone (`drive`); everybody else
//!   asks by [`Stop`](crate::job::stop::Stop). That a client goes away changes nothing.
//! - Invariant: a state is in the database before anybody is told of it.
//! - Invariant: a job that comes from the database writes its volume only where the volume's own
//!   record says that it may ([`standing`]).
//! - Invariant: nothing runs twice at once: one task per job, one unfinished job per volume
//!   (a unique index), one flight per object.
//!
//! Slots are a fair semaphore, so jobs start in the order of their acceptance. A task that waits for
//! a slot costs a few hundred bytes; `jobs.queue_limit` bounds their number.

mod drive;
mod failure;
pub mod feed;
pub mod former;
pub mod live;
pub mod plan;
mod reconcile;
pub mod retry;
mod services;
mod settings;
mod spans;
mod standing;
mod steps;
mod undo;
mod waiting;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lvp_api::{JobId, JobState, VolumeKind};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::error::chain;
use crate::job::admission::{self, Decision, Refusal};
use crate::job::error::JobError;
use crate::job::record::{Job, NewJob};
use crate::job::stop::StopReason;
use crate::store::{JobFilter, StoreError};
use crate::volume::VolumeState;
use feed::Feed;
use live::{Live, Origin};
pub use reconcile::Reconciled;
pub use services::Services;
pub use settings::JobSettings;

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
    services: Arc<Services>,
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
    pub fn new(services: Arc<Services>) -> Self {
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

    /// Takes up the jobs that had not ended when the daemon did; returns how many.
    pub async fn resume(&self) -> Result<usize, StoreError> {
        let jobs = self.0.services.store.unfinished_jobs().await?;
        let count = jobs.len();
        for job in jobs {
            self.spawn(job, Origin::Database);
        }
        Ok(count)
    }

    /// Makes a request a job. It happens whole or not at all, whether or not the caller waits.
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
            let no_room = jobs.has_no_room(&job).await;
            let decision = store.admit(job.clone(), move |around, job| {
                let decision = admission::decide(around, job, queue_limit, no_room);
                (decision == Decision::Accept, decision)
            });
            match decision.await? {
                Decision::Accept => {
                    let id = job.id;
                    jobs.spawn(job, Origin::Request(location));
                    Ok(id)
                }
                Decision::AlreadyDone(id) => Ok(id),
                Decision::Refused(refusal) => Err(SubmitError::Refused(refusal)),
            }
        });
        admitted.await.unwrap_or(Err(SubmitError::Internal))
    }

    /// Why a job's volume has no room in the pool that volumes share, by the last look: told to who asks, rather
    /// than to a job that would fail by it. A volume with room of its own needs none.
    async fn has_no_room(&self, job: &Job) -> Option<String> {
        let volumes = &self.services().volumes;
        let error = volumes.has_room().err()?;
        let has_its_own = match job.spec.work.volume() {
            // What cannot be looked at shows in the job.
            Some(request) => match volumes.lookup(&request.name).await {
                Ok(found) => found.is_some_and(|found| found.kind == Some(VolumeKind::Linear)),
                Err(_) => true,
            },
            // Golden volumes are dropped for others, and made again.
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

    fn spawn(&self, job: Job, origin: Origin) {
        let live = Arc::new(Live::new(job, origin, Arc::clone(&self.0.feed)));
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
}
