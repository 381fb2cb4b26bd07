//! Values over a limited period.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Look-ups that the hit ratio covers.
const LOOKUPS: usize = 100;

/// The period of a throughput: long enough to be steady, short enough to be "current".
const THROUGHPUT_WINDOW: Duration = Duration::from_secs(5);

/// A throughput over a shorter period would be noise.
const LEAST_SPAN: Duration = Duration::from_secs(1);

/// Share of hits among the last look-ups.
#[derive(Debug, Default)]
pub(super) struct HitRatio(VecDeque<bool>);

impl HitRatio {
    /// Records one look-up.
    pub(super) fn add(&mut self, hit: bool) {
        if self.0.len() == LOOKUPS {
            self.0.pop_front();
        }
        self.0.push_back(hit);
    }

    /// NaN before the first look-up: no ratio is not a bad ratio.
    pub(super) fn value(&self) -> f64 {
        let hits = self.0.iter().filter(|hit| **hit).count();
        let count = |number| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
        count(hits) / count(self.0.len())
    }
}

/// Bytes per second over the last seconds.
#[derive(Debug, Default)]
pub(super) struct Throughput(VecDeque<(Instant, u64)>);

impl Throughput {
    /// Records the bytes that were moved since the last call.
    pub(super) fn add(&mut self, now: Instant, bytes: u64) {
        self.forget(now);
        if bytes > 0 {
            self.0.push_back((now, bytes));
        }
    }

    /// Bytes per second now; 0 if nothing was moved lately.
    pub(super) fn value(&mut self, now: Instant) -> f64 {
        self.forget(now);
        let Some((oldest, _)) = self.0.front() else {
            return 0.0;
        };
        let span = now.duration_since(*oldest).max(LEAST_SPAN);
        let bytes: u64 = self.0.iter().map(|(_, bytes)| bytes).sum();
        super::float(bytes) / span.as_secs_f64()
    }

    fn forget(&mut self, now: Instant) {
        while let Some((when, _)) = self.0.front()
            && now.duration_since(*when) > THROUGHPUT_WINDOW
        {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hit_ratio_forgets_what_is_a_hundred_lookups_ago() {
        let mut ratio = HitRatio::default();
        assert!(ratio.value().is_nan());
        for _ in 0..LOOKUPS {
            ratio.add(false);
        }
        assert_eq!(ratio.value(), 0.0);
        for _ in 0..LOOKUPS / 4 {
            ratio.add(true);
        }
        assert_eq!(ratio.value(), 0.25);
    }

    #[test]
    fn a_throughput_is_of_the_last_seconds_and_falls_to_zero() {
        let mut throughput = Throughput::default();
        let start = Instant::now();
        assert_eq!(throughput.value(start), 0.0);
        for second in 0..10 {
            throughput.add(start + Duration::from_secs(second), 1000);
        }
        // Six samples lie within the last five seconds, the first of them at their very start.
        let now = start + Duration::from_secs(9);
        assert_eq!(throughput.value(now), 1200.0);
        assert_eq!(throughput.value(now + THROUGHPUT_WINDOW * 2), 0.0);
    }
}
