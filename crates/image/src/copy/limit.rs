//! Limits the rate of writes, so that running guests keep their share of the device.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::stop::StopSignal;
use crate::error::Result;

/// Unused time may be made up for within this span, and no longer: this absorbs jitter, but a copy
/// that waited for its source does not burst afterwards.
const CATCH_UP: Duration = Duration::from_millis(200);

/// Longest sleep between two checks of the cancel flag.
const MAX_SLEEP: Duration = Duration::from_millis(50);

/// Bounds of a portion. The least is still large enough for a disk to be worth its seek.
const PORTION_BYTES: std::ops::RangeInclusive<u64> = 128 << 10..=2 << 20;

/// A portion is what the rate lets through in this part of a second.
const PORTIONS_PER_SEC: u64 = 64;

/// A rate in bytes per second for one copy, or shared by several. It can be changed, and lifted, while copies run.
#[derive(Debug)]
pub struct RateLimiter {
    /// 0 while there is no limit.
    bytes_per_sec: AtomicU64,
    /// The time at which everything that was let through is paid for.
    paid_until: Mutex<Option<Instant>>,
    /// Everything that was let through.
    passed_bytes: AtomicU64,
}

impl RateLimiter {
    /// Lets `bytes_per_sec` through.
    pub fn new(bytes_per_sec: NonZeroU64) -> Self {
        let limiter = Self::open();
        limiter.set_rate(Some(bytes_per_sec));
        limiter
    }

    /// Lets everything through, until it is given a rate.
    pub fn open() -> Self {
        Self {
            bytes_per_sec: AtomicU64::new(0),
            paid_until: Mutex::new(None),
            passed_bytes: AtomicU64::new(0),
        }
    }

    /// Changes the rate for what is booked from now on; None lifts the limit.
    pub fn set_rate(&self, bytes_per_sec: Option<NonZeroU64>) {
        let rate = bytes_per_sec.map_or(0, NonZeroU64::get);
        self.bytes_per_sec.store(rate, Ordering::Relaxed);
    }

    /// The rate; None while there is no limit.
    pub fn rate(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.bytes_per_sec.load(Ordering::Relaxed))
    }

    /// How much is to be moved at a time; None while there is no limit. A whole number of pages.
    pub fn portion_bytes(&self) -> Option<usize> {
        let portion = self.rate()?.get() / PORTIONS_PER_SEC;
        let portion = portion.clamp(*PORTION_BYTES.start(), *PORTION_BYTES.end());
        usize::try_from(portion & !0xffff).ok()
    }

    /// Bytes that were let through since it was made.
    pub fn passed_bytes(&self) -> u64 {
        self.passed_bytes.load(Ordering::Relaxed)
    }

    /// Waits until `bytes` more may be written.
    pub(crate) fn wait(&self, bytes: u64, stop: &StopSignal) -> Result<()> {
        match self.wait_unless(bytes, || stop.is_set()) {
            true => Ok(()),
            false => stop.check(),
        }
    }

    /// Waits until `bytes` more may be written, or until `is_stopped`. Returns whether they may be.
    pub fn wait_unless(&self, bytes: u64, is_stopped: impl Fn() -> bool) -> bool {
        let due = self.reserve(bytes, Instant::now());
        loop {
            if is_stopped() {
                return false;
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() || self.rate().is_none() {
                return true;
            }
            std::thread::sleep(left.min(MAX_SLEEP));
        }
    }

    /// Books `bytes` and returns when they may be written: after everything that was booked before.
    pub fn reserve(&self, bytes: u64, now: Instant) -> Instant {
        self.passed_bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut paid_until = self
            .paid_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(rate) = self.rate() else {
            *paid_until = None;
            return now;
        };
        // A single request is far below 2^53 bytes, up to which f64 is exact.
        #[expect(
            clippy::cast_precision_loss,
            reason = "a relative error of 2^-53 in a duration is of no consequence"
        )]
        let cost = Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
        // The first booking starts the clock: there is no burst before it.
        let earliest = paid_until.map_or(now, |_| now.checked_sub(CATCH_UP).unwrap_or(now));
        let start = paid_until.map_or(earliest, |paid| paid.max(earliest));
        *paid_until = Some(start + cost);
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limiter(rate: u64) -> RateLimiter {
        RateLimiter::new(NonZeroU64::new(rate).unwrap())
    }

    #[test]
    fn bookings_follow_each_other_at_the_rate_and_idle_time_is_not_saved_up() {
        let limiter = limiter(1000);
        let start = Instant::now();
        assert_eq!(limiter.reserve(2000, start), start);
        assert_eq!(limiter.reserve(1000, start), start + 2 * SECOND);
        assert_eq!(limiter.reserve(1000, start + SECOND), start + 3 * SECOND);
        let late = start + 10 * SECOND;
        assert_eq!(limiter.reserve(1000, late), late - CATCH_UP);
        assert_eq!(limiter.reserve(1000, late), late - CATCH_UP + SECOND);
        assert_eq!(limiter.passed_bytes(), 6000);
    }

    #[test]
    fn a_changed_rate_holds_from_the_next_booking_on_and_a_lifted_one_owes_nothing() {
        let limiter = limiter(1000);
        let start = Instant::now();
        assert_eq!(limiter.reserve(1000, start), start);
        limiter.set_rate(NonZeroU64::new(500));
        assert_eq!(limiter.reserve(1000, start), start + SECOND);
        assert_eq!(limiter.reserve(1000, start), start + 3 * SECOND);
        limiter.set_rate(None);
        assert_eq!(limiter.reserve(1 << 40, start), start);
        limiter.set_rate(NonZeroU64::new(1000));
        assert_eq!(limiter.reserve(1000, start), start);
        assert_eq!(limiter.reserve(1000, start), start + SECOND);
    }

    #[test]
    fn portions_follow_the_rate_within_bounds_and_are_whole_pages() {
        let portion = |rate: u64| limiter(rate).portion_bytes();
        assert_eq!(portion(16 << 20), Some(256 << 10));
        assert_eq!(portion(1), Some(128 << 10));
        assert_eq!(portion(1 << 40), Some(2 << 20));
        assert!(portion(33_333_333).unwrap().is_multiple_of(4096));
        assert_eq!(RateLimiter::open().portion_bytes(), None);
    }

    #[test]
    fn who_waits_for_a_slow_rate_goes_on_when_it_is_lifted_and_when_it_is_stopped() {
        let limiter = limiter(1);
        limiter.reserve(1 << 30, Instant::now());
        assert!(!limiter.wait_unless(1, || true));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| limiter.wait_unless(1, || false));
            limiter.set_rate(None);
            assert!(waiting.join().unwrap());
        });
    }
}
