//! The memory for streams with large windows, shared by the whole program.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::MAX_WINDOWS_BYTES;

/// How often a wait checks whether it is still wanted.
const CANCEL_CHECK: Duration = Duration::from_millis(50);

/// A budget for windows. A stream that finds it used up waits until another one has ended.
///
/// Clones share the budget.
#[derive(Clone, Default)]
pub struct Windows {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    used: Mutex<u64>,
    freed: Condvar,
}

impl Windows {
    /// Takes a share once there is one. `None` if `is_cancelled` returns true before that.
    pub(super) fn take(&self, bytes: u64, is_cancelled: &dyn Fn() -> bool) -> Option<Share> {
        let shared = &self.shared;
        let mut used = shared.used.lock().unwrap_or_else(PoisonError::into_inner);
        // A share that is larger than the whole budget gets all of it.
        let bytes = bytes.min(MAX_WINDOWS_BYTES);
        while *used + bytes > MAX_WINDOWS_BYTES {
            if is_cancelled() {
                return None;
            }
            let waited = shared.freed.wait_timeout(used, CANCEL_CHECK);
            used = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *used += bytes;
        Some(Share {
            shared: Arc::clone(shared),
            bytes,
        })
    }
}

impl Means {
    /// Takes a share of the budget once there is one.
    pub(super) fn take(&mut self, bytes: u64) -> Result<Option<Share>> {
        match self {
            Self::Budget {
                windows,
                is_cancelled,
            } => match windows.take(bytes, &**is_cancelled) {
                Some(share) => Ok(Some(share)),
                None => Err(Error::new(ErrorKind::Cancelled, "The copy was cancelled")),
            },
            Self::Asked(ask) => ask(bytes).map(|()| None),
        }
    }
}

impl fmt::Debug for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Windows").finish_non_exhaustive()
    }
}

/// The budget, as a codec uses it while it decodes.
pub(crate) enum Means {
    /// It is this program's.
    Budget {
        windows: Windows,
        /// Whether the decoded bytes are no longer wanted.
        is_cancelled: Box<dyn Fn() -> bool + Send>,
    },
    /// Somebody else has it, who is asked, and keeps the share.
    Asked(Box<dyn FnMut(u64) -> Result<()> + Send>),
}

/// A stream's share of the budget, until it is dropped.
pub(super) struct Share {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut used = self
            .shared
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *used -= self.bytes;
        self.shared.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_stream_waits_for_a_share_of_the_budget_until_it_is_cancelled() {
        let windows = Windows::default();
        let first = windows.take(MAX_WINDOWS_BYTES - 1, &|| true).unwrap();
        assert!(windows.take(2, &|| true).is_none(), "cancelled");
        let small = windows.take(1, &|| true);
        assert!(small.is_some(), "there is room for one byte");
        let waits = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                let is_cancelled = || {
                    waits.store(true, Ordering::Relaxed);
                    false
                };
                windows
                    .take(u64::MAX, &is_cancelled)
                    .map(|share| share.bytes)
            });
            while !waits.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            drop((first, small));
            assert_eq!(other.join().unwrap(), Some(MAX_WINDOWS_BYTES));
        });
    }
}
