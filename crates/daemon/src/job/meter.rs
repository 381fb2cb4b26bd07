//! A job's progress: counters that the transfer advances, and the figures that clients get from
//! them.
//!
//! Progress is measured in two units: bytes of the image read from the source, and bytes of the guest's disk
//! that are in place. Both only grow, and so does the percentage made from them. In one pass both advance
//! together, so the *reported* stage is `downloading` until the last source byte has arrived and `converting`
//! after that.

mod requests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lvp_api::{Cause, Progress, Stage};
use lvp_image::copy::Counters;

use self::requests::Requests;
use super::account::{Account, Pass};
use super::pause::Pause;
use super::record::TrailRecord;
use super::trail::Trail;
use crate::clock;

/// Bytes per second of a download, assumed before the first measurement (monitoring guide).
pub const DEFAULT_DOWNLOAD_RATE: f64 = 100e6;

/// Bytes per second of decoding and writing, assumed before the first measurement (monitoring
/// guide).
pub const DEFAULT_CONVERT_RATE: f64 = 200e6;

/// Highest percentage of a job that has not ended: 100 is for `completed` alone.
const ALMOST: f64 = 99.9;

/// The rates in bytes per second with which estimates begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Of a download.
    pub download: f64,
    /// Of decoding and writing.
    pub convert: f64,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            download: DEFAULT_DOWNLOAD_RATE,
            convert: DEFAULT_CONVERT_RATE,
        }
    }
}

/// The counters of one job. The transfer advances them, the sampler reads them.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes of the image that came from the source.
    source_done: AtomicU64,
    /// Bytes to be downloaded; 0 if nothing is downloaded.
    source_total: AtomicU64,
    /// Size of the guest's disk; 0 if there is no volume or the size is not known.
    guest_total: AtomicU64,
    /// How many of these bytes the image leaves out.
    guest_holes: AtomicU64,
    /// Whether bytes that the image leaves out need no work, because the target is known to read as
    /// zero.
    holes_are_free: AtomicBool,
    /// Bytes that this job itself read from the source, not counting what another job fetched for
    /// it.
    fetched_bytes: AtomicU64,
    /// Its requests for the image.
    pub requests: Requests,
    /// Pauses its transfer. Here, as those that wait for the job find it here.
    pub pause: Arc<Pause>,
    /// What the job's time goes to.
    pub account: Account,
    /// When its stages ran, and how fast its bytes moved.
    pub trail: Trail,
    /// The pass that is under way, or the last one.
    pass: Mutex<Option<Arc<Pass>>>,
    /// Bytes of the guest's disk that are in place, counted by the current copy.
    copy: Mutex<Copying>,
    state: Mutex<State>,
}

/// The current copy, and what abandoned earlier copies had moved.
#[derive(Debug, Default)]
struct Copying {
    counters: Arc<Counters>,
    before: Moved,
}

/// What a job has moved since it began. The values only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Bytes that it read from the source.
    pub fetched_bytes: u64,
    /// Bytes of the guest's disk that were put in place.
    pub settled_bytes: u64,
    /// Bytes written to the volume.
    pub written_bytes: u64,
    /// Bytes zeroed on the volume.
    pub zeroed_bytes: u64,
    /// Bytes of the image that are available, whoever fetched them.
    pub source_bytes: u64,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    stage_started: Instant,
    stage_started_at: String,
    job_started: Instant,
    job_started_at: String,
    rates: Rates,
    shown: f64,
}

impl Default for State {
    fn default() -> Self {
        let (now, text) = (Instant::now(), clock::now_text());
        Self {
            stage: Stage::Initializing,
            stage_started: now,
            stage_started_at: text.clone(),
            job_started: now,
            job_started_at: text,
            rates: Rates::default(),
            shown: 0.0,
        }
    }
}

impl Meter {
    /// The meter of a job that was accepted `age_sec` ago and may have run before, with so many requests.
    pub fn continued(trail: TrailRecord, age_sec: f64, requests: u64) -> Self {
        let meter = Self {
            requests: Requests::continued(requests),
            trail: Trail::continued(trail.times, age_sec),
            ..Self::default()
        };
        meter.account.began_with(trail.spent);
        meter
    }

    /// Sets the rates with which estimates begin.
    pub fn expect(&self, rates: Rates) {
        lock(&self.state).rates = rates;
    }

    /// Enters a stage; entering it again changes nothing.
    pub fn enter(&self, stage: Stage) {
        let mut state = lock(&self.state);
        if state.stage != stage {
            state.stage = stage;
            state.stage_started = Instant::now();
            state.stage_started_at = clock::now_text();
        }
    }

    /// A pass begins, to which time is charged; what it waits for first is of this kind.
    pub fn begin_pass(&self, first: Cause) -> Arc<Pass> {
        let pass = Arc::new(Pass::new(self.copy(), first, Arc::clone(&self.pause)));
        *lock(&self.pass) = Some(Arc::clone(&pass));
        self.account.charge_pass(Arc::clone(&pass));
        pass
    }

    /// The pass that is under way, or the last one.
    pub fn pass(&self) -> Option<Arc<Pass>> {
        lock(&self.pass).clone()
    }

    /// This many bytes of the image will be downloaded.
    pub fn expect_source(&self, total_bytes: u64) {
        self.source_total.store(total_bytes, Ordering::Relaxed);
    }

    /// A download continues after this many bytes, which are already there.
    pub fn download_from(&self, done_bytes: u64, total_bytes: u64) {
        self.expect_source(total_bytes);
        self.source_done.store(done_bytes, Ordering::Relaxed);
    }

    /// This many bytes arrived from the source.
    pub fn received(&self, bytes: u64) {
        self.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.source_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Shows the progress of another job's download as this job's: it fetches the image for both.
    pub fn follow(&self, leader: &Self) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.download_from(count(&leader.source_done), count(&leader.source_total));
    }

    /// The guest's disk has this size, and the image leaves this much of it out.
    pub fn expect_disk(&self, size_bytes: u64, hole_bytes: u64) {
        self.guest_total.store(size_bytes, Ordering::Relaxed);
        self.guest_holes.store(hole_bytes, Ordering::Relaxed);
    }

    /// Sets an estimate of the guest disk's size for as long as the size is not known.
    pub fn guess_disk(&self, size_bytes: u64) {
        // If the size is known, the exchange fails, and the known size stays.
        self.guest_total
            .compare_exchange(0, size_bytes, Ordering::Relaxed, Ordering::Relaxed)
            .ok();
    }

    /// Says whether bytes that the image leaves out need no work on this target.
    pub fn count_holes(&self, are_free: bool) {
        self.holes_are_free.store(are_free, Ordering::Relaxed);
    }

    /// New counters for a copy that begins.
    pub fn new_copy(&self) -> Arc<Counters> {
        let counters = Arc::default();
        let before = self.moved();
        *lock(&self.copy) = Copying {
            counters: Arc::clone(&counters),
            before,
        };
        counters
    }

    /// The counters of the current copy.
    pub fn copy(&self) -> Arc<Counters> {
        Arc::clone(&lock(&self.copy).counters)
    }

    /// What the job has moved since it began.
    pub fn moved(&self) -> Moved {
        let copy = lock(&self.copy);
        let (now, before) = (&copy.counters, &copy.before);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Moved {
            fetched_bytes: count(&self.fetched_bytes),
            settled_bytes: before.settled_bytes + count(&now.guest_bytes),
            written_bytes: before.written_bytes + count(&now.written_bytes),
            zeroed_bytes: before.zeroed_bytes + count(&now.zeroed_bytes),
            source_bytes: count(&self.source_done),
        }
    }

    /// The stage that is reported now.
    pub fn stage(&self) -> Stage {
        lock(&self.state).stage
    }

    /// The job's progress now.
    pub fn progress(&self) -> Progress {
        let source = Share::new(&self.source_done, &self.source_total, 0);
        let guest = self.guest();
        let mut state = lock(&self.state);
        // A stage's weight is the time that it is expected to take.
        let download = source.total / state.rates.download;
        let convert = guest.total / state.rates.convert;
        let all = download + convert;
        let done = if all > 0.0 {
            100.0 * (download * source.fraction() + convert * guest.fraction()) / all
        } else {
            0.0
        };
        state.shown = state.shown.max(done.min(ALMOST));
        let share = match state.stage {
            Stage::Downloading => Some(source),
            Stage::Converting | Stage::Verifying => Some(guest),
            Stage::Initializing | Stage::Finalizing => None,
        };
        let stage_seconds = state.stage_started.elapsed().as_secs_f64();
        let job_seconds = state.job_started.elapsed().as_secs_f64();
        Progress {
            stage: state.stage,
            percent: round(state.shown),
            overall_percent: round(state.shown),
            stage_percent: round(share.as_ref().map_or(0.0, |share| 100.0 * share.fraction())),
            bytes_processed: share.as_ref().map_or(0, |share| share.done_bytes),
            bytes_total: share.as_ref().map_or(0, |share| share.total_bytes),
            eta_sec: share.and_then(|share| remaining(stage_seconds, share.fraction())),
            overall_eta_sec: remaining(job_seconds, state.shown / 100.0)
                .or_else(|| (all > 0.0).then(|| round(all))),
            stage_start_time: Some(state.stage_started_at.clone()),
            job_start_time: Some(state.job_started_at.clone()),
        }
    }

    /// Bytes of the guest's disk that need work, as [`Meter::progress`] measures.
    pub fn work_bytes(&self) -> u64 {
        self.guest().total_bytes
    }

    /// Progress on the guest's disk. Bytes that need no work are not counted as progress: holes
    /// count only where they must be zeroed.
    fn guest(&self) -> Share {
        let free = match self.holes_are_free.load(Ordering::Relaxed) {
            true => self.guest_holes.load(Ordering::Relaxed),
            false => 0,
        };
        Share::new(&self.copy().guest_bytes, &self.guest_total, free)
    }

    /// The progress of a job that has ended: 100 percent if it completed.
    pub fn final_progress(&self, completed: bool) -> Progress {
        let mut progress = self.progress();
        progress.eta_sec = None;
        progress.overall_eta_sec = None;
        if completed {
            let guest = self.guest().total_bytes;
            let source = self.source_total.load(Ordering::Relaxed);
            let moved = if guest != 0 { guest } else { source };
            progress.stage = Stage::Finalizing;
            progress.percent = 100.0;
            progress.overall_percent = 100.0;
            progress.stage_percent = 100.0;
            progress.bytes_processed = moved;
            progress.bytes_total = moved;
        }
        progress
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic cannot leave plain data half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The progress of one stage.
struct Share {
    done_bytes: u64,
    total_bytes: u64,
    total: f64,
}

impl Share {
    /// `free` bytes need no work: they are subtracted from both counts.
    fn new(done: &AtomicU64, total: &AtomicU64, free: u64) -> Self {
        let total_bytes = total.load(Ordering::Relaxed).saturating_sub(free);
        let done_bytes = done
            .load(Ordering::Relaxed)
            .saturating_sub(free)
            .min(total_bytes);
        Self {
            done_bytes,
            total_bytes,
            total: float(total_bytes),
        }
    }

    fn fraction(&self) -> f64 {
        if self.total_bytes == 0 {
            0.0
        } else {
            float(self.done_bytes) / self.total
        }
    }
}

/// Seconds that are left if `fraction` took `seconds`; unknown below one percent.
fn remaining(seconds: f64, fraction: f64) -> Option<f64> {
    (fraction >= 0.01).then(|| round(seconds * (1.0 - fraction) / fraction))
}

fn round(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[expect(clippy::cast_precision_loss, reason = "percentages are far below 2^53")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests;
