//! Which failures are retried, and after which wait; and who is told about it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::error::{Result, SourceError};
use crate::backoff::Backoff;

/// Longest wait that a server can request: how long a job waits is the operator's decision.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// What has to be received after a failure to have all attempts again.
const PROGRESS_BYTES: u64 = 16 << 20; // 16 MiB

/// One failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: SourceError,
    pub(super) retry: Retry,
}

/// What another attempt could change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// Nothing.
    Never,
    /// The fault may be gone after the configured wait.
    Backoff,
    /// The server named a time.
    After(Duration),
}

impl Failure {
    pub(super) fn last(error: SourceError) -> Self {
        Self {
            error,
            retry: Retry::Never,
        }
    }

    pub(super) fn passing(error: SourceError) -> Self {
        Self {
            error,
            retry: Retry::Backoff,
        }
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::last(error)
    }
}

/// Is told how one job's requests fare.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A request is sent, to the server or to a mirror.
    fn asked(&self);

    /// A request has failed this often in a row, and is repeated after `wait`.
    fn failing(&self, request: RequestId, attempt: u32, error: &SourceError, wait: Duration);

    /// A request that failed before has succeeded.
    fn recovered(&self, request: RequestId);

    /// A request that failed before has ended without success.
    fn gave_up(&self, request: RequestId);

    /// A request has waited.
    fn waited(&self, reason: WaitReason, time: Duration);
}

/// Why a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitReason {
    /// For the server, or for its bytes.
    Server,
    /// The rate is limited.
    Limit,
    /// Others come first on the network.
    Others,
}

/// Distinguishes the requests of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u64);

impl RequestId {
    /// One that no other request has.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The attempts that one request, or one range, still has.
#[derive(Debug)]
pub(super) struct Budget<'a> {
    backoff: Backoff,
    retries: &'a AtomicU64,
    /// Who is told.
    observer: Option<&'a dyn Observer>,
    /// Some while the last attempt has failed; with the failures in a row.
    failing: Option<(RequestId, u32)>,
    retries_made: u32,
    /// Bytes since the last failure.
    received: u64,
}

impl<'a> Budget<'a> {
    /// One retry for each of these waits.
    pub(super) fn new(
        backoff: &[Duration],
        retries: &'a AtomicU64,
        observer: Option<&'a dyn Observer>,
    ) -> Self {
        Self {
            backoff: Backoff::listed(backoff.to_vec(), MAX_RETRY_AFTER),
            retries,
            observer,
            failing: None,
            retries_made: 0,
            received: 0,
        }
    }

    /// Waits until the next attempt is due, or returns the error if there is none.
    pub(super) async fn pause(&mut self, failure: Failure) -> Result<()> {
        let wait = match failure.retry {
            Retry::Never => None,
            Retry::Backoff => self.backoff.failed(None),
            Retry::After(asked) => self.backoff.failed(Some(asked)),
        };
        let Some(wait) = wait else {
            // A final failure is an attempt too.
            let made = self.retries_made + 1;
            return Err(failure.error.with_attempts(made));
        };
        self.retries_made += 1;
        self.received = 0;
        tracing::debug!(
            error = %failure.error,
            attempt = self.retries_made,
            wait_ms = wait.as_millis(),
            "Trying again"
        );
        self.retries.fetch_add(1, Ordering::Relaxed);
        let (request, failures) = self.failing.unwrap_or_else(|| (RequestId::next(), 0));
        self.failing = Some((request, failures + 1));
        if let Some(observer) = self.observer {
            observer.failing(request, failures + 1, &failure.error, wait);
        }
        self.server(tokio::time::sleep(wait)).await;
        Ok(())
    }

    /// Who is told.
    pub(super) fn observer(&self) -> Option<&'a dyn Observer> {
        self.observer
    }

    /// The last attempt has succeeded.
    pub(super) fn succeeded(&mut self) {
        if let (Some((request, _)), Some(observer)) = (self.failing.take(), self.observer) {
            observer.recovered(request);
        }
    }

    /// These bytes have come, and will not be requested again. After enough of them, all attempts are there again:
    /// where connections last for a while only, a large range needs many.
    pub(super) fn received(&mut self, bytes: u64) {
        self.received = self.received.saturating_add(bytes);
        if self.received >= PROGRESS_BYTES {
            self.received = 0;
            self.backoff.reset();
        }
    }

    /// Waits for the server.
    pub(super) async fn server<T>(&self, waiting: impl Future<Output = T>) -> T {
        self.timed(WaitReason::Server, waiting).await
    }

    /// Waits for the limit of the rate.
    pub(super) async fn limit<T>(&self, waiting: impl Future<Output = T>) -> T {
        self.timed(WaitReason::Limit, waiting).await
    }

    /// Waits until others leave room.
    pub(super) async fn give_way<T>(&self, waiting: impl Future<Output = T>) -> T {
        self.timed(WaitReason::Others, waiting).await
    }

    async fn timed<T>(&self, reason: WaitReason, waiting: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let value = waiting.await;
        if let Some(observer) = self.observer {
            observer.waited(reason, started.elapsed());
        }
        value
    }
}

impl Drop for Budget<'_> {
    fn drop(&mut self) {
        if let (Some((request, _)), Some(observer)) = (self.failing.take(), self.observer) {
            observer.gave_up(request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::error::SourceErrorKind;

    fn failure(retry: Retry) -> Failure {
        Failure {
            error: SourceError::new(SourceErrorKind::Unavailable, "It is down"),
            retry,
        }
    }

    /// Waits that a budget makes until it gives up, in whole milliseconds, jitter excluded.
    async fn waits(backoff: &[u64], retry: Retry) -> Vec<Duration> {
        let retries = AtomicU64::new(0);
        let backoff: Vec<_> = backoff.iter().copied().map(Duration::from_millis).collect();
        let mut budget = Budget::new(&backoff, &retries, None);
        let mut waits = Vec::new();
        loop {
            let start = tokio::time::Instant::now();
            if let Err(error) = budget.pause(failure(retry)).await {
                let made = u32::try_from(waits.len()).expect("few waits") + 1;
                assert_eq!(error.attempts(), made);
                assert_eq!(retries.load(Ordering::Relaxed), u64::from(made - 1));
                return waits;
            }
            waits.push(start.elapsed());
        }
    }

    fn check_waits(waits: &[Duration], expected_ms: &[u64]) {
        assert_eq!(waits.len(), expected_ms.len(), "{waits:?}");
        for (wait, expected) in waits.iter().zip(expected_ms) {
            let least = Duration::from_millis(*expected);
            // The back-off's jitter, and a tick of the clock.
            let most = least.mul_f64(1.2) + Duration::from_millis(2);
            assert!(
                *wait >= least && *wait <= most,
                "{wait:?} for {expected} ms"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_one_repeat_per_configured_wait() {
        let waits = waits(&[100, 1_000, 10_000], Retry::Backoff).await;
        check_waits(&waits, &[100, 1_000, 10_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn real_progress_brings_all_attempts_back() {
        let retries = AtomicU64::new(0);
        let mut budget = Budget::new(&[Duration::from_millis(1)], &retries, None);
        for _ in 0..10 {
            assert!(budget.pause(failure(Retry::Backoff)).await.is_ok());
            budget.received(PROGRESS_BYTES / 2);
            budget.received(PROGRESS_BYTES / 2);
        }
        assert!(budget.pause(failure(Retry::Backoff)).await.is_ok());
        budget.received(PROGRESS_BYTES - 1);
        let error = budget.pause(failure(Retry::Backoff)).await;
        assert_eq!(error.expect_err("it was too little").attempts(), 12);
    }

    #[tokio::test(start_paused = true)]
    async fn final_failures_are_not_tried_again() {
        check_waits(&waits(&[100], Retry::Never).await, &[]);
        check_waits(&waits(&[], Retry::Backoff).await, &[]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_servers_wish_lengthens_a_wait_up_to_a_bound() {
        let asked = |secs| Retry::After(Duration::from_secs(secs));
        check_waits(&waits(&[100], asked(5)).await, &[5_000]);
        check_waits(&waits(&[100], asked(0)).await, &[100]);
        check_waits(&waits(&[100], asked(86_400)).await, &[30_000]);
    }
}
