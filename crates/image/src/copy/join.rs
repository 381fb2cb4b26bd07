//! Joins guest bytes into long writes.

use std::ops::Range;

use super::clusters::Clusters;
use super::output::Output;
use super::view::{View, length, out_of_span};
use super::write_queue::{Segment, WriteQueue};
use super::zero::GRANULE_BYTES;
use crate::error::Result;
use crate::map::Extent;
use crate::sys::{AlignedBuf, Memory};

/// How much of a buffer is used to join guest bytes, which is the length of the longest write:
/// qcow2's largest cluster fits, and devices do not benefit from longer requests.
const JOIN_BYTES: usize = 2 << 20; // 2 MiB

/// A plain run of at least this length is written directly from its memory, if that is aligned;
/// shorter ones are first copied together.
const DIRECT_RUN_BYTES: usize = 256 << 10; // 256 KiB

/// Joins guest bytes in a buffer: adjacent ones into one long write, others into writes that are in
/// progress at the same time.
pub(crate) struct Joiner<'a> {
    writes: &'a mut WriteQueue,
    output: &'a Output,
    clusters: &'a mut Clusters,
    cluster_bytes: usize,
    /// `None` while it is empty.
    buffer: Option<AlignedBuf>,
    /// How much of a buffer is used.
    limit: usize,
    len: usize,
    segments: Vec<Segment>,
}

impl<'a> Joiner<'a> {
    /// `cluster_bytes` is the size that compressed clusters decode to.
    pub(crate) fn new(
        writes: &'a mut WriteQueue,
        output: &'a Output,
        clusters: &'a mut Clusters,
        cluster_bytes: usize,
    ) -> Self {
        clusters.begin();
        Self {
            writes,
            output,
            clusters,
            cluster_bytes,
            buffer: None,
            limit: JOIN_BYTES.max(cluster_bytes),
            len: 0,
            segments: Vec::new(),
        }
    }

    /// Adds a compressed cluster.
    pub(crate) fn cluster(&mut self, piece: &Extent, view: &View<'_>) -> Result<()> {
        let bytes = self.cluster_bytes;
        self.make_room(piece.guest_offset, bytes)?;
        let needed = length(piece.guest_len)?.min(bytes);
        let buffer = self.buffer.as_mut().ok_or_else(out_of_span)?;
        let clusters = &mut *self.clusters;
        clusters.decode(piece, view, (buffer, self.len, bytes), needed)?;
        self.filled(needed);
        Ok(())
    }

    /// Provides room for `bytes` guest bytes at `guest_offset`. The caller reports how much of it
    /// was [filled](Joiner::filled).
    fn room(&mut self, guest_offset: u64, bytes: usize) -> Result<&mut [u8]> {
        self.make_room(guest_offset, bytes)?;
        let buffer = self.buffer.as_mut().ok_or_else(out_of_span)?;
        buffer
            .get_mut(self.len..self.len + bytes)
            .ok_or_else(out_of_span)
    }

    fn make_room(&mut self, guest_offset: u64, bytes: usize) -> Result<()> {
        let mut is_new = !self.is_next(guest_offset);
        if is_new {
            // Direct writes need the alignment.
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
        if self.buffer.is_none() {
            self.buffer = Some(self.writes.join_buffer()?);
        }
        Ok(())
    }

    /// Whether this guest offset directly follows the last bytes.
    fn is_next(&self, guest_offset: u64) -> bool {
        self.segments.last().is_some_and(|segment| {
            segment.guest_offset + segment.range.len() as u64 == guest_offset
        })
    }

    /// This much of the room was filled.
    fn filled(&mut self, bytes: usize) {
        self.len += bytes;
        if let Some(segment) = self.segments.last_mut() {
            segment.range.end = self.len;
        }
    }

    pub(crate) fn plain(
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

    /// How much may be added at `guest_offset` at once.
    fn free_after(&self, guest_offset: u64) -> usize {
        match self.limit.saturating_sub(self.len) {
            free if self.is_next(guest_offset) && free > 0 => free,
            _ => self.limit,
        }
    }

    /// Guest bytes of a plain extent that are after the end of the image file: they read as zero.
    fn missing(&mut self, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        // Up to a whole block they are written with the data before them, which may end anywhere.
        let block_end = range.start.next_multiple_of(GRANULE_BYTES as u64);
        let with_data = length(block_end.min(range.end) - range.start)?;
        self.room(range.start, with_data)?.fill(0);
        self.filled(with_data);
        let rest = range.start + with_data as u64..range.end;
        if rest.is_empty() {
            return Ok(());
        }
        self.output.zero(rest)
    }

    /// Starts writing the buffer's content, once all of it is decoded.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.clusters.run()?;
        self.len = 0;
        let segments = std::mem::take(&mut self.segments);
        match self.buffer.take() {
            Some(buffer) => self.writes.write(Memory::Own(buffer), &segments),
            None => Ok(()),
        }
    }
}
