//! How far a job is: counters that the transfer moves, and what clients make of them.
//!
//! A job has two currencies: bytes of the image that were read from the source, and bytes of the
//! guest's disk that are in place. Both only grow, and so does the percentage made of them. With one
//! pass the two move together, so the stage that is *reported* is `downloading` until the last source byte is
//! there and `converting` from then on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lvp_api::{Progress, Stage};
use lvp_image::copy::Counters;

use crate::clock;

/// Before the first measurement: bytes per second of a download (monitoring guide).
pub const DEFAULT_DOWNLOAD_RATE: f64 = 100e6;

/// Before the first measurement: bytes per second of decoding and writing (monitoring guide).
pub const DEFAULT_CONVERT_RATE: f64 = 200e6;

/// What a job shows before it has ended, at most: 100 is for `completed` alone.
const ALMOST: f64 = 99.9;

/// Bytes per second that an estimate starts from.
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

/// The counters of one job. The transfer adds to them, the sampler reads them.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes of the image that came from the source.
    source_done: AtomicU64,
    /// Bytes that will come; 0 when nothing is downloaded.
    source_total: AtomicU64,
    /// Size of the guest's disk; 0 when there is no volume or the size is not known.
    guest_total: AtomicU64,
    /// How much of that the image leaves out.
    guest_holes: AtomicU64,
    /// Whether what the image leaves out takes no work: the target is known to read as zero.
    holes_are_free: AtomicBool,
    /// Bytes that this job itself read from the source; what another fetched for it is not here.
    fetched_bytes: AtomicU64,
    /// Requests to the source that this job repeated after a passing fault.
    retries: Arc<AtomicU64>,
    /// Bytes of the guest's disk that are in place; counted by the copy under way.
    copy: Mutex<Copying>,
    state: Mutex<State>,
}

/// The copy under way, and what copies before it had moved when they were given up.
#[derive(Debug, Default)]
struct Copying {
    counters: Arc<Counters>,
    before: Moved,
}

/// What a job has moved since it began; it only grows.
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
    /// Bytes of the image that are there, whoever fetched them.
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
    /// Sets what estimates start from.
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

    /// So many bytes of the image are to come.
    pub fn expect_source(&self, total_bytes: u64) {
        self.source_total.store(total_bytes, Ordering::Relaxed);
    }

    /// A download goes on after its first bytes, which are there.
    pub fn download_from(&self, done_bytes: u64, total_bytes: u64) {
        self.expect_source(total_bytes);
        self.source_done.store(done_bytes, Ordering::Relaxed);
    }

    /// So many bytes came from the source.
    pub fn received(&self, bytes: u64) {
        self.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.source_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Shows the download of another job as this one's: it fetches the image for both.
    pub fn follow(&self, leader: &Self) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.download_from(count(&leader.source_done), count(&leader.source_total));
    }

    /// The guest's disk has this size, and so much of it is left out by the image.
    pub fn expect_disk(&self, size_bytes: u64, hole_bytes: u64) {
        self.guest_total.store(size_bytes, Ordering::Relaxed);
        self.guest_holes.store(hole_bytes, Ordering::Relaxed);
    }

    /// The size of a guest's disk until it is known.
    pub fn guess_disk(&self, size_bytes: u64) {
        // One that is known stays, and then the exchange fails.
        self.guest_total
            .compare_exchange(0, size_bytes, Ordering::Relaxed, Ordering::Relaxed)
            .ok();
    }

    /// Whether what the image leaves out takes no work on this target.
    pub fn count_holes(&self, are_free: bool) {
        self.holes_are_free.store(are_free, Ordering::Relaxed);
    }

    /// What counts this job's repeated requests to the source.
    pub fn retry_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.retries)
    }

    /// Requests to the source that this job has repeated.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Fresh counters for a copy that begins.
    pub fn new_copy(&self) -> Arc<Counters> {
        let counters = Arc::default();
        let before = self.moved();
        *lock(&self.copy) = Copying {
            counters: Arc::clone(&counters),
            before,
        };
        counters
    }

    /// The counters of the copy under way.
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

    /// How far the job is now.
    pub fn progress(&self) -> Progress {
        let source = Share::new(&self.source_done, &self.source_total, 0);
        let guest = self.guest();
        let mut state = lock(&self.state);
        // What a stage weighs is the time it is expected to take.
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
            Stage::Converting => Some(guest),
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

    /// Bytes of the guest's disk that are work, by the measure of [`Meter::progress`].
    pub fn work_bytes(&self) -> u64 {
        self.guest().total_bytes
    }

    /// The guest's side. What moves no byte is no progress: holes count only where they must be
    /// zeroed.
    fn guest(&self) -> Share {
        let free = match self.holes_are_free.load(Ordering::Relaxed) {
            true => self.guest_holes.load(Ordering::Relaxed),
            false => 0,
        };
        Share::new(&self.copy().guest_bytes, &self.guest_total, free)
    }

    /// The last word on a job that has ended: 100 percent when it completed.
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
    // Plain data that no panic can leave half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How much of what one stage moves is there.
struct Share {
    done_bytes: u64,
    total_bytes: u64,
    total: f64,
}

impl Share {
    /// `free` bytes of both are left out; they are counted as done from the start.
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

/// Seconds that are left when `fraction` took `seconds`; unknown before one percent.
fn remaining(seconds: f64, fraction: f64) -> Option<f64> {
    (fraction >= 0.01).then(|| round(seconds * (1.0 - fraction) / fraction))
}

fn round(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[expect(clippy::cast_precision_loss, reason = "percentages need no 53rd bit")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests;
