//! One way to stop a job, for async code and for blocking threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

/// Why a job is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// A client cancelled it.
    Cancelled,
    /// It ran longer than allowed.
    TimedOut,
    /// The daemon stops; the job goes on at its next start.
    Shutdown,
}

/// Tells a job to stop and why. Clones are the same switch; the first reason stays.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
    flag: Arc<AtomicBool>,
}

impl Stop {
    /// Stops the job.
    pub fn stop(&self, reason: StopReason) {
        // A second reason changes nothing: the job is already on its way out.
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

    /// The same switch for blocking threads.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }
}
