//! Requests that go out together, and what their answers show of how many their server serves at once.
//!
//! A server that is down for a moment refuses requests as one does that serves few at once. A refusal counts as one for
//! their number only if another request of the round was being answered meanwhile.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::gate::Gate;

/// Requests that go out together.
#[derive(Debug)]
pub(super) struct Together {
    /// The object was found. Until then a request that may have failed for the same reason is not repeated.
    pub(super) found: CancellationToken,
    /// Limits them, once the server has refused some.
    pub(super) gate: Arc<Gate>,
    /// Those that have no answer yet.
    pub(super) waiting: Arc<Waiting>,
    width: usize,
    refusals: Mutex<Refusals>,
}

#[derive(Debug, Default)]
struct Refusals {
    /// For each whether another request was being answered meanwhile.
    proven: Vec<bool>,
    is_opening_read: bool,
}

impl Together {
    /// At most so many.
    pub(super) fn new(width: usize) -> Self {
        Self {
            found: CancellationToken::new(),
            gate: Arc::new(Gate::new(width)),
            waiting: Arc::default(),
            width,
            refusals: Mutex::default(),
        }
    }

    /// A request is sent. For [`Together::answered`].
    pub(super) fn asked(&self) -> usize {
        self.lock().proven.len()
    }

    /// A request was answered. What was refused since it was sent was refused for the number of requests.
    pub(super) fn answered(&self, asked: usize) {
        if let Some(meanwhile) = self.lock().proven.get_mut(asked..) {
            meanwhile.fill(true);
        }
    }

    /// The server reports an overload.
    pub(super) fn refused(&self) {
        let mut refusals = self.lock();
        let is_proven = refusals.is_opening_read;
        refusals.proven.push(is_proven);
    }

    /// Whether the object's first bytes are being read from now on.
    pub(super) fn set_opening_read(&self, is_read: bool) {
        self.lock().is_opening_read = is_read;
    }

    /// The most requests at once that the server has shown to serve, if it has refused some for their number.
    pub(super) fn most_at_once(&self) -> Option<usize> {
        let refusals = self.lock();
        let refused = refusals.proven.iter().filter(|proven| **proven).count();
        (refused > 0).then(|| self.width.saturating_sub(refused).max(1))
    }

    fn lock(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts the requests that have no answer yet.
#[derive(Debug, Default)]
pub(super) struct Waiting(watch::Sender<Waits>);

#[derive(Debug, Default)]
struct Waits {
    unanswered: usize,
    ended: u64,
}

impl Waiting {
    /// A request is sent, which has no answer as long as the result is held.
    pub(super) fn begin(self: &Arc<Self>) -> Unanswered {
        self.0.send_modify(|waits| waits.unanswered += 1);
        Unanswered(Arc::clone(self))
    }

    /// Returns once some have waited so long without any being answered.
    pub(super) async fn for_long(&self, patience: Duration) {
        let mut waits = self.0.subscribe();
        loop {
            // The sender is `self`, and so none of these fails.
            let ended = match waits.wait_for(|waits| waits.unanswered > 0).await {
                Ok(waits) => waits.ended,
                Err(_) => return,
            };
            tokio::select! {
                () = tokio::time::sleep(patience) => return,
                _ = waits.wait_for(|waits| waits.ended != ended) => {}
            }
        }
    }
}

/// A request without an answer.
#[derive(Debug)]
pub(super) struct Unanswered(Arc<Waiting>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        (self.0.0).send_modify(|waits| {
            waits.unanswered -= 1;
            waits.ended += 1;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_refused_while_another_is_answered_tells_how_many_are_served() {
        // A short outage: all are refused, then all are served.
        let round = Together::new(8);
        let first: Vec<_> = (0..8).map(|_| round.asked()).collect();
        first.iter().for_each(|_| round.refused());
        for _ in 0..8 {
            round.answered(round.asked());
        }
        assert_eq!(round.most_at_once(), None);
        // One at a time: the answer comes after the refusals.
        let round = Together::new(8);
        let served = round.asked();
        for _ in 0..7 {
            round.refused();
        }
        assert_eq!(round.most_at_once(), None);
        round.answered(served);
        assert_eq!(round.most_at_once(), Some(1));
        // Each counts once, and those while the first bytes are read do as well.
        let round = Together::new(8);
        let (served, other) = (round.asked(), round.asked());
        round.refused();
        round.answered(served);
        round.answered(other);
        assert_eq!(round.most_at_once(), Some(7));
        round.set_opening_read(true);
        round.refused();
        round.set_opening_read(false);
        round.refused();
        assert_eq!(round.most_at_once(), Some(6));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_begins_the_wait_anew() {
        let waiting = Arc::<Waiting>::default();
        let patience = Duration::from_secs(2);
        let step = Duration::from_millis(1500);
        let (first, second) = (waiting.begin(), waiting.begin());
        let long = waiting.for_long(patience);
        tokio::pin!(long);
        assert!(tokio::time::timeout(step, &mut long).await.is_err());
        drop(first);
        assert!(tokio::time::timeout(step, &mut long).await.is_err());
        drop(second);
        assert!(tokio::time::timeout(10 * step, &mut long).await.is_err());
        let _third = waiting.begin();
        assert!(tokio::time::timeout(2 * step, &mut long).await.is_ok());
    }
}
