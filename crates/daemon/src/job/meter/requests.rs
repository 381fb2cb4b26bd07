//! The requests for a job's image.

use std::sync::atomic::{AtomicU64, Ordering};

/// Requests to the store and its mirrors that a job has sent.
#[derive(Debug, Default)]
pub struct Requests {
    sent: AtomicU64,
    repeated: AtomicU64,
}

impl Requests {
    /// Those of a job that sent so many before a restart.
    pub(super) fn continued(sent: u64) -> Self {
        Self {
            sent: AtomicU64::new(sent),
            repeated: AtomicU64::default(),
        }
    }

    /// One is sent.
    pub fn send(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were sent, those included that failed.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// One is repeated after a temporary error.
    pub fn repeat(&self) {
        self.repeated.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were repeated in this process.
    pub fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }
}
