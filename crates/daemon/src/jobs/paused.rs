//! What is told of a job while its transfer is paused, and what is not counted.

use std::sync::atomic::Ordering;

use lvp_api::Lane;

use super::Jobs;
use super::live::Live;
use crate::error::chain;
use crate::job::stop::StopReason;

impl Jobs {
    /// Shows that the transfer is paused, or that it goes on, if that is new. A paused job is running, but not active.
    pub(super) async fn note_pause(&self, live: &Live, is_on: bool) {
        if !live.waits.pause(is_on) {
            return;
        }
        let services = self.services();
        let (metrics, meter) = (&services.metrics, &live.meter);
        if is_on {
            meter.account.pause();
            meter.trail.begin(Lane::Queued);
            metrics.job_paused(live.id);
            self.0.active.fetch_sub(1, Ordering::AcqRel);
            tracing::info!(
                component = "provisioner", job_id = %live.id,
                "Job paused: a job of high priority has its slot"
            );
        } else {
            meter.account.go_on();
            meter.trail.end(Lane::Queued);
            metrics.job_unpaused(live.id);
            self.0.active.fetch_add(1, Ordering::AcqRel);
            tracing::info!(
                component = "provisioner", job_id = %live.id,
                paused_secs = meter.pause.total().as_secs(),
                "Job goes on after its pause"
            );
        }
        // A pause is no attempt: otherwise a few restarts meanwhile would end the job. The end of the daemon is not the
        // end of the pause, and the record says so.
        let is_left = live.stop.reason() == Some(StopReason::Shutdown);
        if is_on || !is_left {
            live.counts(!is_on);
            live.update(|job| {
                job.waiting = live.waits.now();
                job.attempts = match is_on {
                    true => job.attempts.saturating_sub(1),
                    false => job.attempts.saturating_add(1),
                };
            });
        }
        if let Err(error) = services.store.update_job(live.job()).await {
            let error = chain(&error);
            tracing::warn!(
                component = "storage", job_id = %live.id, error,
                "A pause was not recorded: if the daemon ends now, it counts as an attempt"
            );
        }
    }
}
