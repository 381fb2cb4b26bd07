//! What copies share: contexts for asynchronous writes, buffers, and the budget for large windows.
//!
//! ```text
//! Engine --lease()--> Lease (one for each worker) --> context, buffers
//!    ^                                                     |
//!    '---- given back; buffers are freed with the last lease
//! ```
//!
//! Every copy gets an engine from its owner. Copies share no other state.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::formats::stream::Windows;
use crate::sys::{AlignedBuf, AsyncWrites, HUGE_PAGE_BYTES};

/// Size of a buffer: room for a span, for the longest compressed cluster (the descriptor of a 2 MiB
/// cluster can claim 4 MiB), and for the blocks in which both begin and end. Memory that is not
/// touched is not taken.
pub(crate) const BUFFER_BYTES: usize = (4 << 20) + (128 << 10);

/// Most writes that a worker has in progress: two full buffers of 64 KiB runs.
const MAX_WRITES: u32 = 64;

/// Contexts that are kept: those of six copies. They outlive copies because destroying one took the
/// kernel 32 ms when measured (io_destroy(2) waits for an RCU grace period), which is longer than a
/// small copy.
const MAX_IDLE_CONTEXTS: usize = 32;

/// Owns what is expensive to create for every copy. A program creates one and gives it to every
/// copy. Clones share it.
///
/// When idle it keeps some kernel contexts and no memory: buffers are kept only while a copy runs.
#[derive(Debug, Clone, Default)]
pub struct Engine {
    idle: Arc<Mutex<Idle>>,
    windows: Windows,
}

#[derive(Debug, Default)]
struct Idle {
    contexts: Vec<AsyncWrites>,
    buffers: Vec<AlignedBuf>,
    leases: usize,
}

impl Engine {
    /// An engine that owns nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The memory that all copies together may use for large windows.
    pub(crate) fn windows(&self) -> Windows {
        self.windows.clone()
    }

    /// One worker's access.
    pub(crate) fn lease(&self) -> Lease {
        self.lock().leases += 1;
        Lease {
            engine: self.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        // Lists that a panic cannot leave half-changed.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One worker's access to an engine.
#[derive(Debug)]
pub(crate) struct Lease {
    engine: Engine,
}

impl Lease {
    /// A context for writes; None if the kernel provides none.
    pub(crate) fn context(&self) -> Option<AsyncWrites> {
        let idle = self.engine.lock().contexts.pop();
        idle.or_else(|| AsyncWrites::new(MAX_WRITES).ok())
    }

    /// Returns a context, unless it still has writes in progress.
    pub(crate) fn return_context(&self, context: AsyncWrites) {
        let mut idle = self.engine.lock();
        if context.is_idle() && idle.contexts.len() < MAX_IDLE_CONTEXTS {
            idle.contexts.push(context);
        }
    }

    /// A buffer of [`BUFFER_BYTES`], which may still hold its previous user's data.
    pub(crate) fn buffer(&self) -> io::Result<AlignedBuf> {
        if let Some(buffer) = self.engine.lock().buffers.pop() {
            return Ok(buffer);
        }
        // Memory beyond a huge page is rarely used, and should not be taken as a whole.
        AlignedBuf::with_huge_pages(BUFFER_BYTES, HUGE_PAGE_BYTES)
    }

    /// Returns buffers for other copies that are running.
    pub(crate) fn return_buffers(&self, buffers: impl IntoIterator<Item = AlignedBuf>) {
        self.engine.lock().buffers.extend(buffers);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut idle = self.engine.lock();
        idle.leases -= 1;
        let unused = if idle.leases == 0 {
            std::mem::take(&mut idle.buffers)
        } else {
            Vec::new()
        };
        // Unmapping takes time, so it is done without the lock.
        drop(idle);
        drop(unused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_kept_while_somebody_copies_and_contexts_for_the_next_copy() {
        let engine = Engine::new();
        let (first, second) = (engine.lease(), engine.clone().lease());
        let buffer = first.buffer().unwrap();
        let place = buffer.as_ptr();
        first.return_buffers([buffer]);
        let context = first.context().unwrap();
        first.return_context(context);
        drop(first);
        let buffer = second.buffer().unwrap();
        assert_eq!(buffer.as_ptr(), place, "the same buffer");
        second.return_buffers([buffer]);
        drop(second);
        let idle = engine.lock();
        assert_eq!((idle.buffers.len(), idle.contexts.len()), (0, 1));
    }

    #[test]
    fn no_more_contexts_are_kept_than_six_copies_use() {
        let engine = Engine::new();
        let lease = engine.lease();
        let contexts: Vec<_> = (0..40).map_while(|_| lease.context()).collect();
        assert_eq!(contexts.len(), 40);
        for context in contexts {
            lease.return_context(context);
        }
        assert_eq!(engine.lock().contexts.len(), MAX_IDLE_CONTEXTS);
    }
}
