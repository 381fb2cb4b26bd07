//! A ceiling on the rate at which bytes are read, shared by all of a source's readers.

use std::num::NonZeroU64;
use std::sync::Arc;

use lvp_image::copy::RateLimiter;
use tokio::time::Instant;

/// Schedules each caller's bytes. As the schedule advances by bytes and not by when callers really woke up,
/// late timers do not lower the rate.
#[derive(Debug)]
pub struct ReadLimit(Arc<RateLimiter>);

impl ReadLimit {
    /// A rate that somebody else sets.
    pub(super) fn shared(rate: Arc<RateLimiter>) -> Self {
        Self(rate)
    }

    /// `None` for a rate of zero, which would never let anything through.
    pub fn new(bytes_per_sec: u64) -> Option<Self> {
        NonZeroU64::new(bytes_per_sec).map(|rate| Self(Arc::new(RateLimiter::new(rate))))
    }

    /// Waits until `bytes` more fit into the rate.
    pub(super) async fn take(&self, bytes: usize) {
        let now = Instant::now();
        let due = self.schedule(bytes, now);
        // A timer that is due takes its time all the same, which would count as a wait.
        if due > now {
            tokio::time::sleep_until(due).await;
        }
    }

    fn schedule(&self, bytes: usize, now: Instant) -> Instant {
        let due = self.0.reserve(bytes as u64, now.into_std());
        Instant::from_std(due)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        assert!(ReadLimit::new(0).is_none());
    }

    #[test]
    fn callers_that_come_back_late_keep_the_rate() {
        let limit = ReadLimit::new(1_000_000).expect("the rate is positive");
        let start = Instant::now();
        // 100 chunks of 10 ms each; every caller comes back 3 ms late.
        let mut now = start;
        for _ in 0..=100 {
            now = limit.schedule(10_000, now) + Duration::from_millis(3);
        }
        let took = now - start;
        assert!((990..1010).contains(&took.as_millis()), "{took:?}");
    }
}
