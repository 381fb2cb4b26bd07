//! Asynchronous writes: a worker decodes into one buffer while others are being written.
//!
//! ```text
//! buffer() --> the worker fills it --> write() --> kernel --> counted, and the buffer is free again
//! ```
//!
//! What this saves is not system calls but waiting. A worker that waits decodes nothing, and on
//! ext4 all other writers of a file wait while one fills a hole.

use std::ops::Range;
use std::sync::Arc;

use super::engine::Lease;
use super::output::{Output, WriteRange};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::{AlignedBuf, AsyncWrites, Memory};

/// Buffers of a worker: one that it fills while another is being written, and one for reading.
const BUFFERS: usize = 3;

/// Buffers of a worker that the kernel may be writing at the same time. With more, a source that is
/// faster than the target would fill the memory.
const MAX_PENDING: usize = 2;

/// The part of a buffer that is written to one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) guest_offset: u64,
    pub(crate) range: Range<usize>,
}

/// The buffers of one worker, and its writes.
pub(crate) struct WriteQueue {
    output: Arc<Output>,
    lease: Lease,
    /// `None` before the first write, and if the kernel provides no asynchronous writes.
    writes: Option<AsyncWrites>,
    may_be_async: bool,
    idle: Vec<AlignedBuf>,
    /// Whether another process decodes, and to which buffers.
    is_apart: bool,
    shared: Vec<AlignedBuf>,
    /// How many more buffers may be taken.
    untaken: usize,
    pending: Vec<PendingWrite>,
}

/// A buffer that the kernel is writing.
#[derive(Debug)]
struct PendingWrite {
    key: usize,
    parts: Vec<WriteRange>,
    guest_bytes: u64,
}

impl WriteQueue {
    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(crate) fn new(output: Arc<Output>, lease: Lease) -> Self {
        Self {
            output,
            lease,
            writes: None,
            may_be_async: true,
            idle: Vec::with_capacity(BUFFERS),
            is_apart: false,
            shared: Vec::new(),
            untaken: BUFFERS,
            pending: Vec::with_capacity(MAX_PENDING),
        }
    }

    /// Joins in these buffers, which another process decodes to. What is read stays in others: a device reads
    /// faster to huge pages, which shared memory mostly has not.
    pub(crate) fn join_in(&mut self, buffers: Vec<AlignedBuf>) {
        self.is_apart = true;
        self.shared = buffers;
    }

    /// A buffer to join guest bytes in.
    pub(crate) fn join_buffer(&mut self) -> Result<AlignedBuf> {
        while self.is_apart {
            if let Some(buffer) = self.shared.pop() {
                return Ok(buffer);
            }
            if !self.reap(true)? {
                return Err(lost("a buffer"));
            }
        }
        self.buffer()
    }

    /// A buffer, which may still hold its previous user's data. If none is free, waits for a write
    /// to complete.
    pub(crate) fn buffer(&mut self) -> Result<AlignedBuf> {
        loop {
            if let Some(buffer) = self.idle.pop() {
                return Ok(buffer);
            }
            if self.untaken > 0 {
                self.untaken -= 1;
                return self
                    .lease
                    .buffer()
                    .map_err(|e| Error::io(ErrorKind::Write, "Allocating a buffer failed", e));
            }
            if !self.reap(true)? {
                return Err(lost("a buffer"));
            }
        }
    }

    /// Writes the segments of `memory`, and frees it when they are written.
    pub(crate) fn write(&mut self, memory: Memory, segments: &[Segment]) -> Result<()> {
        if segments.is_empty() {
            self.free(memory);
            return Ok(());
        }
        // Before waiting for the rate limit; otherwise writes that complete meanwhile would be counted
        // only afterwards. A rate-limited copy loses nothing by waiting for its writes first.
        let is_held = self.output.limits().is_limited();
        while self.reap(is_held)? {}
        let mut parts = Vec::new();
        let mut guest_bytes = 0;
        for segment in segments {
            let bytes = &memory[segment.range.clone()];
            guest_bytes += bytes.len() as u64;
            self.output
                .split(segment.guest_offset, bytes, &mut |part| {
                    let start = segment.range.start;
                    parts.push(WriteRange {
                        range: part.range.start + start..part.range.end + start,
                        ..part
                    });
                })?;
        }
        while self.pending.len() >= MAX_PENDING {
            if !self.reap(true)? {
                return Err(lost("a write"));
            }
        }
        let write = PendingWrite {
            key: 0,
            parts,
            guest_bytes,
        };
        let output = Arc::clone(&self.output);
        let target = output.target();
        // While others need the device, small portions follow each other instead of filling its queue.
        let is_async = target.is_direct() && output.limits().portion_bytes().is_none();
        let Some(writes) = is_async.then(|| self.writes()).flatten() else {
            return self.complete(write, memory, |_, _| false);
        };
        let bytes = write.parts.iter().map(|part| part.range.len() as u64);
        output.give_way(bytes.sum())?;
        let places = write
            .parts
            .iter()
            .map(|part| (part.range.clone(), part.offset));
        // It waits where the device's queue is full.
        let key = (output.time())
            .device(|| writes.submit(target.file(), memory, places))
            .map_err(|e| Error::io(ErrorKind::Write, "Starting a write failed", e))?;
        self.pending.push(PendingWrite { key, ..write });
        Ok(())
    }

    fn writes(&mut self) -> Option<&mut AsyncWrites> {
        if self.writes.is_none() && self.may_be_async {
            self.writes = self.lease.context();
            self.may_be_async = self.writes.is_some();
        }
        self.writes.as_mut()
    }

    /// Waits until everything is written.
    pub(crate) fn flush(&mut self) -> Result<()> {
        while self.reap(true)? {}
        Ok(())
    }

    /// Completes one buffer, and waits for that if told to. False if there is none.
    fn reap(&mut self, wait: bool) -> Result<bool> {
        let Some(writes) = &mut self.writes else {
            return Ok(false);
        };
        let mut next = || writes.next_done(wait);
        let done = match wait {
            true => self.output.time().device(next),
            false => next(),
        };
        let done =
            done.map_err(|e| Error::io(ErrorKind::Write, "Waiting for a write failed", e))?;
        let Some(done) = done else {
            return Ok(false);
        };
        let is_it = |write: &PendingWrite| write.key == done.key;
        let index = self.pending.iter().position(is_it);
        let write = self
            .pending
            .swap_remove(index.ok_or_else(|| lost("a write"))?);
        self.complete(write, done.memory, |index, part| {
            matches!(done.results.get(index), Some(Ok(written)) if *written == part.range.len())
        })?;
        Ok(true)
    }

    /// Counts what is written, writes the rest, and frees the memory.
    ///
    /// A failed write is repeated synchronously: the synchronous code knows how to handle or report
    /// the error.
    fn complete(
        &mut self,
        write: PendingWrite,
        memory: Memory,
        is_written: impl Fn(usize, &WriteRange) -> bool,
    ) -> Result<()> {
        let mut bytes = 0;
        for (index, part) in write.parts.iter().enumerate() {
            if !is_written(index, part) {
                self.output
                    .write_now(&memory[part.range.clone()], part.offset)?;
            }
            bytes += part.range.len() as u64;
        }
        self.output.count(bytes, write.guest_bytes);
        self.free(memory);
        Ok(())
    }

    fn free(&mut self, memory: Memory) {
        if let Memory::Own(buffer) = memory {
            match buffer.place() {
                Some(_) => self.shared.push(buffer),
                None => self.idle.push(buffer),
            }
        }
    }
}

impl Drop for WriteQueue {
    fn drop(&mut self) {
        if let Some(writes) = self.writes.take() {
            self.lease.return_context(writes);
        }
        self.lease.return_buffers(self.idle.drain(..));
    }
}

/// The error for something that was handed out and did not come back.
fn lost(what: &str) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("The copy has lost {what}, which is a bug in this program"),
    )
}

#[cfg(test)]
mod tests;
