//! How many requests of one reader a server has at once.
//!
//! Some servers serve few connections, or one, and answer 429 or 503 to the rest. Each such answer takes one request
//! at once away, down to one: the repeat waits until another is through, so that one repeat is enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Shared by the ranges of one reader.
#[derive(Debug)]
pub(super) struct Gate {
    permits: Arc<Semaphore>,
    width: AtomicUsize,
}

impl Gate {
    pub(super) fn new(width: usize) -> Self {
        let width = width.max(1);
        Self {
            permits: Arc::new(Semaphore::new(width)),
            width: AtomicUsize::new(width),
        }
    }

    /// Waits until another request may be made. None only if the gate were closed, which nobody does.
    pub(super) async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Takes a request's place away for good, unless it is the last one. Whether it did.
    pub(super) fn narrow(&self, place: &mut Option<OwnedSemaphorePermit>) -> bool {
        let fewer = |width: usize| (width > 1).then(|| width - 1);
        let narrowed = place.is_some()
            && (self.width)
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer)
                .is_ok();
        if narrowed && let Some(place) = place.take() {
            place.forget();
        }
        narrowed
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
