//! How long to wait before a failed operation is repeated.
//!
//! Every wait is extended by a random amount of up to a fifth, so that hosts, jobs and ranges that failed together do
//! not all return at the same time. The other end may ask for a longer wait (`Retry-After`), up to a limit: the
//! operator, not the peer, decides how long to wait.

use std::time::Duration;

/// Largest share by which a wait is extended.
const JITTER: f64 = 0.2;

/// The waits after consecutive failures.
#[derive(Debug, Clone)]
pub struct Backoff {
    waits: Waits,
    /// Longest wait that the other end can ask for.
    asked_max: Duration,
    failures: u32,
}

#[derive(Debug, Clone)]
enum Waits {
    /// Each twice as long as the one before it, without end.
    Doubling { first: Duration, longest: Duration },
    /// These waits, one for each repeat; no further attempt after the last.
    Listed(Vec<Duration>),
}

impl Backoff {
    /// Waits that double up to `longest`, without end.
    pub const fn doubling(first: Duration, longest: Duration) -> Self {
        Self {
            waits: Waits::Doubling { first, longest },
            asked_max: longest,
            failures: 0,
        }
    }

    /// As many repeats as there are waits.
    pub fn listed(waits: Vec<Duration>, asked_max: Duration) -> Self {
        Self {
            waits: Waits::Listed(waits),
            asked_max,
            failures: 0,
        }
    }

    /// Records a failure. Returns how long to wait before the next attempt, or None if there is
    /// none.
    pub fn failed(&mut self, asked: Option<Duration>) -> Option<Duration> {
        let wait = self.nth(self.failures);
        self.failures = self.failures.saturating_add(1);
        let asked = asked.unwrap_or_default().min(self.asked_max);
        Some(stretched(wait?.max(asked)))
    }

    /// Records a success, or that something else is tried now.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The number of consecutive failures.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The wait after this many earlier failures.
    fn nth(&self, failures: u32) -> Option<Duration> {
        match &self.waits {
            Waits::Doubling { first, longest } => {
                let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
                Some(first.saturating_mul(factor).min(*longest))
            }
            Waits::Listed(waits) => usize::try_from(failures)
                .ok()
                .and_then(|index| waits.get(index).copied()),
        }
    }
}

fn stretched(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + rand::random::<f64>() * JITTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn check(wait: Option<Duration>, seconds: u32) {
        let wait = wait.expect("there is a further attempt");
        let (least, most) = (SECOND * seconds, (SECOND * seconds).mul_f64(1.0 + JITTER));
        assert!(wait >= least && wait <= most, "{wait:?} for {seconds} s");
    }

    #[test]
    fn waits_double_up_to_their_limit_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::doubling(SECOND, 300 * SECOND);
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            check(backoff.failed(None), seconds);
        }
        assert_eq!(backoff.failures(), 11);
        backoff.reset();
        check(backoff.failed(None), 1);
    }

    #[test]
    fn no_number_of_failures_is_too_many() {
        let mut backoff = Backoff::doubling(SECOND, 300 * SECOND);
        for failures in [31, 32, 33, u32::MAX] {
            backoff.failures = failures;
            check(backoff.failed(None), 300);
        }
        assert_eq!(backoff.failures(), u32::MAX);
    }

    #[test]
    fn a_list_is_used_up_and_then_there_is_no_further_attempt() {
        let mut backoff = Backoff::listed(vec![SECOND, 5 * SECOND], 30 * SECOND);
        check(backoff.failed(None), 1);
        check(backoff.failed(None), 5);
        assert_eq!(backoff.failed(None), None);
        assert_eq!(backoff.failed(Some(SECOND)), None, "whatever is asked for");
        assert_eq!(Backoff::listed(Vec::new(), SECOND).failed(None), None);
    }

    #[test]
    fn the_other_end_can_lengthen_a_wait_up_to_a_limit_and_never_shorten_it() {
        let asked = |seconds| Some(SECOND * seconds);
        let mut backoff = Backoff::listed(vec![2 * SECOND; 3], 30 * SECOND);
        check(backoff.failed(asked(5)), 5);
        check(backoff.failed(asked(0)), 2);
        check(backoff.failed(asked(86_400)), 30);
        let mut backoff = Backoff::doubling(SECOND, 10 * SECOND);
        check(backoff.failed(asked(86_400)), 10);
    }

    #[test]
    fn operations_that_failed_together_are_not_repeated_together() {
        let wait = || Backoff::doubling(SECOND, SECOND).failed(None);
        let first = wait();
        assert!((0..100).any(|_| wait() != first), "{first:?}");
    }
}
