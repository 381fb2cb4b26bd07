//! Cuts a batch into work items, in host order.

use std::ops::Range;
use std::sync::Arc;

use crate::map::{Batch, Encoding};

/// Host bytes of one work item, unless one compressed cluster is longer.
pub(crate) const SPAN_BYTES: u64 = 2 << 20; // 2 MiB

/// Guest bytes that one work item may produce: clusters of zeros compress to next to nothing, and
/// progress and cancellation work in whole items.
const MAX_GUEST_BYTES: u64 = 8 << 20; // 8 MiB

/// A gap of this many host bytes between two extents is not read: a longer gap ends the item.
const MAX_GAP_BYTES: u64 = 64 << 10; // 64 KiB

/// Long plain extents are cut at multiples of this in the guest, so that the writes on both sides
/// of the cut are aligned for any device.
const CUT_BYTES: u64 = 1 << 20; // 1 MiB

// Otherwise an item could be too short to end at a cut, and the rest would never be handed out.
const _: () = assert!(SPAN_BYTES >= 2 * CUT_BYTES);

/// A work item: extents of a batch that are close together in the image.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) batch: Arc<Batch>,
    /// Indexes of the extents. Of plain extents, only the part within `host` counts.
    pub(crate) extents: Range<usize>,
    /// The host bytes needed.
    pub(crate) host: Range<u64>,
}

/// Which extents are selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Select {
    All,
    /// Those that can turn out to be damaged only when they are decoded.
    Compressed,
}

/// Iterates over a batch.
#[derive(Debug)]
pub(crate) struct Cutter {
    batch: Arc<Batch>,
    select: Select,
    /// The next extent, and how much of it is done (plain extents only).
    next: usize,
    done_bytes: u64,
}

impl Cutter {
    pub(crate) fn new(batch: Arc<Batch>, select: Select) -> Self {
        let mut cutter = Self {
            batch,
            select,
            next: 0,
            done_bytes: 0,
        };
        cutter.skip_unselected();
        cutter
    }

    /// The first host byte that is still needed; `None` if none is.
    pub(crate) fn needed_from(&self) -> Option<u64> {
        (self.next < self.batch.len())
            .then(|| self.batch.extent(self.next).host_offset + self.done_bytes)
    }

    /// The rest of the plain extent that comes next, as host bytes.
    pub(crate) fn plain_ahead(&self) -> Option<Range<u64>> {
        let extent = (self.next < self.batch.len()).then(|| self.batch.extent(self.next))?;
        let host = extent.host_offset + self.done_bytes..extent.host_range().end;
        (extent.encoding == Encoding::Plain && !host.is_empty()).then_some(host)
    }

    /// Skips the plain extent that comes next up to `host_end` or slightly before it, so that the
    /// rest stays aligned. Returns the guest range that was skipped.
    pub(crate) fn skip_plain(&mut self, host_end: u64) -> Option<Range<u64>> {
        let host = self.plain_ahead()?;
        let extent = self.batch.extent(self.next);
        let start = extent.guest_offset + self.done_bytes;
        if host_end >= host.end {
            self.advance();
            return Some(start..extent.guest_range().end);
        }
        let reached = start + host_end.checked_sub(host.start)?;
        let end = reached - reached % CUT_BYTES;
        if end <= start {
            return None;
        }
        self.done_bytes += end - start;
        Some(start..end)
    }

    /// The next work item whose host bytes all come before `available`. `None` if there is nothing
    /// left, or not yet enough for an efficient item, unless `flush` asks for whatever there is.
    pub(crate) fn next(&mut self, available: u64, flush: bool) -> Option<Span> {
        let first = self.next;
        let mut host: Option<Range<u64>> = None;
        let mut guest_bytes = 0;
        let (mut next, mut done_bytes) = (self.next, self.done_bytes);
        let mut is_short = false;
        while next < self.batch.len() {
            let extent = self.batch.extent(next);
            if self.select == Select::Compressed && extent.encoding == Encoding::Plain {
                next += 1;
                continue;
            }
            let (start, end) = (extent.host_offset + done_bytes, extent.host_range().end);
            let span_start = host.as_ref().map_or(start, |host| host.start);
            let far = host
                .as_ref()
                .is_some_and(|host| start.saturating_sub(host.end) > MAX_GAP_BYTES);
            if far || guest_bytes >= MAX_GUEST_BYTES {
                break;
            }
            let room_end = span_start + SPAN_BYTES;
            let whole = end <= room_end.min(available)
                || (host.is_none() && extent.encoding != Encoding::Plain && end <= available);
            if whole {
                guest_bytes += extent.guest_len - done_bytes;
                host = Some(span_start..end.max(host.map_or(end, |host| host.end)));
                (next, done_bytes) = (next + 1, 0);
                continue;
            }
            is_short = end > available && available < room_end;
            if extent.encoding == Encoding::Plain {
                let limit = room_end.min(available).max(start);
                let reached = extent.guest_offset + done_bytes + (limit - start);
                let cut = (limit - start).saturating_sub(reached % CUT_BYTES);
                if cut > 0 {
                    host = Some(span_start..start + cut);
                    done_bytes += cut;
                }
            }
            break;
        }
        let host = host?;
        // An item that waits for its last bytes grows with what comes next.
        if is_short && !flush && host.end - host.start < SPAN_BYTES / 2 {
            return None;
        }
        let end = if done_bytes > 0 { next + 1 } else { next };
        (self.next, self.done_bytes) = (next, done_bytes);
        self.skip_unselected();
        Some(Span {
            batch: Arc::clone(&self.batch),
            extents: first..end,
            host,
        })
    }

    fn advance(&mut self) {
        self.next += 1;
        self.done_bytes = 0;
        self.skip_unselected();
    }

    fn skip_unselected(&mut self) {
        while self.select == Select::Compressed
            && self.next < self.batch.len()
            && self.batch.extent(self.next).encoding == Encoding::Plain
        {
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::map::batch::BatchBuilder;
    use crate::map::extent::Bounds;

    const CLUSTER: u64 = 64 << 10;

    /// Guest bytes of one cluster (or several, for plain ones), and the host bytes left out before
    /// it.
    #[derive(Debug, Clone)]
    enum Run {
        Plain { clusters: u64, gap: u64 },
        Compressed { bytes: u64, gap: u64 },
        Zero { clusters: u64 },
    }

    fn run() -> impl Strategy<Value = Run> {
        let gap = prop_oneof![4 => Just(0_u64), 1 => 0..100_u64];
        prop_oneof![
            (1..100_u64, gap.clone()).prop_map(|(clusters, gap)| Run::Plain { clusters, gap }),
            (1..CLUSTER, gap).prop_map(|(bytes, gap)| Run::Compressed { bytes, gap }),
            (1..10_u64).prop_map(|clusters| Run::Zero { clusters }),
        ]
    }

    /// The parts in guest order, at host offsets in the order given by `keys`.
    fn batch(parts: &[Run], keys: &[u32]) -> Batch {
        let mut order: Vec<usize> = (0..parts.len()).collect();
        order.sort_by_key(|index| keys[*index % keys.len()]);
        let mut hosts = vec![0; parts.len()];
        let mut next = CLUSTER;
        for index in order {
            match parts[index] {
                Run::Plain { clusters, gap } => {
                    next = next.next_multiple_of(CLUSTER) + gap * CLUSTER;
                    hosts[index] = next;
                    next += clusters * CLUSTER;
                }
                Run::Compressed { bytes, gap } => {
                    next += gap * CLUSTER;
                    hosts[index] = next;
                    next += bytes;
                }
                Run::Zero { .. } => {}
            }
        }
        let bounds = Bounds {
            file_size: next.next_multiple_of(512),
            virtual_size: 1 << 40,
            cluster_size: CLUSTER,
        };
        let mut builder = BatchBuilder::new(0, bounds, usize::MAX);
        for (part, host) in parts.iter().zip(hosts) {
            match part {
                Run::Plain { clusters, .. } => builder.plain(host, clusters * CLUSTER),
                Run::Compressed { bytes, .. } => {
                    let sectors = (host % 512 + bytes).div_ceil(512);
                    builder.compressed(host, sectors, Encoding::Deflate, CLUSTER);
                }
                Run::Zero { clusters } => builder.zero(clusters * CLUSTER),
            }
        }
        builder.finish()
    }

    /// Every host byte that a span covers, by extent.
    fn taken(span: &Span) -> Vec<(usize, Range<u64>)> {
        span.extents
            .clone()
            .map(|index| {
                let host = span.batch.extent(index).host_range();
                let start = host.start.max(span.host.start);
                (index, start..host.end.min(span.host.end))
            })
            .collect()
    }

    proptest! {
        #[test]
        fn items_cover_every_extent_once_and_need_only_available_bytes(
            parts in prop::collection::vec(run(), 1..60),
            keys in prop::collection::vec(any::<u32>(), 1..60),
            chunk in 1..(5_u64 << 20),
        ) {
            let batch = Arc::new(batch(&parts, &keys));
            let end = batch.extents().map(|e| e.host_range().end).max().unwrap_or(0);
            let mut cutter = Cutter::new(Arc::clone(&batch), Select::All);
            let mut available = 0;
            let mut next = vec![None; batch.len()];
            loop {
                let flush = available >= end;
                while let Some(span) = cutter.next(available, flush) {
                    prop_assert!(span.host.end <= available);
                    for (index, host) in taken(&span) {
                        let extent = batch.extent(index);
                        let expected = next[index].unwrap_or(extent.host_offset);
                        prop_assert_eq!(host.start, expected, "a gap or an overlap");
                        let whole = host.end == extent.host_range().end;
                        prop_assert!(whole || extent.encoding == Encoding::Plain);
                        // Both sides of a cut are aligned in the guest.
                        let guest = extent.guest_offset + (host.end - extent.host_offset);
                        prop_assert!(whole || guest.is_multiple_of(CUT_BYTES));
                        next[index] = Some(host.end);
                    }
                    prop_assert!(span.host.end - span.host.start <= SPAN_BYTES);
                }
                if flush {
                    break;
                }
                available += chunk;
            }
            prop_assert_eq!(cutter.needed_from(), None);
            for (index, extent) in batch.extents().enumerate() {
                prop_assert_eq!(next[index], Some(extent.host_range().end));
            }
        }

        #[test]
        fn the_verifier_is_given_every_compressed_cluster(
            parts in prop::collection::vec(run(), 1..60),
            keys in prop::collection::vec(any::<u32>(), 1..60),
        ) {
            let batch = Arc::new(batch(&parts, &keys));
            let mut cutter = Cutter::new(Arc::clone(&batch), Select::Compressed);
            let mut seen = vec![0; batch.len()];
            while let Some(span) = cutter.next(u64::MAX, true) {
                for index in span.extents {
                    seen[index] += 1;
                }
            }
            for (index, extent) in batch.extents().enumerate() {
                let is_compressed = extent.encoding != Encoding::Plain;
                prop_assert!(!is_compressed || seen[index] == 1, "extent {}", index);
            }
        }
    }
}
