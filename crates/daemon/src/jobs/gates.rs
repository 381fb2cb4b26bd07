//! Jobs that may not run at the moment, though there is a slot: those of an order whose host has no place in its wave.
//!
//! A gate is named by what the idempotency keys of its jobs begin with. A job behind a closed gate waits without a slot.
//! Closing a gate does not stop a job that runs: see [`Jobs::put_back`](super::Jobs::put_back).

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Which gates are closed.
#[derive(Debug, Default)]
pub struct Gates {
    closed: Mutex<HashSet<String>>,
    /// Whether the daemon is stopping.
    changed: watch::Sender<bool>,
}

impl Gates {
    /// Closes a gate.
    pub fn close(&self, prefix: &str) {
        self.lock().insert(prefix.to_owned());
    }

    /// Opens a gate.
    pub fn open(&self, prefix: &str) {
        self.lock().remove(prefix);
        self.changed.send_modify(|_| {});
    }

    /// Opens all gates whose names begin with this, except one.
    pub fn forget(&self, beginning: &str, keep: Option<&str>) {
        let is_kept =
            |prefix: &String| !prefix.starts_with(beginning) || Some(prefix.as_str()) == keep;
        self.lock().retain(is_kept);
        self.changed.send_modify(|_| {});
    }

    /// Whether a job with this idempotency key may run.
    pub fn is_open(&self, key: Option<&str>) -> bool {
        let is_behind = |key: &str| self.lock().iter().any(|prefix| key.starts_with(prefix));
        !key.is_some_and(is_behind)
    }

    /// The daemon is stopping: nothing behind a closed gate is waited for any longer.
    pub(super) fn end(&self) {
        self.changed.send_replace(true);
    }

    /// Returns once a job with this key may run, or never will in this process: whether it may.
    pub(super) async fn opened(&self, key: Option<&str>) -> bool {
        let mut changed = self.changed.subscribe();
        loop {
            // Before the look, so that no change after it is missed.
            let has_ended = *changed.borrow_and_update();
            if self.is_open(key) {
                return true;
            }
            // The sender lives as long as this.
            if has_ended || changed.changed().await.is_err() {
                return false;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        // A set of texts that no panic can leave half-changed.
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn jobs_wait_behind_their_own_gate_only_and_until_it_is_opened() {
        let gates = Arc::new(Gates::default());
        gates.close("fleet:a:1:");
        assert!(gates.is_open(None));
        assert!(gates.is_open(Some("fleet:a:2:vm")));
        assert!(!gates.is_open(Some("fleet:a:1:vm")));
        let waiting = Arc::clone(&gates);
        let waiting = tokio::spawn(async move { waiting.opened(Some("fleet:a:1:vm")).await });
        gates.close("fleet:b:1:");
        gates.open("fleet:b:1:");
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        gates.open("fleet:a:1:");
        assert!(waiting.await.expect("it ends"));
        gates.close("fleet:a:1:");
        gates.close("fleet:a:2:");
        gates.close("fleet:b:1:");
        gates.forget("fleet:a:", Some("fleet:a:2:"));
        let is_open = |key| gates.is_open(Some(key));
        let held = Arc::clone(&gates);
        let held = tokio::spawn(async move { held.opened(Some("fleet:b:1:vm")).await });
        tokio::task::yield_now().await;
        gates.end();
        assert!(!held.await.expect("it ends"));
        assert!(is_open("fleet:a:1:vm") && !is_open("fleet:a:2:vm") && !is_open("fleet:b:1:vm"));
    }
}
