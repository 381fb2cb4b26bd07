//! A job waits for room in the pool that volumes share, if its request says so.
//!
//! It waits without a slot, so that others run meanwhile, and begins again from the top when there may be room: it
//! has reserved and written nothing, or continues from what it finds. The wait ends at a time that was fixed when the
//! job was accepted, whatever happens to the daemon in between.

use std::sync::atomic::Ordering;
use std::time::Duration;

use time::OffsetDateTime;

use super::live::Live;
use super::slots::{Closed, Ticket};
use super::{Jobs, waiting};
use crate::backoff::Backoff;
use crate::clock;
use crate::error::chain;
use crate::job::error::JobError;
use crate::job::kind::JobErrorKind;
use crate::job::record::Job;
use crate::job::stop::StopReason;

/// The first pause before the pool is looked at again.
const FIRST_PAUSE: Duration = Duration::from_secs(2);

/// The longest one. A look is one LVM report.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often a wait looks whether the daemon is stopping.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The waits of one job.
pub(super) struct RoomWait {
    until: Option<OffsetDateTime>,
    pauses: Backoff,
}

impl RoomWait {
    pub(super) fn of(job: &Job) -> Self {
        let wait = job.spec.work.volume().and_then(|volume| volume.room_wait);
        let accepted = clock::parsed(&job.created_at);
        Self {
            until: wait.and_then(|wait| accepted?.checked_add(wait.try_into().ok()?)),
            pauses: Backoff::doubling(FIRST_PAUSE, LONGEST_PAUSE),
        }
    }

    /// Whether a job that failed with this error waits.
    pub(super) fn is_for(&self, error: &JobError) -> bool {
        error.kind() == JobErrorKind::VolumePool
            && self.until.is_some_and(|until| clock::now() < until)
    }
}

impl Jobs {
    /// How many jobs wait for room. Beyond the limit of the queue no more are accepted: each keeps a task.
    pub(super) fn waiting_for_room(&self) -> usize {
        self.0.waiting_for_room.load(Ordering::Acquire)
    }

    /// Gives the slot back, waits until there may be room, and takes a slot again. Fails with the error that the job
    /// met when the time is up.
    pub(super) async fn wait_for_room(
        &self,
        live: &Live,
        wait: &mut RoomWait,
        slot: &mut Option<Ticket>,
        error: JobError,
    ) -> Result<(), JobError> {
        let Some(until) = wait.until else {
            return Err(error);
        };
        let why = chain(&error);
        tracing::info!(
            component = "provisioner", job_id = %live.id, why, until = clock::text(until),
            "Job waits for room"
        );
        let told = format!("Waits for room until {}: {why}", clock::text(until));
        if wait.pauses.failures() == 0 {
            live.note(told);
        }
        // A wait is no attempt: otherwise a few restarts meanwhile would end the job.
        self.count_attempt(live, false).await?;
        *slot = None;
        let metrics = &self.services().metrics;
        metrics.job_stopped(live.id, live.meter.moved());
        self.0.active.fetch_sub(1, Ordering::AcqRel);
        self.0.waiting_for_room.fetch_add(1, Ordering::AcqRel);
        let waited = self.until_room(live, wait, until, error).await;
        let taken = match waited {
            Ok(()) => tokio::select! {
                biased;
                reason = live.stop.stopped() => Err(JobError::stopped(reason)),
                taken = self.take_slot(live) => taken,
            },
            Err(error) => Err(error),
        };
        self.0.waiting_for_room.fetch_sub(1, Ordering::AcqRel);
        self.0.active.fetch_add(1, Ordering::AcqRel);
        metrics.job_continues(live.id, live.meter.moved());
        *slot = Some(taken?);
        tracing::info!(component = "provisioner", job_id = %live.id, "Job tries again whether there is room");
        self.count_attempt(live, true).await
    }

    async fn take_slot(&self, live: &Live) -> Result<Ticket, JobError> {
        let mut ticket = self.ask_for_slot(live);
        let granted = ticket.granted().await;
        granted.map_err(|Closed| JobError::stopped(StopReason::Shutdown))?;
        Ok(ticket)
    }

    async fn until_room(
        &self,
        live: &Live,
        wait: &mut RoomWait,
        until: OffsetDateTime,
        error: JobError,
    ) -> Result<(), JobError> {
        let volumes = &self.services().volumes;
        loop {
            // Doubling pauses have no last one.
            let pause = wait.pauses.failed(None).unwrap_or(LONGEST_PAUSE);
            let pause_end = tokio::time::Instant::now() + pause;
            while tokio::time::Instant::now() < pause_end {
                if self.0.stopping.load(Ordering::Acquire) {
                    return Err(JobError::stopped(StopReason::Shutdown));
                }
                if clock::now() >= until {
                    live.note("There was no room in all the time that the request gave");
                    return Err(error);
                }
                tokio::select! {
                    biased;
                    reason = live.stop.stopped() => return Err(JobError::stopped(reason)),
                    () = tokio::time::sleep(LOOK_INTERVAL) => {}
                }
            }
            // The probe looks at the pool, too. If it fails, nothing is known to have changed.
            if volumes.probe().await.is_ok() && volumes.has_room().is_ok() {
                return Ok(());
            }
        }
    }

    /// Counts an attempt, or takes back the one that is counted.
    async fn count_attempt(&self, live: &Live, is_one: bool) -> Result<(), JobError> {
        live.update(|job| {
            job.attempts = match is_one {
                true => job.attempts.saturating_add(1),
                false => job.attempts.saturating_sub(1),
            };
            job.updated_at = clock::now_text();
        });
        let services = self.services();
        loop {
            match services.store.update_job(live.job()).await {
                Err(error) if error.is_recoverable() => {
                    waiting::until_available(services, live, &error.into()).await?;
                }
                saved => {
                    saved?;
                    live.counts(is_one);
                    return Ok(());
                }
            }
        }
    }
}
