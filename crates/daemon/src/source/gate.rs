//! Limits the concurrent requests of one reader.
//!
//! Some servers serve few connections, or one, and answer 429 or 503 to the rest. Each such answer lowers the
//! limit by one, down to one: the retry waits until another request has finished, so that one retry is enough. A range
//! that stands still would keep its place from the one that is waited for, and so lets go of it where places are few.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The permit of one request; none while it has no request.
pub(super) type Place = Option<OwnedSemaphorePermit>;

/// Shared by the ranges of one reader.
#[derive(Debug)]
pub(super) struct Gate {
    permits: Arc<Semaphore>,
    width: AtomicUsize,
    full_width: usize,
    narrowed: Notify,
}

impl Gate {
    pub(super) fn new(width: usize) -> Self {
        let width = width.max(1);
        Self {
            permits: Arc::new(Semaphore::new(width)),
            width: AtomicUsize::new(width),
            full_width: width,
            narrowed: Notify::new(),
        }
    }

    /// Waits until another request may be made. None only if the gate is closed, which never happens.
    pub(super) async fn enter(&self) -> Place {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Removes a request's permit for good, unless it is the last one. Returns whether it did.
    pub(super) fn narrow(&self, place: &mut Place) -> bool {
        let fewer = |width: usize| (width > 1).then(|| width - 1);
        let narrowed = place.is_some()
            && (self.width)
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer)
                .is_ok();
        if narrowed && let Some(place) = place.take() {
            place.forget();
        }
        if narrowed {
            self.narrowed.notify_waiters();
        }
        narrowed
    }

    /// How many requests may be made at once now.
    pub(super) fn width(&self) -> usize {
        self.width.load(Ordering::Relaxed)
    }

    /// Whether the server has refused requests for their number.
    pub(super) fn is_narrow(&self) -> bool {
        self.width() < self.full_width
    }

    /// Waits until it refuses one, if it is not narrow yet.
    pub(super) async fn narrows(&self) {
        let narrowed = self.narrowed.notified();
        if !self.is_narrow() {
            narrowed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gate_gets_narrower_down_to_one() {
        let gate = Gate::new(3);
        let mut places = vec![gate.enter().await, gate.enter().await, gate.enter().await];
        assert!(gate.narrow(&mut places[0]));
        assert!(!gate.narrow(&mut places[0]), "its place is gone");
        assert!(gate.narrow(&mut places[1]));
        assert!(!gate.narrow(&mut places[2]), "one stays");
        assert_eq!(gate.permits.available_permits(), 0);
        drop(places);
        assert_eq!(gate.permits.available_permits(), 1);
    }
}
