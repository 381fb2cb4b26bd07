//! Holds a copy still, and lets it go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::stop::StopSignal;
use crate::error::Result;

/// How often a copy that stands still checks whether it was cancelled.
const CANCEL_CHECK: Duration = Duration::from_millis(50);

/// Holds the workers of copies: while it is on, they take up no work. What they have given to the kernel is written.
#[derive(Debug, Default)]
pub struct Brake {
    is_on: AtomicBool,
    lock: Mutex<()>,
    released: Condvar,
}

impl Brake {
    /// Holds the copies, or lets them go on.
    pub fn set(&self, is_on: bool) {
        // Under the lock, so that no worker misses the wake-up between its look and its wait.
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_on.store(is_on, Ordering::Release);
        drop(guard);
        self.released.notify_all();
    }

    /// Waits until the copy may go on.
    pub(crate) fn wait(&self, stop: &StopSignal) -> Result<()> {
        if !self.is_on.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while self.is_on.load(Ordering::Acquire) {
            stop.check()?;
            let waited = self.released.wait_timeout(guard, CANCEL_CHECK);
            (guard, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}
