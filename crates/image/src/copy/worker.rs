//! What one worker thread does with a piece of work.

use std::ops::Range;
use std::sync::Arc;

use super::crew::{SpanBytes, Work};
use super::cut::{SPAN_BYTES, Span};
use super::output::Sink;
use super::zero::GRANULE_BYTES;
use crate::buffer::AlignedBuf;
use crate::decode::Decoder;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Encoding, Extent};
use crate::sys::HUGE_PAGE_BYTES;

/// The buffer that guest bytes are joined in, and so the longest write: qcow2's largest cluster
/// fits, and devices gain nothing from longer requests.
const JOIN_BYTES: usize = 2 << 20; // 2 MiB

/// A plain run of this length is written from where it is, if its memory is aligned; shorter ones
/// are copied together first.
const DIRECT_RUN_BYTES: usize = 256 << 10; // 256 KiB

/// Room for a span, for the longest compressed cluster (a 2 MiB cluster's descriptor can claim
/// 4 MiB), and for the blocks that both begin and end in. Memory that is not used is not taken.
const INPUT_BYTES: usize = (4 << 20) + (128 << 10);

const _: () = assert!(SPAN_BYTES < INPUT_BYTES as u64);

/// Memory and decoders of one thread.
pub(crate) struct Worker {
    sink: Arc<dyn Sink>,
    decoder: Decoder,
    cluster_bytes: usize,
    joined: AlignedBuf,
    input: AlignedBuf,
    scratch: Vec<u8>,
}

impl Worker {
    /// `cluster_bytes` is the size that compressed clusters decode to.
    pub(crate) fn new(sink: Arc<dyn Sink>, cluster_bytes: usize) -> Result<Self> {
        let allocate = |bytes, huge_bytes| {
            AlignedBuf::with_huge_pages(bytes, huge_bytes)
                .map_err(|e| Error::io(ErrorKind::Write, "Allocating a buffer failed", e))
        };
        Ok(Self {
            sink,
            decoder: Decoder::new(),
            cluster_bytes,
            joined: allocate(JOIN_BYTES.max(cluster_bytes), usize::MAX)?,
            // What lies beyond is rarely used, and should not be taken as a whole.
            input: allocate(INPUT_BYTES, HUGE_PAGE_BYTES)?,
            scratch: Vec::new(),
        })
    }

    pub(crate) fn run(&mut self, work: Work) -> Result<()> {
        match work {
            Work::Zero(range) => self.sink.zero(range),
            Work::Block {
                guest_offset,
                bytes,
                len,
            } => self.sink.write(guest_offset, &bytes[..len]),
            Work::Extents { span, bytes } => self.extents(&span, bytes),
        }
    }

    fn extents(&mut self, span: &Span, bytes: SpanBytes) -> Result<()> {
        let fed;
        let view = match bytes {
            SpanBytes::Fed(parts) => {
                fed = parts;
                View::new(span.host.start, fed.iter().map(|part| &part[..]))
            }
            SpanBytes::Read(source) => {
                let read = source.read(&span.host, &mut self.input)?;
                View::new(span.host.start, std::iter::once(read))
            }
        };
        let mut joiner = Joiner {
            sink: &*self.sink,
            buffer: &mut self.joined,
            start: 0,
            len: 0,
        };
        for piece in pieces(span) {
            match piece.encoding {
                Encoding::Plain => joiner.plain(&piece, &view)?,
                Encoding::Deflate | Encoding::Zstd => {
                    let input = view.contiguous(piece.host_range(), &mut self.scratch)?;
                    let output = joiner.room(piece.guest_offset, self.cluster_bytes)?;
                    self.decoder
                        .decode(piece.encoding, input, output)
                        .map_err(|error| at_cluster(&error, &piece))?;
                    joiner.len += length(piece.guest_len)?.min(self.cluster_bytes);
                }
            }
        }
        joiner.flush()
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

/// Joins guest bytes that follow each other into long writes.
struct Joiner<'a> {
    sink: &'a dyn Sink,
    buffer: &'a mut [u8],
    /// Guest offset of the buffer's first byte.
    start: u64,
    len: usize,
}

impl Joiner<'_> {
    /// Room for `bytes` guest bytes at `guest_offset`; what does not follow what is there is
    /// written first. The caller adds to `len` what it filled.
    fn room(&mut self, guest_offset: u64, bytes: usize) -> Result<&mut [u8]> {
        let follows = guest_offset == self.start + self.len as u64;
        if !follows || self.buffer.len() - self.len < bytes {
            self.flush()?;
        }
        if self.len == 0 {
            self.start = guest_offset;
        }
        self.buffer
            .get_mut(self.len..self.len + bytes)
            .ok_or_else(out_of_span)
    }

    fn plain(&mut self, piece: &Extent, view: &View<'_>) -> Result<()> {
        let data_end = piece.host_range().end;
        let mut host = piece.host_offset;
        let mut guest = piece.guest_offset;
        while host < data_end {
            let part = view.part(host..data_end)?;
            let aligned = part.as_ptr().align_offset(GRANULE_BYTES) == 0;
            let len = if part.len() >= DIRECT_RUN_BYTES && aligned && view.is_single() {
                self.flush()?;
                self.sink.write(guest, part)?;
                part.len()
            } else {
                let len = part.len().min(self.free_after(guest));
                self.room(guest, len)?.copy_from_slice(&part[..len]);
                self.len += len;
                len
            };
            host += len as u64;
            guest += len as u64;
        }
        self.missing(guest..piece.guest_range().end)
    }

    /// How much may be added at `guest_offset` in one go.
    fn free_after(&self, guest_offset: u64) -> usize {
        let follows = guest_offset == self.start + self.len as u64;
        match self.buffer.len() - self.len {
            free if follows && free > 0 => free,
            _ => self.buffer.len(),
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
        self.len += with_data;
        let rest = range.start + with_data as u64..range.end;
        if rest.is_empty() {
            return Ok(());
        }
        self.flush()?;
        self.sink.zero(rest)
    }

    fn flush(&mut self) -> Result<()> {
        if self.len > 0 {
            self.sink.write(self.start, &self.buffer[..self.len])?;
            self.len = 0;
        }
        Ok(())
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

    fn is_single(&self) -> bool {
        self.parts.len() == 1
    }

    /// The bytes from the start of `range` on, as far as they lie in one piece.
    fn part(&self, range: Range<u64>) -> Result<&'a [u8]> {
        let index = self
            .parts
            .partition_point(|(offset, _)| *offset <= range.start);
        let (offset, part) = index
            .checked_sub(1)
            .and_then(|index| self.parts.get(index))
            .ok_or_else(out_of_span)?;
        let start = length(range.start - offset)?;
        let end = length(range.end - offset)?.min(part.len());
        part.get(start..end)
            .filter(|part| !part.is_empty())
            .ok_or_else(out_of_span)
    }

    /// All bytes of `range`, copied together if they lie in several pieces.
    fn contiguous<'s>(&'s self, range: Range<u64>, scratch: &'s mut Vec<u8>) -> Result<&'s [u8]> {
        if range.is_empty() {
            return Ok(&[]);
        }
        let first = self.part(range.clone())?;
        let len = length(range.end - range.start)?;
        if first.len() == len {
            return Ok(first);
        }
        scratch.clear();
        while scratch.len() < len {
            let next = range.start + scratch.len() as u64;
            scratch.extend_from_slice(self.part(next..range.end)?);
        }
        Ok(scratch)
    }
}
