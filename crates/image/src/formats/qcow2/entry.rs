//! The meaning of one entry of an L1 or L2 table.

use super::geometry::Geometry;

/// Reserved bits of an L1 entry: 0-8 and 56-62.
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// Reserved bits of a standard cluster descriptor: 1-8 and 56-61.
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
/// Bits 9-55, the offset of a table or a standard cluster.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The cluster's refcount is exactly one.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zero; version 3, without subclusters.
const ZERO: u64 = 1;

/// An invalid entry, and what is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Impossible(pub(super) &'static str);

/// The offset of the L2 table that an L1 entry points to; zero for none.
pub(super) fn l2_table_offset(entry: u64, geometry: &Geometry) -> Result<u64, Impossible> {
    let offset = entry & OFFSET;
    if entry & L1_RESERVED != 0 {
        Err(Impossible("has reserved bits set"))
    } else if !geometry.is_aligned(offset) {
        Err(Impossible("points into the middle of a cluster"))
    } else if entry & COPIED != 0 && offset == 0 {
        Err(Impossible("is in use, but points nowhere"))
    } else {
        Ok(offset)
    }
}

/// The meaning of an L2 entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cluster {
    /// Reads as zero and takes no host cluster.
    Unallocated,
    /// Reads as zero, but a host cluster is kept for it.
    ZeroAllocated { host_offset: u64 },
    /// Host bytes are guest bytes.
    Plain { host_offset: u64 },
    /// A host cluster in which only the subclusters in the bitmap hold data; the others read as
    /// zero.
    Partial { host_offset: u64, data: u32 },
    /// A compressed stream that touches this many sectors.
    Compressed { host_offset: u64, sectors: u64 },
}

/// Decodes an L2 entry; `bitmap` is the second word of an extended entry, and zero in others.
pub(super) fn decode(entry: u64, bitmap: u64, geometry: &Geometry) -> Result<Cluster, Impossible> {
    if entry & COMPRESSED != 0 {
        return compressed(entry, bitmap, geometry);
    }
    let host_offset = entry & OFFSET;
    let zero = entry & ZERO != 0;
    if entry & L2_RESERVED != 0 {
        return Err(Impossible("has reserved bits set"));
    }
    if !geometry.is_aligned(host_offset) {
        return Err(Impossible("points into the middle of a cluster"));
    }
    if entry & COPIED != 0 && host_offset == 0 {
        return Err(Impossible("is in use, but points nowhere"));
    }
    if geometry.extended_l2 {
        return if zero {
            Err(Impossible("has both a zero flag and subclusters"))
        } else {
            with_subclusters(host_offset, bitmap)
        };
    }
    match (host_offset, zero) {
        (_, true) if geometry.version == 2 => {
            Err(Impossible("has a zero flag, which version 2 does not have"))
        }
        (0, _) => Ok(Cluster::Unallocated),
        (_, true) => Ok(Cluster::ZeroAllocated { host_offset }),
        (_, false) => Ok(Cluster::Plain { host_offset }),
    }
}

fn compressed(entry: u64, bitmap: u64, geometry: &Geometry) -> Result<Cluster, Impossible> {
    if entry & COPIED != 0 {
        return Err(Impossible("is compressed and marked writable in place"));
    }
    if bitmap != 0 {
        return Err(Impossible("is compressed and has subclusters"));
    }
    // The upper part of the descriptor counts the sectors after the first.
    let size_shift = 62 - (geometry.cluster_bits - 8);
    let host_offset = entry & ((1 << size_shift) - 1);
    let sectors = ((entry & !COMPRESSED) >> size_shift) + 1;
    if host_offset & !(OFFSET | 0x1ff) != 0 {
        return Err(Impossible("points beyond what an image can hold"));
    }
    Ok(Cluster::Compressed {
        host_offset,
        sectors,
    })
}

/// The lower half of the bitmap says which subclusters hold data, the upper half which read as
/// zero. A subcluster in neither half reads as zero too if there is no backing file.
fn with_subclusters(host_offset: u64, bitmap: u64) -> Result<Cluster, Impossible> {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
    let (data, zero) = (bitmap as u32, (bitmap >> 32) as u32);
    if data & zero != 0 {
        return Err(Impossible("has subclusters that are data and zero at once"));
    }
    match (host_offset, data) {
        (0, 0) => Ok(Cluster::Unallocated),
        (0, _) => Err(Impossible("has subclusters of data, but points nowhere")),
        (_, 0) => Ok(Cluster::ZeroAllocated { host_offset }),
        (_, u32::MAX) => Ok(Cluster::Plain { host_offset }),
        (_, _) => Ok(Cluster::Partial { host_offset, data }),
    }
}
