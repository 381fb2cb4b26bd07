//! A ceiling on the rate at which bytes are read, shared by all of a source's readers.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How much unused time may be made up for: enough to hide the timer's and the scheduler's
/// lateness, too little to be seen in a rate over a second or two.
const BURST: Duration = Duration::from_millis(50);

/// Hands out moments instead of tokens: each caller is told when its bytes are paid for.
///
/// As the schedule moves by bytes and not by when sleepers really woke, late timers do not lower
/// the rate.
#[derive(Debug)]
pub(super) struct RateLimit {
    bytes_per_sec: u64,
    paid_until: Mutex<Instant>,
}

impl RateLimit {
    /// `None` for a rate of zero, which would never let anything through.
    pub(super) fn new(bytes_per_sec: u64) -> Option<Self> {
        (bytes_per_sec > 0).then(|| Self {
            bytes_per_sec,
            paid_until: Mutex::new(Instant::now()),
        })
    }

    /// Waits until `bytes` more fit into the rate.
    pub(super) async fn take(&self, bytes: usize) {
        let due = self.schedule(bytes, Instant::now());
        tokio::time::sleep_until(due).await;
    }

    fn schedule(&self, bytes: usize, now: Instant) -> Instant {
        let price = Duration::from_secs_f64(bytes as f64 / self.bytes_per_sec as f64);
        let mut paid_until = self
            .paid_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        *paid_until = (*paid_until).max(earliest) + price;
        *paid_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        assert!(RateLimit::new(0).is_none());
    }

    #[test]
    fn late_callers_keep_the_rate_and_idle_time_is_not_saved_up() {
        let limit = RateLimit::new(1_000_000).expect("the rate is positive");
        let start = Instant::now();
        // 100 chunks of 10 ms each; every caller comes back 3 ms late.
        let mut now = start;
        for _ in 0..100 {
            now = limit.schedule(10_000, now) + Duration::from_millis(3);
        }
        let took = now - start;
        assert!((990..1010).contains(&took.as_millis()), "{took:?}");

        let after_a_pause = now + Duration::from_secs(60);
        let due = limit.schedule(1_000_000, after_a_pause);
        assert!(due - after_a_pause >= Duration::from_secs(1) - BURST);
    }
}
