//! Limits the rate of writes, so that running guests keep their share of the device.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::stop::StopSignal;
use crate::error::Result;

/// Unused time may be made up for within this span, and no longer: this absorbs jitter, but a copy
/// that waited for its source does not burst afterwards.
const CATCH_UP: Duration = Duration::from_millis(200);

/// Longest sleep between two checks of the cancel flag.
const MAX_SLEEP: Duration = Duration::from_millis(50);

/// A rate in bytes per second for one copy, or shared by several.
#[derive(Debug)]
pub struct RateLimiter {
    bytes_per_sec: NonZeroU64,
    /// The time at which everything that was let through is paid for.
    paid_until: Mutex<Option<Instant>>,
}

impl RateLimiter {
    /// Lets `bytes_per_sec` through.
    pub fn new(bytes_per_sec: NonZeroU64) -> Self {
        Self {
            bytes_per_sec,
            paid_until: Mutex::new(None),
        }
    }

    /// Waits until `bytes` more may be written.
    pub(crate) fn wait(&self, bytes: u64, stop: &StopSignal) -> Result<()> {
        let due = self.reserve(bytes, Instant::now());
        loop {
            stop.check()?;
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(MAX_SLEEP));
        }
    }

    /// Books `bytes` and returns when they may be written: after everything that was booked before.
    pub fn reserve(&self, bytes: u64, now: Instant) -> Instant {
        let mut paid_until = self
            .paid_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // A single request is far below 2^53 bytes, up to which f64 is exact.
        #[expect(
            clippy::cast_precision_loss,
            reason = "a relative error of 2^-53 in a duration is of no consequence"
        )]
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_sec.get() as f64);
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

    #[test]
    fn bookings_follow_each_other_at_the_rate_and_idle_time_is_not_saved_up() {
        let limiter = RateLimiter::new(NonZeroU64::new(1000).unwrap());
        let start = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(limiter.reserve(2000, start), start);
        assert_eq!(limiter.reserve(1000, start), start + 2 * second);
        assert_eq!(limiter.reserve(1000, start + second), start + 3 * second);
        let late = start + 10 * second;
        assert_eq!(limiter.reserve(1000, late), late - CATCH_UP);
        assert_eq!(limiter.reserve(1000, late), late - CATCH_UP + second);
    }
}
