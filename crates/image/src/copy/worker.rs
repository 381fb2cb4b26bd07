//! What one worker thread does with a piece of work.

use std::ops::Range;
use std::sync::Arc;

use super::crew::{SpanBytes, Work};
use super::cut::{SPAN_BYTES, Span};
use super::flight::{Flights, Segment};
use super::output::Sink;
use super::zero::GRANULE_BYTES;
use crate::decode::Decoder;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Encoding, Extent};
use crate::sys::{AlignedBuf, Memory};

/// How much of a buffer guest bytes are joined in, and so the longest write: qcow2's largest
/// cluster fits, and devices gain nothing from longer requests.
const JOIN_BYTES: usize = 2 << 20; // 2 MiB

/// A plain run of this length is written from where it is, if its memory is aligned; shorter ones
/// are copied together first.
const DIRECT_RUN_BYTES: usize = 256 << 10; // 256 KiB

/// A buffer: room for a span, for the longest compressed cluster (a 2 MiB cluster's descriptor can claim
/// 4 MiB), and for the blocks that both begin and end in. Memory that is not used is not taken.
const INPUT_BYTES: usize = (4 << 20) + (128 << 10);

const _: () = assert!(SPAN_BYTES < INPUT_BYTES as u64);

/// Memory and decoders of one thread.
pub(crate) struct Worker {
    sink: Arc<dyn Sink>,
    decoder: Decoder,
    cluster_bytes: usize,
    flights: Flights,
    scratch: Vec<u8>,
}

impl Worker {
    /// `cluster_bytes` is the size that compressed clusters decode to.
    pub(crate) fn new(sink: Arc<dyn Sink>, cluster_bytes: usize) -> Self {
        Self {
            flights: Flights::new(Arc::clone(&sink), INPUT_BYTES),
            sink,
            decoder: Decoder::new(),
            cluster_bytes,
            scratch: Vec::new(),
        }
    }

    /// Does a piece of work. What it writes may be under way still when this returns.
    pub(crate) fn run(&mut self, work: Work) -> Result<()> {
        match work {
            Work::Zero(range) => self.sink.zero(range),
            Work::Block {
                guest_offset,
                bytes,
            } => {
                let range = 0..bytes.len();
                let segment = Segment {
                    guest_offset,
                    range,
                };
                self.flights.write(Memory::Shared(bytes), &[segment])
            }
            Work::Extents { span, bytes } => self.extents(&span, bytes),
        }
    }

    /// Waits until everything is written.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.flights.settle()
    }

    fn extents(&mut self, span: &Span, bytes: SpanBytes) -> Result<()> {
        match bytes {
            SpanBytes::Fed(parts) => {
                let view = View::new(span.host.start, parts.iter().map(|part| &part[..]));
                let direct = self.decode(span, &view)?;
                for (part, segments) in parts.into_iter().zip(direct) {
                    self.flights.write(Memory::Shared(part), &segments)?;
                }
                Ok(())
            }
            SpanBytes::Read(source) => {
                let mut input = self.flights.buffer()?;
                let inside = source.read(&span.host, &mut input)?;
                let view = View::new(span.host.start, std::iter::once(&input[inside.clone()]));
                let mut segments = self.decode(span, &view)?.pop().unwrap_or_default();
                for segment in &mut segments {
                    segment.range.start += inside.start;
                    segment.range.end += inside.start;
                }
                self.flights.write(Memory::Own(input), &segments)
            }
        }
    }

    /// Writes what has to be decoded or joined; returns what can be written from where it is, for
    /// each part of the view.
    fn decode(&mut self, span: &Span, view: &View<'_>) -> Result<Vec<Vec<Segment>>> {
        let mut direct = vec![Vec::new(); view.parts.len()];
        let mut joiner = Joiner {
            limit: JOIN_BYTES.max(self.cluster_bytes),
            flights: &mut self.flights,
            sink: &*self.sink,
            buffer: None,
            len: 0,
            segments: Vec::new(),
        };
        for piece in pieces(span) {
            match piece.encoding {
                Encoding::Plain => joiner.plain(&piece, view, &mut direct)?,
                Encoding::Deflate | Encoding::Zstd => {
                    let input = view.contiguous(piece.host_range(), &mut self.scratch)?;
                    let output = joiner.room(piece.guest_offset, self.cluster_bytes)?;
                    self.decoder
                        .decode(piece.encoding, input, output)
                        .map_err(|error| at_cluster(&error, &piece))?;
                    joiner.filled(length(piece.guest_len)?.min(self.cluster_bytes));
                }
            }
        }
        joiner.flush()?;
        Ok(direct)
    }
}

/// The extents of a span in guest order, the plain ones cut to the span's host bytes.
fn pieces(span: &Span) -> Vec<Extent> {
    let mut pieces: Vec<Extent> = span
        .extents
        .clone()
        .filter_map(|index| cut_to(span.batch.extent(index), &span.host))
        .collect();
    pieces.sort_unstable_by_key(|piece| piece.guest_offset);
    pieces
}

fn cut_to(extent: Extent, host: &Range<u64>) -> Option<Extent> {
    if extent.encoding != Encoding::Plain {
        return Some(extent);
    }
    let start = extent.host_offset.max(host.start);
    let end = extent.host_range().end.min(host.end);
    let skipped = start - extent.host_offset;
    // The part that the file no longer holds belongs to the piece that reaches the file's end.
    let guest_len = if end == extent.host_range().end {
        extent.guest_len - skipped
    } else {
        end.checked_sub(start)?
    };
    (guest_len > 0).then_some(Extent {
        host_offset: start,
        host_len: end.saturating_sub(start),
        guest_offset: extent.guest_offset + skipped,
        guest_len,
        encoding: Encoding::Plain,
    })
}

fn at_cluster(error: &Error, piece: &Extent) -> Error {
    Error::new(
        error.kind(),
        format!(
            "{error} (the cluster of guest offset {:#x}, at byte {:#x} of the image)",
            piece.guest_offset, piece.host_offset
        ),
    )
}

fn length(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| out_of_span())
}

/// A span whose bytes do not cover its extents: the plan and the cutter disagree.
fn out_of_span() -> Error {
    Error::new(
        ErrorKind::Internal,
        "An extent lies outside the bytes that were read for it, which is a bug in this program",
    )
}

/// Joins guest bytes in a buffer: those that follow each other into long writes, and others into
/// writes that are under way together.
struct Joiner<'a> {
    flights: &'a mut Flights,
    sink: &'a dyn Sink,
    /// `None` while there is nothing in it.
    buffer: Option<AlignedBuf>,
    /// How much of a buffer is used.
    limit: usize,
    len: usize,
    segments: Vec<Segment>,
}

impl Joiner<'_> {
    /// Room for `bytes` guest bytes at `guest_offset`. The caller tells how much of it was
    /// [filled](Joiner::filled).
    fn room(&mut self, guest_offset: u64, bytes: usize) -> Result<&mut [u8]> {
        let mut is_new = !self.is_next(guest_offset);
        if is_new {
            // Direct writes need it.
            self.len = self.len.next_multiple_of(GRANULE_BYTES);
        }
        if self.len + bytes > self.limit {
            self.flush()?;
            is_new = true;
        }
        if is_new {
            self.segments.push(Segment {
                guest_offset,
                range: self.len..self.len,
            });
        }
        let buffer = match &mut self.buffer {
            Some(buffer) => buffer,
            none => none.insert(self.flights.buffer()?),
        };
        buffer
            .get_mut(self.len..self.len + bytes)
            .ok_or_else(out_of_span)
    }

    /// Whether this guest offset follows what came last.
    fn is_next(&self, guest_offset: u64) -> bool {
        self.segments.last().is_some_and(|segment| {
            segment.guest_offset + segment.range.len() as u64 == guest_offset
        })
    }

    /// So much of the room was filled.
    fn filled(&mut self, bytes: usize) {
        self.len += bytes;
        if let Some(segment) = self.segments.last_mut() {
            segment.range.end = self.len;
        }
    }

    fn plain(
        &mut self,
        piece: &Extent,
        view: &View<'_>,
        direct: &mut [Vec<Segment>],
    ) -> Result<()> {
        let data_end = piece.host_range().end;
        let mut host = piece.host_offset;
        let mut guest = piece.guest_offset;
        while host < data_end {
            let (index, start, part) = view.part(host..data_end)?;
            let aligned = part.as_ptr().align_offset(GRANULE_BYTES) == 0;
            let mut len = part.len();
            if host + (len as u64) < data_end {
                // What comes next should be aligned as well.
                len -= len % GRANULE_BYTES;
            }
            if len >= DIRECT_RUN_BYTES && aligned {
                direct[index].push(Segment {
                    guest_offset: guest,
                    range: start..start + len,
                });
            } else {
                len = part.len().min(self.free_after(guest));
                self.room(guest, len)?.copy_from_slice(&part[..len]);
                self.filled(len);
            }
            host += len as u64;
            guest += len as u64;
        }
        self.missing(guest..piece.guest_range().end)
    }

    /// How much may be added at `guest_offset` in one go.
    fn free_after(&self, guest_offset: u64) -> usize {
        match self.limit.saturating_sub(self.len) {
            free if self.is_next(guest_offset) && free > 0 => free,
            _ => self.limit,
        }
    }

    /// Guest bytes of a plain extent that the image file ends before: they read as zero.
    fn missing(&mut self, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        // Up to a whole block they go with the data before them, which may end anywhere.
        let block_end = range.start.next_multiple_of(GRANULE_BYTES as u64);
        let with_data = length(block_end.min(range.end) - range.start)?;
        self.room(range.start, with_data)?.fill(0);
        self.filled(with_data);
        let rest = range.start + with_data as u64..range.end;
        if rest.is_empty() {
            return Ok(());
        }
        self.sink.zero(rest)
    }

    /// Starts writing what is in the buffer.
    fn flush(&mut self) -> Result<()> {
        self.len = 0;
        let segments = std::mem::take(&mut self.segments);
        match self.buffer.take() {
            Some(buffer) => self.flights.write(Memory::Own(buffer), &segments),
            None => Ok(()),
        }
    }
}

/// A span's host bytes, in one piece or in several.
struct View<'a> {
    /// With their host offsets, ascending, without gaps.
    parts: Vec<(u64, &'a [u8])>,
}

impl<'a> View<'a> {
    fn new(start: u64, parts: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut next = start;
        let parts = parts
            .map(|part| {
                let offset = next;
                next += part.len() as u64;
                (offset, part)
            })
            .collect();
        Self { parts }
    }

    /// The bytes from the start of `range` on, as far as they lie in one part: which part that is,
    /// where in it they begin, and themselves.
    fn part(&self, range: Range<u64>) -> Result<(usize, usize, &'a [u8])> {
        let index = self
            .parts
            .partition_point(|(offset, _)| *offset <= range.start)
            .checked_sub(1)
            .ok_or_else(out_of_span)?;
        let (offset, part) = self.parts.get(index).ok_or_else(out_of_span)?;
        let start = length(range.start - offset)?;
        let end = length(range.end - offset)?.min(part.len());
        part.get(start..end)
            .filter(|part| !part.is_empty())
            .map(|part| (index, start, part))
            .ok_or_else(out_of_span)
    }

    /// All bytes of `range`, copied together if they lie in several pieces.
    fn contiguous<'s>(&'s self, range: Range<u64>, scratch: &'s mut Vec<u8>) -> Result<&'s [u8]> {
        if range.is_empty() {
            return Ok(&[]);
        }
        let (_, _, first) = self.part(range.clone())?;
        let len = length(range.end - range.start)?;
        if first.len() == len {
            return Ok(first);
        }
        scratch.clear();
        while scratch.len() < len {
            let next = range.start + scratch.len() as u64;
            let (_, _, part) = self.part(next..range.end)?;
            scratch.extend_from_slice(part);
        }
        Ok(scratch)
    }
}
