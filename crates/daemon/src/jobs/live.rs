//! A job that has not ended: its record, its counters, and how it is stopped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lvp_api::JobId;
use tokio::sync::watch;

use super::Services;
use super::feed::Feed;
use crate::clock;
use crate::job::error::JobError;
use crate::job::kind::JobErrorKind;
use crate::job::log::Log;
use crate::job::meter::Meter;
use crate::job::record::{Course, Job, JobSpec, TrailRecord};
use crate::job::stop::Stop;
use crate::job::waits::Waits;
use crate::source::{ImageUrl, Source};
use crate::store::Measurement;
use crate::volume::{Volume, VolumeState};

/// Where a job comes from.
#[derive(Debug)]
pub(super) enum Origin {
    /// A request to this process, for which the image's URL, if there is one, was already resolved.
    Request(Option<ImageUrl>),
    /// The database: it was accepted before a restart.
    Database,
}

/// A job that has not ended. The record is watched by whoever wants to know; only the job's own
/// task changes it.
#[derive(Debug)]
pub struct Live {
    /// The job's id.
    pub id: JobId,
    /// Its counters.
    pub meter: Arc<Meter>,
    /// What it waits for.
    pub waits: Arc<Waits>,
    /// What is logged about it.
    pub log: Arc<Log>,
    /// Stops it.
    pub stop: Stop,
    origin: Origin,
    spec: JobSpec,
    touched_volume: AtomicBool,
    /// The volume as this run of the job found it.
    found: OnceLock<Volume>,
    wrote_volume: AtomicBool,
    /// Whether this run of the job counts as an attempt now.
    counts: Arc<AtomicBool>,
    /// How long its stages took, until its end is recorded.
    measured: Mutex<Vec<Measurement>>,
    record: watch::Sender<Job>,
    /// Told of every change of the record.
    feed: Arc<Feed>,
}

impl Live {
    pub(super) fn new(
        job: Job,
        origin: Origin,
        course: Course,
        services: &Services,
        feed: Arc<Feed>,
    ) -> Self {
        feed.changed(&job);
        let age = clock::parsed(&job.created_at).map(|accepted| clock::now() - accepted);
        let age_sec = age.map_or(0.0, time::SignedDuration::as_seconds_f64);
        let meter = Arc::new(Meter::continued(course.trail, age_sec, job.requests));
        Self {
            id: job.id,
            waits: Arc::new(Waits::new(job.id, Arc::clone(&meter))),
            log: services.logs.open(job.id, course.log),
            meter,
            stop: Stop::default(),
            origin,
            spec: job.spec.clone(),
            touched_volume: AtomicBool::new(false),
            found: OnceLock::new(),
            wrote_volume: AtomicBool::new(false),
            counts: Arc::default(),
            measured: Mutex::default(),
            record: watch::Sender::new(job),
            feed,
        }
    }

    /// What was asked for.
    pub fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// Whether it was resumed from the database, instead of requested from this process.
    pub(super) fn is_resumed(&self) -> bool {
        matches!(self.origin, Origin::Database)
    }

    /// Where the image is. For a job from the database, the current configuration decides, which may differ
    /// from the one under which the job was accepted.
    pub(super) fn location(&self, source: &Source) -> Result<ImageUrl, JobError> {
        if let Origin::Request(Some(location)) = &self.origin {
            return Ok(location.clone());
        }
        let Some(image) = self.spec.work.image() else {
            return Err(JobError::new(
                JobErrorKind::Internal,
                "The job has no image",
            ));
        };
        let url = &image.url;
        let whole = url.whole().ok_or_else(|| {
            JobError::new(
                JobErrorKind::UrlUnreadable,
                format!(
                    "The query of {url} was encrypted with a different key than the one beside \
                     the database: send the request again"
                ),
            )
        })?;
        Ok(source.parse_url(&whole)?)
    }

    /// Notes that this run is about to make or mark the volume: from here on, a failure rolls it back.
    pub(super) fn touch_volume(&self) {
        self.touched_volume.store(true, Ordering::Release);
    }

    /// Whether this run may have made or marked the volume.
    pub(super) fn has_touched_volume(&self) -> bool {
        self.touched_volume.load(Ordering::Acquire)
    }

    /// Notes the state in which this run found a volume that is not this job's yet.
    pub(super) fn found_volume(&self, volume: &Volume) {
        // The first look counts: a later attempt would find this job's own mark.
        self.found.get_or_init(|| volume.clone());
    }

    /// Notes that the volume's bytes may change from here on.
    pub(super) fn writes_volume(&self) {
        self.wrote_volume.store(true, Ordering::Release);
    }

    /// The volume as this run found it, if it was not this job's and none of its bytes was changed.
    pub(super) fn found_unwritten(&self) -> Option<Volume> {
        let is_unwritten = !self.wrote_volume.load(Ordering::Acquire);
        let found = self.found.get().filter(|_| is_unwritten)?;
        let is_mine = matches!(found.state, VolumeState::Populating { job, .. } if job == self.id);
        (!is_mine).then(|| found.clone())
    }

    /// The record as it is now.
    pub fn job(&self) -> Job {
        self.record.borrow().clone()
    }

    /// A receiver of the record's changes.
    pub fn watch(&self) -> watch::Receiver<Job> {
        self.record.subscribe()
    }

    /// Changes the record for watchers; the database gets it at the next change of state.
    pub(super) fn update<R>(&self, change: impl FnOnce(&mut Job) -> R) {
        self.record.send_modify(|job| {
            change(job);
            job.updated_at = clock::now_text();
            self.feed.changed(job);
        });
    }

    /// Publishes the final record exactly as it was written to the database and sent to webhooks, timestamps
    /// included.
    pub(super) fn end(&self, job: Job) {
        self.feed.changed(&job);
        self.record.send_replace(job);
    }

    /// Adds a note for operators, once.
    pub(super) fn note(&self, text: impl Into<String>) {
        let text = text.into();
        self.update(|job| {
            if !job.notes.contains(&text) {
                job.notes.push(text);
            }
        });
    }

    /// Its time line now.
    pub fn trail(&self) -> TrailRecord {
        TrailRecord {
            times: self.meter.trail.times(),
            rates: self.meter.trail.rates(),
            spent: self.meter.account.seconds(),
        }
    }

    /// Its course until now, to be stored.
    pub(super) fn course(&self) -> Course {
        Course {
            trail: TrailRecord {
                times: self.meter.trail.times_until_now(),
                ..self.trail()
            },
            log: self.log.kept(),
        }
    }

    /// Notes whether this run is counted among the attempts of the record: not while it waits for its turn, is paused or
    /// waits for room.
    pub(super) fn counts(&self, is_counted: bool) {
        self.counts.store(is_counted, Ordering::Release);
    }

    /// The same note, which outlives the job's task.
    pub(super) fn counted(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.counts)
    }

    /// A stage has completed.
    pub(super) fn measured(&self, measurement: Measurement) {
        // A list that no panic can leave half-changed.
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        measured.push(measurement);
    }

    /// How long its stages took.
    pub(super) fn measurements(&self) -> Vec<Measurement> {
        let measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        measured.clone()
    }

    /// Copies the counters to the record, if they have changed.
    pub(super) fn sample(&self) {
        self.meter.trail.sample(self.meter.moved());
        let progress = Some(self.meter.progress());
        let (waiting, bound) = (self.waits.now(), self.meter.account.bound());
        let requests = self.meter.requests.sent();
        self.record.send_if_modified(|job| {
            let moved =
                job.progress != progress || job.waiting != waiting || job.requests != requests;
            if moved {
                job.progress = progress;
                job.waiting = waiting;
                job.bound = bound;
                job.requests = requests;
                job.updated_at = clock::now_text();
                self.feed.changed(job);
            }
            moved
        });
    }
}
