//! What jobs report.

use std::time::{Duration, Instant};

use lvp_api::{JobId, JobState, Method};

use super::{Metrics, Running, float};
use crate::guests::Shown;
use crate::guests::network::NetworkShown;
use crate::job::kind::JobErrorKind;
use crate::job::meter::Moved;

impl Metrics {
    /// A job starts to wait for a slot.
    pub fn job_queued(&self) {
        self.queue_length.inc();
    }

    /// A job no longer waits.
    pub fn job_left_queue(&self, waited: Duration) {
        self.queue_length.dec();
        self.queue_wait.observe(waited.as_secs_f64());
    }

    /// A job has a slot and runs.
    pub fn job_started(&self, id: JobId) {
        self.active_jobs.inc();
        let running = Running {
            last: Moved::default(),
            moved_at: Instant::now(),
        };
        self.moving().running.insert(id, running);
    }

    /// A job that had stopped for a while runs again; it has moved this much before.
    pub fn job_continues(&self, id: JobId, moved: Moved) {
        self.active_jobs.inc();
        let running = Running {
            last: moved,
            moved_at: Instant::now(),
        };
        self.moving().running.insert(id, running);
    }

    /// What a running job has moved since it began.
    pub fn job_moved(&self, id: JobId, moved: Moved) {
        let now = Instant::now();
        let mut moving = self.moving();
        let Some(running) = moving.running.get_mut(&id) else {
            return;
        };
        if running.last == moved {
            return;
        }
        let last = std::mem::replace(&mut running.last, moved);
        running.moved_at = now;
        let since = |now: u64, before: u64| now.saturating_sub(before);
        let fetched = since(moved.fetched_bytes, last.fetched_bytes);
        moving.download.add(now, fetched);
        let settled = since(moved.settled_bytes, last.settled_bytes);
        moving.convert.add(now, settled);
        drop(moving);
        for (direction, bytes) in [
            ("read", fetched),
            ("written", since(moved.written_bytes, last.written_bytes)),
            ("zeroed", since(moved.zeroed_bytes, last.zeroed_bytes)),
        ] {
            self.transferred
                .get_or_create(&[("direction", direction.into())])
                .inc_by(bytes);
        }
    }

    /// A job gives up its slot, having moved this much in total.
    pub fn job_stopped(&self, id: JobId, moved: Moved) {
        self.job_moved(id, moved);
        self.moving().running.remove(&id);
        self.active_jobs.dec();
    }

    /// The transfer of a running job is paused; it is not active meanwhile, and not stalled.
    pub fn job_paused(&self, id: JobId) {
        self.paused_jobs.inc();
        self.pauses.inc();
        self.active_jobs.dec();
        let mut moving = self.moving();
        if let Some(running) = moving.running.remove(&id) {
            moving.paused.insert(id, running);
        }
    }

    /// A paused job goes on, or is about to end. What was under way when it was paused is counted from now on.
    pub fn job_unpaused(&self, id: JobId) {
        self.paused_jobs.dec();
        self.active_jobs.inc();
        let mut moving = self.moving();
        if let Some(running) = moving.paused.remove(&id) {
            let moved_at = Instant::now();
            moving.running.insert(
                id,
                Running {
                    moved_at,
                    ..running
                },
            );
        }
    }

    /// A job ended; `ran` is how long it ran, if it was started.
    pub fn job_ended(&self, state: JobState, ran: Option<Duration>) {
        let labels = [("status", state.as_str().into())];
        self.jobs.get_or_create(&labels).inc();
        if let Some(ran) = ran {
            let duration = self.job_duration.get_or_create(&labels);
            duration.observe(ran.as_secs_f64());
        }
    }

    /// A completed job made its volume by this method.
    pub fn volume_made(&self, method: Method) {
        self.job_methods
            .get_or_create(&[("method", method.as_str().into())])
            .inc();
    }

    /// An image got an unpacked copy.
    pub fn image_unpacked(&self) {
        self.unpacked.made.inc();
    }

    /// A volume was copied from an unpacked copy.
    pub fn unpacked_copied(&self) {
        self.unpacked.copied.inc();
    }

    /// What was measured of others on the disks, and decided.
    pub fn yielded(&self, shown: &Shown) {
        let seconds = |wait: Option<Duration>| wait.map_or(0.0, |wait| wait.as_secs_f64());
        let metrics = &self.yielding;
        metrics.rate.set(float(shown.rate.unwrap_or(0)));
        metrics.others_wait.set(seconds(shown.wait));
        metrics.idle_wait.set(shown.idle_wait.as_secs_f64());
        metrics.bearable_wait.set(shown.bearable_wait.as_secs_f64());
        metrics.pressure.set(shown.pressure.unwrap_or(0.0));
        metrics.own.set(shown.own_bytes_per_sec);
        if shown.is_held {
            metrics.held.inc_by(shown.passed.as_secs_f64());
        }
    }

    /// What was measured of others on the network, and decided.
    pub fn network_yielded(&self, shown: &NetworkShown) {
        let metrics = &self.network;
        metrics.rate.set(float(shown.rate.unwrap_or(0)));
        metrics.others.set(shown.others_bytes_per_sec);
        metrics.link.set(float(shown.link_bytes_per_sec));
        if shown.is_held {
            metrics.held.inc_by(shown.passed.as_secs_f64());
        }
    }

    /// A volume was cloned from a golden one.
    pub fn volume_cloned(&self) {
        self.clones.inc();
    }

    /// A job failed with this error. Counted if it was about the image.
    pub fn job_failed(&self, kind: JobErrorKind) {
        if let Some(operation) = kind.operation() {
            self.image_errors
                .get_or_create(&[
                    ("operation", operation.into()),
                    ("error_type", kind.word().into()),
                ])
                .inc();
        }
    }
}
