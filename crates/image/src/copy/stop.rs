//! What makes a copy stop before its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// The owner's wish to cancel, and the copy's own failure: every loop and wait looks here.
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

    /// Stops everything because one part failed, which reports its error elsewhere.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.cancel.load(Ordering::Relaxed)
    }

    /// An error once the copy is to stop.
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
