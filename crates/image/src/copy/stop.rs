//! Stops a copy before its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// The owner's cancel flag, and the copy's own failure. Every loop and wait checks this.
#[derive(Debug)]
pub(crate) struct StopSignal {
    cancel: Arc<AtomicBool>,
    failed: AtomicBool,
}

impl StopSignal {
    pub(crate) fn new(cancel: Arc<AtomicBool>) -> Self {
        Self {
            cancel,
            failed: AtomicBool::new(false),
        }
    }

    /// Stops everything because one part failed. That part reports its error elsewhere.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.cancel.load(Ordering::Relaxed)
    }

    /// An error if the copy is to stop.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_set() {
            return Err(cancelled());
        }
        Ok(())
    }
}

pub(crate) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "The copy was cancelled")
}
