//! Writes under way: a worker decodes into one buffer while others are being written.
//!
//! ```text
//! buffer() --> the worker fills it --> write() --> kernel --> counted, and the buffer is free again
//! ```
//!
//! What this saves is not the system call but the wait. A worker that waits decodes nothing, and
//! ext4 has every other writer of a file wait with it while one fills a hole.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::output::{Part, Sink};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::{AlignedBuf, AsyncWrites, HUGE_PAGE_BYTES, Memory};

/// Buffers of a worker: one that it fills while another is written, and one for what it reads.
const BUFFERS: usize = 3;

/// Buffers that a worker has under way at most. With more, a source that is faster than the target
/// would fill the memory.
const MAX_FLIGHTS: usize = 2;

/// Writes that a worker has under way at most: two full buffers of 64 KiB runs.
const MAX_WRITES: u32 = 64;

/// Contexts of copies that have ended, for those that begin: to end one took the kernel 32 ms
/// where that was measured (io_destroy(2) waits for an RCU grace period), longer than a small copy.
static IDLE_WRITES: Mutex<Vec<AsyncWrites>> = Mutex::new(Vec::new());

/// Contexts that are kept: those of six copies.
const MAX_IDLE_WRITES: usize = 32;

/// What of a buffer goes to one place of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) guest_offset: u64,
    pub(crate) range: Range<usize>,
}

/// The buffers of one worker, and its writes.
pub(crate) struct Flights {
    sink: Arc<dyn Sink>,
    /// `None` before the first write, and where the kernel has no asynchronous ones to give.
    writes: Option<AsyncWrites>,
    may_be_async: bool,
    buffer_bytes: usize,
    idle: Vec<AlignedBuf>,
    /// How many more buffers may be made.
    unmade: usize,
    flights: Vec<Flight>,
}

#[derive(Debug)]
struct Flight {
    key: usize,
    parts: Vec<Part>,
    guest_bytes: u64,
}

impl Flights {
    pub(crate) fn new(sink: Arc<dyn Sink>, buffer_bytes: usize) -> Self {
        Self {
            sink,
            writes: None,
            may_be_async: true,
            buffer_bytes,
            idle: Vec::with_capacity(BUFFERS),
            unmade: BUFFERS,
            flights: Vec::with_capacity(MAX_FLIGHTS),
        }
    }

    /// A buffer, whose content is whatever its last user left; waits for a write to end when there
    /// is none.
    pub(crate) fn buffer(&mut self) -> Result<AlignedBuf> {
        loop {
            if let Some(buffer) = self.idle.pop() {
                return Ok(buffer);
            }
            if self.unmade > 0 {
                self.unmade -= 1;
                // What lies beyond a huge page is rarely used, and should not be taken as a whole.
                return AlignedBuf::with_huge_pages(self.buffer_bytes, HUGE_PAGE_BYTES)
                    .map_err(|e| Error::io(ErrorKind::Write, "Allocating a buffer failed", e));
            }
            if !self.land(true)? {
                return Err(lost("a buffer"));
            }
        }
    }

    /// Writes the segments of `memory`, and lets go of it when that is over.
    pub(crate) fn write(&mut self, memory: Memory, segments: &[Segment]) -> Result<()> {
        if segments.is_empty() {
            self.free(memory);
            return Ok(());
        }
        // Before the wait for the rate limit, or what is written long since would not be counted.
        while self.land(false)? {}
        let mut parts = Vec::new();
        let mut guest_bytes = 0;
        for segment in segments {
            let bytes = &memory[segment.range.clone()];
            guest_bytes += bytes.len() as u64;
            self.sink.sift(segment.guest_offset, bytes, &mut |part| {
                let start = segment.range.start;
                parts.push(Part {
                    range: part.range.start + start..part.range.end + start,
                    ..part
                });
            })?;
        }
        while self.flights.len() >= MAX_FLIGHTS {
            if !self.land(true)? {
                return Err(lost("a write"));
            }
        }
        let flight = Flight {
            key: 0,
            parts,
            guest_bytes,
        };
        let sink = Arc::clone(&self.sink);
        let target = sink.target().filter(|target| target.is_direct());
        let Some((target, writes)) = target.and_then(|target| Some((target, self.writes()?)))
        else {
            return self.complete(flight, memory, |_, _| false);
        };
        let places = flight
            .parts
            .iter()
            .map(|part| (part.range.clone(), part.offset));
        let key = writes
            .submit(target.file(), memory, places)
            .map_err(|e| Error::io(ErrorKind::Write, "Starting a write failed", e))?;
        self.flights.push(Flight { key, ..flight });
        Ok(())
    }

    fn writes(&mut self) -> Option<&mut AsyncWrites> {
        if self.writes.is_none() && self.may_be_async {
            let idle = idle_writes().pop();
            self.writes = idle.or_else(|| AsyncWrites::new(MAX_WRITES).ok());
            self.may_be_async = self.writes.is_some();
        }
        self.writes.as_mut()
    }

    /// Waits until nothing is under way.
    pub(crate) fn settle(&mut self) -> Result<()> {
        while self.land(true)? {}
        Ok(())
    }

    /// Sees one buffer written, and waits for that if told to; false when there is none.
    fn land(&mut self, wait: bool) -> Result<bool> {
        let Some(writes) = &mut self.writes else {
            return Ok(false);
        };
        let done = writes
            .next_done(wait)
            .map_err(|e| Error::io(ErrorKind::Write, "Waiting for a write failed", e))?;
        let Some(done) = done else {
            return Ok(false);
        };
        let is_it = |flight: &Flight| flight.key == done.key;
        let index = self.flights.iter().position(is_it);
        let flight = self
            .flights
            .swap_remove(index.ok_or_else(|| lost("a write"))?);
        self.complete(flight, done.memory, |index, part| {
            matches!(done.results.get(index), Some(Ok(written)) if *written == part.range.len())
        })?;
        Ok(true)
    }

    /// Counts what is written, writes what is not, and lets go of the memory.
    ///
    /// What went wrong is done once more, by a plain write: that one knows what to do about it, or
    /// what to say.
    fn complete(
        &mut self,
        flight: Flight,
        memory: Memory,
        is_written: impl Fn(usize, &Part) -> bool,
    ) -> Result<()> {
        let mut bytes = 0;
        for (index, part) in flight.parts.iter().enumerate() {
            if let Some(target) = self.sink.target()
                && !is_written(index, part)
            {
                target.write_all_at(&memory[part.range.clone()], part.offset)?;
            }
            bytes += part.range.len() as u64;
        }
        self.sink.count(bytes, flight.guest_bytes);
        self.free(memory);
        Ok(())
    }

    fn free(&mut self, memory: Memory) {
        if let Memory::Own(buffer) = memory {
            self.idle.push(buffer);
        }
    }
}

impl Drop for Flights {
    fn drop(&mut self) {
        let done = self.writes.take().filter(AsyncWrites::is_idle);
        let mut idle = idle_writes();
        if idle.len() < MAX_IDLE_WRITES {
            idle.extend(done);
        }
    }
}

fn idle_writes() -> std::sync::MutexGuard<'static, Vec<AsyncWrites>> {
    // A list that no panic can leave half-changed.
    IDLE_WRITES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something that was handed out and did not come back.
fn lost(what: &str) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("The copy has lost {what}, which is a bug in this program"),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::atomic::Ordering;

    use super::super::Counters;
    use super::super::output::Output;
    use super::super::stop::Stop;
    use super::*;
    use crate::device::{FileSize, Target};

    const BUFFER_BYTES: usize = 16 << 10;

    /// A new file of two buffers, and who writes to it.
    fn flights(path: &Path, may_be_async: bool) -> (Arc<Output>, Flights) {
        let mut target = Target::open_file(path, FileSize::OfImage).unwrap();
        let size = 2 * BUFFER_BYTES as u64;
        target.prepare(Some(size), 4096, false).unwrap();
        assert!(target.is_direct(), "nothing is tried without direct I/O");
        let stop = Arc::new(Stop::new(Arc::default()));
        let output = Output::new(target, Arc::new(Counters::default()), None, stop);
        let output = Arc::new(output);
        let mut flights = Flights::new(Arc::clone(&output) as Arc<dyn Sink>, BUFFER_BYTES);
        flights.may_be_async = may_be_async;
        (output, flights)
    }

    /// Writes one buffer in two segments, the second of them `tail` bytes short; what is in the file
    /// then, and whether it still takes direct writes.
    fn written(may_be_async: bool, tail: usize) -> (Vec<u8>, bool) {
        // Beside the test's program, which is on a disk.
        let program = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let path = directory.path().join("target");
        let (output, mut flights) = flights(&path, may_be_async);
        let mut buffer = flights.buffer().unwrap();
        buffer.fill(7);
        let half = BUFFER_BYTES / 2;
        let segments = [(0, 0..half), (BUFFER_BYTES, half..BUFFER_BYTES - tail)];
        let segments = segments.map(|(guest_offset, range)| Segment {
            guest_offset: guest_offset as u64,
            range,
        });
        flights.write(Memory::Own(buffer), &segments).unwrap();
        assert_eq!(flights.writes.is_some(), may_be_async);
        flights.settle().unwrap();
        assert_eq!(flights.idle.len(), 1, "the buffer is free again");
        let written = output.counters().written_bytes.load(Ordering::Relaxed);
        assert_eq!(written, (BUFFER_BYTES - tail) as u64);
        (fs::read(&path).unwrap(), output.target().is_direct())
    }

    fn expected(tail: usize) -> Vec<u8> {
        let half = BUFFER_BYTES / 2;
        let mut bytes = vec![0; 2 * BUFFER_BYTES];
        bytes[..half].fill(7);
        bytes[BUFFER_BYTES..BUFFER_BYTES + half - tail].fill(7);
        bytes
    }

    #[test]
    fn with_and_without_asynchronous_writes_the_same_is_written() {
        for may_be_async in [true, false] {
            assert!(written(may_be_async, 0) == (expected(0), true));
        }
    }

    #[test]
    fn a_write_that_the_kernel_refuses_is_done_again_in_another_way() {
        // No whole blocks: EINVAL for a direct write, and then it goes through the page cache.
        for may_be_async in [true, false] {
            assert!(written(may_be_async, 1000) == (expected(1000), false));
        }
    }
}
