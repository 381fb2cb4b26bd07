//! Accepts an image's bytes in order, in chunks of any size, and passes them to the workers.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::cut::{Cutter, Select};
use super::engine::Engine;
use super::held;
use super::options::TimeSpent;
use super::output::Output;
use super::pool::WorkerPool;
use super::stop::{StopSignal, cancelled};
use super::work::{SpanBytes, Work};
use crate::buffer::{BufferPool, PooledBuf};
use crate::error::{Error, ErrorKind, Result};
use crate::format::StreamCodec;
use crate::formats::stream::StreamDecoder;
use crate::map::Batch;

/// Smaller chunks are first copied together, so that a source of tiny chunks costs memory copies
/// but not a work item each.
const MIN_CHUNK_BYTES: usize = 256 << 10; // 256 KiB

/// Feeds an image that has a map.
#[derive(Debug)]
pub(crate) struct MapFeeder {
    /// `None` if no bytes are needed at all.
    cutter: Option<Cutter>,
    /// Chunks that are still needed, with their host offsets, contiguous.
    chunks: VecDeque<(u64, Bytes)>,
    /// Host offset after the last chunk.
    position: u64,
    small: BytesMut,
}

impl MapFeeder {
    pub(crate) fn new(batch: Option<Arc<Batch>>) -> Self {
        Self {
            cutter: batch.map(|batch| Cutter::new(batch, Select::All)),
            chunks: VecDeque::new(),
            position: 0,
            small: BytesMut::new(),
        }
    }

    pub(crate) fn feed(&mut self, chunk: Bytes, workers: &WorkerPool) -> Result<()> {
        if chunk.len() >= MIN_CHUNK_BYTES {
            self.take_small(workers)?;
            return self.push(chunk, workers);
        }
        self.small.extend_from_slice(&chunk);
        if self.small.len() >= MIN_CHUNK_BYTES {
            self.take_small(workers)?;
        }
        Ok(())
    }

    pub(crate) fn finish(mut self, workers: &WorkerPool) -> Result<()> {
        self.take_small(workers)?;
        self.submit_spans(workers, true)?;
        match self.needed_from() {
            None => Ok(()),
            Some(needed) => Err(Error::new(
                ErrorKind::Truncated,
                format!(
                    "The image ended after {} bytes, before its data at byte {needed:#x} was \
                     complete",
                    self.position
                ),
            )),
        }
    }

    fn take_small(&mut self, workers: &WorkerPool) -> Result<()> {
        if self.small.is_empty() {
            return Ok(());
        }
        let chunk = self.small.split().freeze();
        self.push(chunk, workers)
    }

    fn push(&mut self, chunk: Bytes, workers: &WorkerPool) -> Result<()> {
        let start = self.position;
        self.position += chunk.len() as u64;
        self.chunks.push_back((start, chunk));
        self.forget_unneeded();
        self.submit_spans(workers, false)
    }

    fn submit_spans(&mut self, workers: &WorkerPool, flush: bool) -> Result<()> {
        while let Some(span) = self
            .cutter
            .as_mut()
            .and_then(|cutter| cutter.next(self.position, flush))
        {
            let bytes = SpanBytes::Fed(self.slices(&span.host));
            self.forget_unneeded();
            workers.submit(Work::Extents { span, bytes })?;
        }
        workers.check()
    }

    fn needed_from(&self) -> Option<u64> {
        self.cutter.as_ref()?.needed_from()
    }

    /// Releases chunks before the next byte that is needed.
    fn forget_unneeded(&mut self) {
        let needed = self.needed_from().unwrap_or(u64::MAX);
        while let Some((start, chunk)) = self.chunks.front()
            && start + chunk.len() as u64 <= needed
        {
            self.chunks.pop_front();
        }
    }

    /// The part of a range that lies within the chunks.
    fn slices(&self, range: &Range<u64>) -> Vec<Bytes> {
        let first = self
            .chunks
            .partition_point(|(start, chunk)| start + chunk.len() as u64 <= range.start);
        self.chunks
            .range(first..)
            .take_while(|(start, _)| *start < range.end)
            .map(|(start, chunk)| {
                let index = |offset: u64| {
                    usize::try_from(offset.saturating_sub(*start))
                        .map_or(chunk.len(), |index| index.min(chunk.len()))
                };
                chunk.slice(index(range.start)..index(range.end))
            })
            .collect()
    }
}

/// How much is decoded at a time; more than what is held back at the end of the disk.
const BLOCK_BYTES: usize = 2 << 20; // 2 MiB

const _: () = assert!(BLOCK_BYTES as u64 >= held::HELD_BYTES + 8192);

/// Decoded blocks in memory: the two that are kept back, and four that are being written while the
/// next one is decoded. With the largest window that a stream may have, more blocks would exceed 64
/// MiB.
const BLOCKS: usize = 6;

/// A disk consists of whole sectors: a stream that ends inside one is padded with zeros.
const SECTOR_BYTES: u64 = 512;

/// Feeds a raw image that is inside one compressed stream.
///
/// The end of the disk is known only when the stream ends. So the last two blocks are kept here
/// until then: they include what is held back at the end of the disk.
pub(crate) struct StreamFeeder {
    decoder: StreamDecoder,
    blocks: Blocks,
}

struct Blocks {
    pool: BufferPool,
    output: Arc<Output>,
    stop: Arc<StopSignal>,
    /// A full block.
    previous: Option<PooledBuf>,
    current: Option<PooledBuf>,
    filled: usize,
    /// Guest offset of `current`.
    offset: u64,
}

impl StreamFeeder {
    pub(crate) fn new(
        codec: StreamCodec,
        engine: &Engine,
        output: Arc<Output>,
        stop: Arc<StopSignal>,
    ) -> Result<Self> {
        let waiting = Arc::clone(&stop);
        Ok(Self {
            decoder: engine.stream_decoder(codec, move || waiting.is_set())?,
            blocks: Blocks {
                pool: BufferPool::new(BLOCKS, BLOCK_BYTES),
                output,
                stop,
                previous: None,
                current: None,
                filled: 0,
                offset: 0,
            },
        })
    }

    pub(crate) fn feed(&mut self, chunk: &[u8], workers: &WorkerPool) -> Result<()> {
        let Self { decoder, blocks } = self;
        let output = Arc::clone(&blocks.output);
        let (started, mut waited) = (Instant::now(), Duration::ZERO);
        let result = decoder.push(chunk, &mut |piece| {
            let started = Instant::now();
            let taken = blocks.take(piece, workers);
            waited += started.elapsed();
            taken
        });
        // This thread decodes; what it waits for is counted by the workers.
        let decoded = started.elapsed().saturating_sub(waited);
        TimeSpent::count(&output.time().busy_ns, decoded);
        // A worker's failure stops the decoder as well, and is the one to report.
        workers.check()?;
        result
    }

    /// Ends the stream. Returns the disk's size.
    pub(crate) fn finish(self, workers: &WorkerPool) -> Result<u64> {
        let Self {
            decoder,
            mut blocks,
        } = self;
        let result = decoder.finish_counted(&mut |piece| blocks.take(piece, workers));
        workers.check()?;
        let (_, ignored) = result?;
        let counters = blocks.output.counters();
        counters.ignored_bytes.store(ignored, Ordering::Relaxed);
        blocks.finish()
    }
}

impl Blocks {
    fn take(&mut self, mut piece: &[u8], workers: &WorkerPool) -> Result<()> {
        while !piece.is_empty() {
            let end = self.offset + (self.filled + piece.len()) as u64;
            self.output.target().check_fits(end)?;
            let block = match &mut self.current {
                Some(block) => block,
                none => {
                    let taken = self
                        .pool
                        .take(|| self.stop.is_set())
                        .map_err(|e| Error::io(ErrorKind::Write, "Allocating failed", e))?;
                    none.insert(taken.ok_or_else(cancelled)?)
                }
            };
            let len = piece.len().min(block.len() - self.filled);
            block[self.filled..self.filled + len].copy_from_slice(&piece[..len]);
            self.filled += len;
            piece = &piece[len..];
            if self.filled == block.len() {
                self.full(workers)?;
            }
        }
        Ok(())
    }

    fn full(&mut self, workers: &WorkerPool) -> Result<()> {
        let offset = self.offset;
        self.offset += self.filled as u64;
        self.filled = 0;
        match std::mem::replace(&mut self.previous, self.current.take()) {
            None => Ok(()),
            Some(bytes) => workers.submit(Work::Block {
                guest_offset: offset - bytes.len() as u64,
                bytes: Bytes::from_owner(bytes),
            }),
        }
    }

    /// Writes the last blocks, and holds back the last MiB of the disk.
    fn finish(self) -> Result<u64> {
        let end = self.offset + self.filled as u64;
        let virtual_size = end.next_multiple_of(SECTOR_BYTES);
        self.output.target().check_fits(virtual_size)?;
        self.output.hold(held::foot(virtual_size))?;
        if let Some(previous) = self.previous {
            let offset = self.offset - previous.len() as u64;
            self.output.write(offset, &previous)?;
        }
        if let Some(mut current) = self.current {
            let padding = usize::try_from(virtual_size - end).unwrap_or_default();
            let padded = self.filled + padding;
            current[self.filled..padded].fill(0);
            self.output.write(self.offset, &current[..padded])?;
        }
        Ok(virtual_size)
    }
}
