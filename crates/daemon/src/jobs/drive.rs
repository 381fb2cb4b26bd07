//! A job's life from its acceptance to its end: the only code that changes a job's state.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lvp_api::{Cause, ErrorCode, JobState, Lane, LogLine, Method, VolumeName};
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use super::live::Live;
use super::room::RoomWait;
use super::slots::{Closed, Ticket};
use super::{Jobs, SAMPLE_INTERVAL, Services, spans, steps, waiting};
use crate::clock;
use crate::delivery::{Delivery, Observer as _};
use crate::error::chain;
use crate::job::error::JobError;
use crate::job::kind::JobErrorKind;
use crate::job::record::Job;
use crate::job::stop::StopReason;
use crate::store::StoreError;
use crate::telemetry::printable;

/// A job that was started this often without reaching an end fails: something about it crashes the daemon.
const MAX_ATTEMPTS: u32 = 5;

/// Pause between attempts to record a job's end while the database cannot be written.
const SAVE_BACKOFF: Duration = Duration::from_secs(2);

impl Jobs {
    /// A job's whole life after its acceptance; the only place that changes its state.
    pub(super) async fn drive(&self, live: Arc<Live>, mut ticket: Option<Ticket>) {
        let metrics = &self.0.services.metrics;
        let accepted = Instant::now();
        let slot = tokio::select! {
            biased;
            reason = live.stop.stopped() => Err(JobError::stopped(reason)),
            granted = self.turn(&live, &mut ticket) => {
                granted.map_err(|Closed| JobError::stopped(StopReason::Shutdown))
            }
        };
        metrics.job_left_queue(accepted.elapsed());
        live.meter.trail.end(Lane::Queued);
        // A job that never runs has no span.
        let mut span = Span::none();
        let (ended, ran) = match slot {
            Err(error) => {
                drop(ticket);
                (Err(error), None)
            }
            Ok(()) => {
                let started = Instant::now();
                // Until the first step, only the database is waited for.
                live.meter.account.charge(Cause::Device);
                live.meter.trail.begin(Lane::Initializing);
                self.0.active.fetch_add(1, Ordering::AcqRel);
                metrics.job_started(live.id);
                span = spans::job(&live);
                let mut slot = ticket;
                let ended = self.run(&live, &mut slot).instrument(span.clone()).await;
                self.note_pause(&live, false).await;
                metrics.job_stopped(live.id, live.meter.moved());
                self.0.active.fetch_sub(1, Ordering::AcqRel);
                drop(slot);
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
        self.services().logs.close(live.id);
        self.lock().remove(&live.id);
    }

    async fn run(&self, live: &Arc<Live>, slot: &mut Option<Ticket>) -> Result<(), JobError> {
        // Before anything that may fail: a job that has finished needs neither the image nor another attempt.
        if self.has_finished(live).await {
            return Ok(());
        }
        let mut job = live.job();
        if job.attempts >= MAX_ATTEMPTS {
            return Err(JobError::new(
                JobErrorKind::Attempts,
                format!(
                    "The job was started {MAX_ATTEMPTS} times, and each time the daemon ended \
                     before the job did: see the daemon's log for the reason, then send the \
                     request again"
                ),
            ));
        }
        job.state = JobState::Running;
        job.attempts += 1;
        job.updated_at = clock::now_text();
        job.started_at.get_or_insert_with(clock::now_text);
        self.save_start(live, &job).await?;
        live.counts(true);
        live.update(|record| {
            job.notes.clone_from(&record.notes);
            *record = job;
        });
        let resumed = live.job().attempts > 1;
        let work = &live.spec().work;
        tracing::info!(
            component = "provisioner", job_id = %live.id,
            correlation_id = live.spec().correlation_id.as_deref(),
            image_url = work.image().map(|image| tracing::field::display(&image.url)),
            volume = work.volume_name().map(VolumeName::as_str),
            resumed, "Job started"
        );
        let mut wait = RoomWait::of(&live.job());
        loop {
            match self.run_steps(live).await {
                Err(error) if wait.is_for(&error) && live.stop.reason().is_none() => {
                    self.wait_for_room(live, &mut wait, slot, error).await?;
                }
                ended => return ended,
            }
        }
    }

    /// The job's steps, within the time limit.
    async fn run_steps(&self, live: &Arc<Live>) -> Result<(), JobError> {
        let steps = {
            let (jobs, live) = (self.clone(), Arc::clone(live));
            // In a task of its own, so that a panic in a step does not skip the bookkeeping.
            let steps = async move { steps::run(&jobs.0.services, &live).await };
            tokio::spawn(steps.in_current_span())
        };
        let pause = &live.meter.pause;
        let (limit, mut allowed) = (self.0.services.settings.timeout, pause.total());
        let deadline = tokio::time::sleep(limit);
        let mut tick = tokio::time::interval(SAMPLE_INTERVAL);
        let keeping = self.keep_course(live);
        tokio::pin!(steps, deadline, keeping);
        loop {
            tokio::select! {
                ended = &mut steps => {
                    return ended.unwrap_or_else(|error| {
                        let what = "The job crashed; see the log";
                        Err(JobError::new(JobErrorKind::Internal, what).because(error))
                    });
                }
                () = &mut deadline, if live.stop.reason().is_none() => {
                    // The time in which it was paused is not part of it.
                    let paused = pause.total();
                    match paused.saturating_sub(allowed) {
                        Duration::ZERO => live.stop.stop(StopReason::TimedOut),
                        more => deadline.as_mut().reset(Instant::now() + more.max(SAMPLE_INTERVAL)),
                    }
                    allowed = paused;
                }
                never = &mut keeping => match never {},
                _ = tick.tick() => {
                    self.0.slots.reconsider();
                    self.note_pause(live, pause.is_on()).await;
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
                Err(error) if error.is_recoverable() => {
                    waiting::until_available(services, live, &error.into()).await?;
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
                        "The job continues at the next start"
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
                // An error that the stop caused is not why the job failed.
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
        live.meter.trail.sample(live.meter.moved());
        live.meter.trail.end_all();
        job.waiting = None;
        job.bound = live.meter.account.bound();
        let moved = live.meter.moved();
        job.requests = live.meter.requests.sent();
        (job.fetched_bytes, job.written_bytes) = (moved.fetched_bytes, moved.written_bytes);
        // The line of its end is kept with the job together with the end, and logged after that.
        live.log.push(last_line(&job));
        self.services().logs.close(live.id);
        self.save_end(&job, live).await;
        self.0.services.metrics.job_ended(job.state, ran);
        if let (JobState::Completed, Some(method)) = (job.state, job.method) {
            self.0.services.metrics.volume_made(method);
        }
        spans::ended(&Span::current(), &job, live);
        self.log_end(&job);
        live.end(job);
    }

    /// Records a job's end, and repeats that while the database cannot be written: a job whose end is not
    /// recorded would run a second time.
    async fn save_end(&self, job: &Job, live: &Live) {
        let Services {
            store,
            webhooks,
            metrics,
            ..
        } = self.services();
        let events = webhooks.as_ref().map(|webhooks| webhooks.events(job));
        let events = events.unwrap_or_default();
        loop {
            let course = live.course();
            let measured = live.measurements();
            let ended = store.end_job(job.clone(), course, measured, events.clone());
            match ended.await {
                Ok(dropped) => {
                    metrics.deliveries(Delivery::Dropped, dropped);
                    return webhooks.iter().for_each(|webhooks| webhooks.ring());
                }
                Err(StoreError::Closed) => return,
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(
                        component = "storage", job_id = %job.id, error,
                        "The end of a job cannot be recorded; trying again"
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
                method = job.method.map(Method::as_str),
                "Job {}", job.state
            ),
        }
    }
}

/// The last line of a job's own log.
fn last_line(job: &Job) -> LogLine {
    let (level, text) = match &job.failure {
        Some(failure) => (
            "error",
            format!(
                "Job failed: {} ({})",
                printable(&failure.message),
                failure.error_type
            ),
        ),
        None => ("info", format!("Job {}", job.state)),
    };
    LogLine {
        number: 0,
        time: clock::now_text(),
        level: level.to_owned(),
        component: "provisioner".to_owned(),
        text,
    }
}
