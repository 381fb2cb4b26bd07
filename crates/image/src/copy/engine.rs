//! What copies share: contexts for asynchronous writes, buffers, the budget for large windows, and the
//! sandbox in which compressed data is decoded.
//!
//! ```text
//! Engine --lease()--> Lease (one for each worker) --> context, buffers
//!    ^                                                     |
//!    '---- given back; buffers are freed with the last lease
//! ```
//!
//! Every copy gets an engine from its owner. Copies share no other state.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::format::StreamCodec;
use crate::formats::stream::{StreamDecoder, Windows};
pub(crate) use crate::sandbox::BUFFER_BYTES;
use crate::sandbox::{Decoders, Sandbox};
use crate::sys::{AlignedBuf, AsyncWrites, HUGE_PAGE_BYTES};

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
    sandbox: Option<Sandbox>,
    decoders: Decoders,
}

#[derive(Debug, Default)]
struct Idle {
    contexts: Vec<AsyncWrites>,
    buffers: Vec<AlignedBuf>,
    leases: usize,
}

impl Engine {
    /// An engine that owns nothing yet, and decodes in this process.
    pub fn new() -> Self {
        Self::default()
    }

    /// An engine whose [jobs](Self::for_job) decode in processes of their own.
    pub fn with_sandbox(sandbox: Sandbox) -> Self {
        Self {
            sandbox: Some(sandbox),
            ..Self::default()
        }
    }

    /// The engine for one job: it shares everything except for the process that decodes, which
    /// ends with the last clone.
    #[must_use]
    pub fn for_job(&self) -> Self {
        let decoders = self.sandbox.as_ref().map(Sandbox::session);
        Self {
            decoders: decoders.unwrap_or_default(),
            ..self.clone()
        }
    }

    /// The same for a job that does not go on once the flag is set.
    #[must_use]
    pub fn until(self, cancel: Arc<AtomicBool>) -> Self {
        Self {
            decoders: self.decoders.until(cancel),
            ..self
        }
    }

    /// The sandbox, if there is one.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandbox.as_ref()
    }

    /// Where the job's compressed data is decoded.
    pub fn decoders(&self) -> &Decoders {
        &self.decoders
    }

    /// A decoder for a stream, with the memory that all copies together may use for large windows.
    pub(crate) fn stream_decoder(
        &self,
        codec: StreamCodec,
        is_stopped: impl Fn() -> bool + Clone + Send + 'static,
    ) -> Result<StreamDecoder> {
        StreamDecoder::within(codec, &self.decoders, self.windows.clone(), is_stopped)
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

    /// Returns buffers for other copies that are running. Memory that a decoding process has as well is
    /// no other copy's.
    pub(crate) fn return_buffers(&self, buffers: impl IntoIterator<Item = AlignedBuf>) {
        let own = buffers
            .into_iter()
            .filter(|buffer| buffer.place().is_none());
        self.engine.lock().buffers.extend(own);
    }

    /// Where the copy's compressed data is decoded.
    pub(crate) fn decoders(&self) -> &Decoders {
        self.engine.decoders()
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
