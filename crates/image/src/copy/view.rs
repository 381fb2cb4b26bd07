//! A span's host bytes, and its extents.

use std::ops::Range;

use super::cut::Span;
use crate::error::{Error, ErrorKind, Result};
use crate::map::{Encoding, Extent};

/// A span's host bytes, in one slice or several.
pub(crate) struct View<'a> {
    /// With their host offsets, ascending and contiguous.
    pub(crate) parts: Vec<(u64, &'a [u8])>,
}

impl<'a> View<'a> {
    pub(crate) fn new(start: u64, parts: impl Iterator<Item = &'a [u8]>) -> Self {
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

    /// The bytes from the start of `range` on, as far as they are in one slice: the slice's index,
    /// their offset in it, and the bytes.
    pub(crate) fn part(&self, range: Range<u64>) -> Result<(usize, usize, &'a [u8])> {
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

    /// All bytes of `range`, copied together if they are in several slices.
    pub(crate) fn contiguous<'s>(
        &'s self,
        range: Range<u64>,
        scratch: &'s mut Vec<u8>,
    ) -> Result<&'s [u8]> {
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

impl View<'_> {
    /// Copies all bytes of `range`, which has the length of `to`.
    pub(crate) fn copy_to(&self, range: Range<u64>, to: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < to.len() {
            let (_, _, part) = self.part(range.start + filled as u64..range.end)?;
            let room = to.get_mut(filled..filled + part.len());
            room.ok_or_else(out_of_span)?.copy_from_slice(part);
            filled += part.len();
        }
        Ok(())
    }
}

/// The extents of a span in guest order; plain ones are cut to the span's host bytes.
pub(crate) fn pieces(span: &Span) -> Vec<Extent> {
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
    // The part after the end of the file belongs to the item that reaches the end of the file.
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

/// Adds the place of the cluster to a decoder's error.
pub(crate) fn at_cluster(error: &Error, piece: &Extent) -> Error {
    Error::new(
        error.kind(),
        format!(
            "{error} (the cluster of guest offset {:#x}, at byte {:#x} of the image)",
            piece.guest_offset, piece.host_offset
        ),
    )
}

pub(crate) fn length(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| out_of_span())
}

/// The error for a span whose bytes do not cover its extents: the plan and the cutter disagree.
pub(crate) fn out_of_span() -> Error {
    Error::new(
        ErrorKind::Internal,
        "An extent lies outside the bytes that were read for it, which is a bug in this program",
    )
}
