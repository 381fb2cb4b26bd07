//! What a job's time goes to: measured by who waits for whom, and not guessed from rates.
//!
//! A clock is charged to one [`Cause`] at a time, which the job's steps change as they go ([`Account::charge`]). While
//! several things run at the same time, it is charged to a [`Pass`] instead, and the pass divides the time:
//!
//! - The thread that hands an image's pieces out (`transfer`) is the middle of a pass: at every instant it waits for the
//!   source, or for one of the consumers, or it works. Its waits are measured, and add up to the pass.
//! - A wait for the source is network, or a limit of the rate: in the proportion in which the tasks that fetch
//!   ranges waited for the server's bytes and for the limit.
//! - A wait for the digest is CPU; one for the cache's file is a device, or the guests that come first.
//! - A wait for the copier is what its threads did in this time: decode, wait for the device, for the limit of
//!   writes, or because guests come first ([`lvp_image::copy::TimeSpent`]).
//! - A copy from the cache has no such middle: it is what its threads did.
//!
//! What the middle works itself counts as CPU. What the system does for a network connection (TLS, copies of packets)
//! is part of the wait for its bytes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lvp_api::{Bound, Cause};
use lvp_image::copy::Counters;

use super::pause::Pause;
use crate::source::WaitReason;

/// How many causes there are.
const CAUSES: usize = Cause::ALL.len();

/// Seconds, or parts of a whole, by cause in the order of [`Cause::ALL`].
type ByCause = [f64; CAUSES];

/// What a job's time has gone to.
#[derive(Debug)]
pub struct Account(Mutex<State>);

#[derive(Debug)]
struct State {
    spent: ByCause,
    since: Instant,
    now: Charged,
    /// What is charged again after a pause.
    held: Option<Charged>,
}

#[derive(Debug, Clone)]
enum Charged {
    Cause(Cause),
    Pass(Arc<Pass>),
}

impl Default for Account {
    /// A job begins in the queue.
    fn default() -> Self {
        Self(Mutex::new(State {
            spent: ByCause::default(),
            since: Instant::now(),
            now: Charged::Cause(Cause::Queue),
            held: None,
        }))
    }
}

impl Account {
    /// From now on, time is charged to this cause.
    pub fn charge(&self, cause: Cause) {
        self.change(Charged::Cause(cause));
    }

    /// From now on, time is charged to what this pass measures.
    pub fn charge_pass(&self, pass: Arc<Pass>) {
        self.change(Charged::Pass(pass));
    }

    /// The job is paused: it waits for a slot.
    pub fn pause(&self) {
        let mut state = self.lock();
        let queue = Charged::Cause(Cause::Queue);
        let before = state.change(queue);
        state.held.get_or_insert(before);
    }

    /// The pause is over, and what was charged before is charged again.
    pub fn go_on(&self) {
        let mut state = self.lock();
        if let Some(before) = state.held.take() {
            state.change(before);
        }
    }

    /// The time before this process, as it was recorded.
    pub fn began_with(&self, seconds: ByCause) {
        let mut state = self.lock();
        for (spent, before) in state.spent.iter_mut().zip(seconds) {
            *spent += before.max(0.0);
        }
    }

    /// Seconds by cause until now.
    pub fn seconds(&self) -> ByCause {
        self.lock().until_now()
    }

    /// The shares until now. None before any time has passed.
    pub fn bound(&self) -> Option<Bound> {
        let spent = self.seconds();
        let all: f64 = spent.iter().sum();
        if all <= 0.0 {
            return None;
        }
        let share = |cause: Cause| round(100.0 * spent[index(cause)] / all);
        let most = Cause::ALL
            .into_iter()
            .max_by(|a, b| spent[index(*a)].total_cmp(&spent[index(*b)]))?;
        Some(Bound {
            by: most,
            network: share(Cause::Network),
            cpu: share(Cause::Cpu),
            device: share(Cause::Device),
            limit: share(Cause::Limit),
            queue: share(Cause::Queue),
            guests: share(Cause::Guests),
        })
    }

    fn change(&self, next: Charged) {
        let mut state = self.lock();
        // A step that goes on is not paused, whatever its transfer was.
        state.held = None;
        state.change(next);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave plain data half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Charges what has passed, and returns what it was charged to.
    fn change(&mut self, next: Charged) -> Charged {
        self.spent = self.until_now();
        self.since = Instant::now();
        std::mem::replace(&mut self.now, next)
    }

    fn until_now(&self) -> ByCause {
        let mut spent = self.spent;
        let passed = self.since.elapsed().as_secs_f64();
        match &self.now {
            Charged::Cause(cause) => spent[index(*cause)] += passed,
            Charged::Pass(pass) => {
                for (spent, part) in spent.iter_mut().zip(pass.parts()) {
                    *spent += passed * part;
                }
            }
        }
        spent
    }
}

/// Whom the middle of a pass waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsOn {
    /// The bytes of the source.
    Source,
    /// The digest.
    Digest,
    /// The cache's file.
    CacheFile,
    /// The copier.
    Copier,
}

/// Work in which several things run at the same time.
#[derive(Debug)]
pub struct Pass {
    /// What time is charged to until something was measured.
    first: Cause,
    source_ns: AtomicU64,
    digest_ns: AtomicU64,
    cache_file_ns: AtomicU64,
    copier_ns: AtomicU64,
    own_ns: AtomicU64,
    /// What the tasks that fetch waited for.
    server_ns: AtomicU64,
    limit_ns: AtomicU64,
    yield_ns: AtomicU64,
    /// What the writer of the cache's file waited for.
    cache_device_ns: AtomicU64,
    cache_yield_ns: AtomicU64,
    /// Of the copy, if there is one.
    copy: Arc<Counters>,
    /// Time in which it is paused is not measured.
    pause: Arc<Pause>,
}

impl Pass {
    /// A pass with this copy, which waits for something of this kind first.
    pub fn new(copy: Arc<Counters>, first: Cause, pause: Arc<Pause>) -> Self {
        Self {
            first,
            source_ns: AtomicU64::default(),
            digest_ns: AtomicU64::default(),
            cache_file_ns: AtomicU64::default(),
            copier_ns: AtomicU64::default(),
            own_ns: AtomicU64::default(),
            server_ns: AtomicU64::default(),
            limit_ns: AtomicU64::default(),
            yield_ns: AtomicU64::default(),
            cache_device_ns: AtomicU64::default(),
            cache_yield_ns: AtomicU64::default(),
            copy,
            pause,
        }
    }

    /// Measures a wait of the middle.
    pub fn wait<T>(&self, whom: WaitsOn, waiting: impl FnOnce() -> T) -> T {
        let (started, paused) = (Instant::now(), self.pause.total());
        let value = waiting();
        let paused = self.pause.total().saturating_sub(paused);
        let counter = match whom {
            WaitsOn::Source => &self.source_ns,
            WaitsOn::Digest => &self.digest_ns,
            WaitsOn::CacheFile => &self.cache_file_ns,
            WaitsOn::Copier => &self.copier_ns,
        };
        add(counter, started.elapsed().saturating_sub(paused));
        value
    }

    /// The writer of the cache's file has waited: for its disk, or because others came first.
    pub fn cache_waited(&self, cause: Cause, time: Duration) {
        let counter = match cause {
            Cause::Guests => &self.cache_yield_ns,
            _ => &self.cache_device_ns,
        };
        add(counter, time);
    }

    /// Measures work of the middle itself.
    pub fn work<T>(&self, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let value = work();
        add(&self.own_ns, started.elapsed());
        value
    }

    /// A task that fetches has waited.
    pub fn fetch_waited(&self, reason: WaitReason, time: Duration) {
        let counter = match reason {
            WaitReason::Server => &self.server_ns,
            WaitReason::Limit => &self.limit_ns,
            WaitReason::Others => &self.yield_ns,
        };
        add(counter, time);
    }

    /// The parts of the pass's time, which add up to 1.
    fn parts(&self) -> ByCause {
        let mut parts = ByCause::default();
        let source = divided(
            seconds(&self.source_ns),
            [
                (Cause::Network, seconds(&self.server_ns)),
                (Cause::Limit, seconds(&self.limit_ns)),
                (Cause::Guests, seconds(&self.yield_ns)),
            ],
            Cause::Network,
        );
        let time = &self.copy.time;
        let (device, limit) = (seconds(&time.device_ns), seconds(&time.limit_ns));
        let guests = seconds(&time.yield_ns);
        let decoding = (seconds(&time.busy_ns) - device - limit - guests).max(0.0);
        let copier = seconds(&self.copier_ns);
        let waits = copier + seconds(&self.source_ns) + seconds(&self.digest_ns);
        let waits = waits + seconds(&self.cache_file_ns) + seconds(&self.own_ns);
        // Without a middle that waits, the pass is what the copier's threads did.
        let copier = match waits > 0.0 {
            true => copier,
            false => decoding + device + limit + guests,
        };
        let copier = divided(
            copier,
            [
                (Cause::Cpu, decoding),
                (Cause::Device, device),
                (Cause::Limit, limit),
                (Cause::Guests, guests),
            ],
            Cause::Device,
        );
        let cache_file = divided(
            seconds(&self.cache_file_ns),
            [
                (Cause::Device, seconds(&self.cache_device_ns)),
                (Cause::Guests, seconds(&self.cache_yield_ns)),
            ],
            Cause::Device,
        );
        for (cause, part) in source.into_iter().chain(copier).chain(cache_file) {
            parts[index(cause)] += part;
        }
        parts[index(Cause::Cpu)] += seconds(&self.digest_ns) + seconds(&self.own_ns);
        let all: f64 = parts.iter().sum();
        match all > 0.0 {
            true => parts.map(|part| part / all),
            false => {
                parts[index(self.first)] = 1.0;
                parts
            }
        }
    }
}

/// A time in the proportion of others; all of it is the last's if there are none.
fn divided<const N: usize>(
    time: f64,
    by: [(Cause, f64); N],
    otherwise: Cause,
) -> Vec<(Cause, f64)> {
    let all: f64 = by.iter().map(|(_, weight)| weight).sum();
    if all <= 0.0 {
        return vec![(otherwise, time)];
    }
    by.into_iter()
        .map(|(cause, weight)| (cause, time * weight / all))
        .collect()
}

fn index(cause: Cause) -> usize {
    cause as usize
}

fn add(counter: &AtomicU64, time: Duration) {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    counter.fetch_add(nanos, Ordering::Relaxed);
}

fn seconds(counter: &AtomicU64) -> f64 {
    Duration::from_nanos(counter.load(Ordering::Relaxed)).as_secs_f64()
}

fn round(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests;
