//! A batch: the extents of one guest range in host order, and the parts of it that read as zero.

use std::ops::Range;

use super::extent::{Bounds, Encoding, Extent, Packed, SECTOR};
use crate::limits::{MAX_BATCH_BYTES, MAX_EXTENT_SECTORS};

/// What must be copied and what must be zeroed to produce one range of the guest's disk.
///
/// Immutable, shared by worker threads. Takes 16 bytes per extent and per zero range.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    guest_range: Range<u64>,
    bounds: Bounds,
    extents: Vec<Packed>,
    zeroes: Vec<Range<u64>>,
}

impl Batch {
    /// The guest bytes that this batch covers, every one exactly once.
    pub fn guest_range(&self) -> Range<u64> {
        self.guest_range.clone()
    }

    /// How many extents there are.
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// Whether the whole guest range reads as zero.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// The extent at `index`, in host order.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`len`](Self::len).
    pub fn extent(&self, index: usize) -> Extent {
        self.extents[index].unpack(&self.bounds)
    }

    /// All extents by ascending host offset.
    ///
    /// No two share a host byte, except compressed clusters, which may end and begin in one sector.
    pub fn extents(&self) -> impl ExactSizeIterator<Item = Extent> + '_ {
        self.extents
            .iter()
            .map(|packed| packed.unpack(&self.bounds))
    }

    /// Guest ranges that read as zero, ascending, none touching the next.
    ///
    /// Together with the extents they cover [`guest_range`](Self::guest_range) exactly.
    pub fn zero_ranges(&self) -> impl ExactSizeIterator<Item = Range<u64>> + '_ {
        self.zeroes.iter().cloned()
    }

    /// How many zero ranges there are.
    pub(crate) fn zero_range_count(&self) -> usize {
        self.zeroes.len()
    }

    /// The zero range at `index`, in guest order.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`zero_range_count`](Self::zero_range_count).
    pub(crate) fn zero_range(&self, index: usize) -> Range<u64> {
        self.zeroes[index].clone()
    }
}

/// Collects a batch in guest order.
#[derive(Debug)]
pub(crate) struct BatchBuilder {
    start: u64,
    next: u64,
    bounds: Bounds,
    budget_bytes: usize,
    extents: Vec<Packed>,
    zeroes: Vec<Range<u64>>,
}

impl BatchBuilder {
    pub(crate) fn new(start: u64, bounds: Bounds, budget_bytes: usize) -> Self {
        // The most that either may ever need: memory that is not touched costs nothing, whereas a
        // growing vector would exist twice for a moment. An L2 entry of 16 bytes makes up to 32 of
        // them.
        let most = bounds.file_size.saturating_mul(2).saturating_add(64);
        let entries = (budget_bytes.min(MAX_BATCH_BYTES) / size_of::<Packed>())
            .min(usize::try_from(most).unwrap_or(usize::MAX));
        Self {
            start,
            next: start,
            bounds,
            budget_bytes,
            extents: Vec::with_capacity(entries),
            zeroes: Vec::with_capacity(entries),
        }
    }

    /// Whether `entries` more extents or zero ranges would exceed the budget.
    pub(crate) fn is_full(&self, entries: usize) -> bool {
        (self.extents.len() + self.zeroes.len() + entries) * size_of::<Packed>() > self.budget_bytes
    }

    /// The first guest byte that is not covered yet.
    pub(crate) fn next_guest_offset(&self) -> u64 {
        self.next
    }

    /// The next `len` guest bytes, a multiple of sectors, are at `host_offset`. Bytes after the end
    /// of the disk are left out, as in the other methods.
    pub(crate) fn plain(&mut self, host_offset: u64, len: u64) {
        let (mut guest, mut host) = (self.next, host_offset);
        let mut sectors = self.advance(len).div_ceil(SECTOR);
        if let Some(last) = self.extents.last_mut()
            && last.encoding() == Encoding::Plain
            && last.guest_offset() + last.sectors() * SECTOR == guest
            && last.host_offset() + last.sectors() * SECTOR == host
        {
            let joined = sectors.min(JOINED_SECTORS.saturating_sub(last.sectors()));
            *last = Packed::plain(
                last.host_offset(),
                last.guest_offset(),
                last.sectors() + joined,
            );
            sectors -= joined;
            guest += joined * SECTOR;
            host += joined * SECTOR;
        }
        while sectors > 0 {
            let run = sectors.min(JOINED_SECTORS);
            self.extents.push(Packed::plain(host, guest, run));
            sectors -= run;
            guest += run * SECTOR;
            host += run * SECTOR;
        }
    }

    /// The next `len` guest bytes are a compressed cluster.
    pub(crate) fn compressed(
        &mut self,
        host_offset: u64,
        sectors: u64,
        encoding: Encoding,
        len: u64,
    ) {
        let guest = self.next;
        if self.advance(len) > 0 {
            self.extents
                .push(Packed::compressed(host_offset, guest, sectors, encoding));
        }
    }

    /// The next `len` guest bytes read as zero.
    pub(crate) fn zero(&mut self, len: u64) {
        let start = self.next;
        if self.advance(len) == 0 {
            return;
        }
        match self.zeroes.last_mut() {
            Some(last) if last.end == start => last.end = self.next,
            _ => self.zeroes.push(start..self.next),
        }
    }

    /// Moves on by `len` bytes or to the end of the disk. Returns the distance.
    fn advance(&mut self, len: u64) -> u64 {
        let len = len.min(self.bounds.virtual_size - self.next);
        self.next += len;
        len
    }

    /// The host offset of a stream that two clusters use.
    pub(crate) fn shared_stream(&mut self) -> Option<u64> {
        self.extents.sort_unstable();
        self.extents
            .windows(2)
            .find(|pair| {
                pair[0].host_offset() == pair[1].host_offset()
                    && pair[0].encoding() != Encoding::Plain
            })
            .map(|pair| pair[0].host_offset())
    }

    /// A host offset that is in two extents, or in an extent and one of the `reserved` ranges, which
    /// are sorted. Only the first sector of a stream counts, because its end is not certain.
    pub(crate) fn overlap(&mut self, reserved: &[Range<u64>]) -> Option<u64> {
        self.extents.sort_unstable();
        let claimed = |extent: &Packed| {
            let start = extent.host_offset();
            let len = match extent.encoding() {
                Encoding::Plain => extent.unpack(&self.bounds).host_len,
                Encoding::Deflate | Encoding::Zstd | Encoding::Grain => SECTOR,
            };
            start..start + len
        };
        let mut previous_end = 0;
        for extent in &self.extents {
            let claimed = claimed(extent);
            let next = reserved.partition_point(|range| range.end <= claimed.start);
            let is_reserved = reserved
                .get(next)
                .is_some_and(|range| range.start < claimed.end);
            if claimed.start < previous_end || is_reserved {
                return Some(claimed.start);
            }
            previous_end = claimed.end;
        }
        None
    }

    /// Clears everything except the end of the batch, where the next one begins.
    pub(crate) fn restart(&mut self) {
        self.start = self.next;
        self.extents.clear();
        self.zeroes.clear();
    }

    /// The batch of everything that was added, in host order.
    pub(crate) fn finish(mut self) -> Batch {
        self.extents.sort_unstable();
        self.extents.shrink_to_fit();
        self.zeroes.shrink_to_fit();
        Batch {
            guest_range: self.start..self.next,
            bounds: self.bounds,
            extents: self.extents,
            zeroes: self.zeroes,
        }
    }
}

/// Plain runs are cut here, at 2 GiB: what follows a cut stays aligned for any block size.
const JOINED_SECTORS: u64 = 1 << 22;

const _: () = assert!(JOINED_SECTORS <= MAX_EXTENT_SECTORS);

/// Sums over an image's batches.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) allocated_bytes: u64,
    pub(crate) host_data_bytes: u64,
    pub(crate) extents: u64,
    pub(crate) compressed_clusters: u64,
    /// All guest offsets and inner ends of extents, OR-ed.
    boundaries: u64,
}

impl Totals {
    /// The largest alignment that is of any use.
    const MAX_ALIGNMENT: u64 = 4096;

    /// Adds the batch's content so far.
    pub(crate) fn add(&mut self, batch: &BatchBuilder) {
        self.extents += batch.extents.len() as u64;
        for extent in &batch.extents {
            let extent = extent.unpack(&batch.bounds);
            let guest = extent.guest_range();
            self.allocated_bytes += extent.guest_len;
            self.host_data_bytes += extent.host_len;
            self.compressed_clusters += u64::from(extent.encoding != Encoding::Plain);
            self.boundaries |= guest.start;
            if guest.end != batch.bounds.virtual_size {
                self.boundaries |= guest.end;
            }
        }
    }

    /// See [`ImageInfo::alignment`](crate::plan::ImageInfo::alignment).
    pub(crate) fn alignment(&self) -> u64 {
        1 << (self.boundaries | Self::MAX_ALIGNMENT).trailing_zeros()
    }
}
