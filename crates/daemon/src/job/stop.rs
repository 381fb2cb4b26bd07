//! One way to stop a job, for async code and for blocking threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

/// Why a job is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// A client cancelled the job.
    Cancelled,
    /// It exceeded its time limit.
    TimedOut,
    /// The daemon is stopping; the job continues at the next start.
    Shutdown,
}

/// Tells a job to stop, and why. Clones share their state; the first reason counts.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
    flag: Arc<AtomicBool>,
}

impl Stop {
    /// Stops the job.
    pub fn stop(&self, reason: StopReason) {
        // A second reason changes nothing: the job is already stopping.
        self.reason.get_or_init(|| reason);
        self.flag.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Why the job is to stop, if it is.
    pub fn reason(&self) -> Option<StopReason> {
        self.reason.get().copied()
    }

    /// Returns when the job is to stop.
    pub async fn stopped(&self) -> StopReason {
        self.token.cancelled().await;
        self.reason().unwrap_or(StopReason::Cancelled)
    }

    /// The same for blocking threads.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }
}
