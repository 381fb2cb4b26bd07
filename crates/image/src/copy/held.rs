//! The guest bytes that are written last.
//!
//! A disk without its first MiB does not boot and shows no partitions; neither does one that has
//! its GPT only at its end. Both places are cleared before the first byte of a copy is written and
//! filled after the last, so that a volume that was written only partly, or whose image turned out
//! to be wrong, never looks complete.

use std::ops::Range;
use std::sync::{Mutex, PoisonError, RwLock};

use super::zero::GRANULE_BYTES;
use crate::buffer::AlignedBuf;
use crate::error::{Error, ErrorKind, Result};

/// How much is held back at each end of the disk. A GPT needs 17 KiB; boot loaders in front of the
/// first partition take up to 1 MiB, where the first partition begins.
pub(crate) const HELD_BYTES: u64 = 1 << 20; // 1 MiB

/// The held-back regions, and their bytes so far.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Ascending; at most three.
    regions: RwLock<Vec<Region>>,
}

#[derive(Debug)]
struct Region {
    range: Range<u64>,
    /// The region's bytes, padded with zeros to a whole granule.
    bytes: Mutex<AlignedBuf>,
}

/// The first region of a disk; `None` is a size that is not known yet.
pub(crate) fn head(virtual_size: Option<u64>) -> Range<u64> {
    0..virtual_size.map_or(HELD_BYTES, |size| size.min(HELD_BYTES))
}

/// The last region of a disk of that size; empty if the head covers it.
pub(crate) fn foot(virtual_size: u64) -> Range<u64> {
    let start = virtual_size.saturating_sub(HELD_BYTES);
    let aligned = start - start % GRANULE_BYTES as u64;
    aligned.max(head(Some(virtual_size)).end)..virtual_size
}

impl Held {
    /// Adds a region, which must come after the existing ones.
    pub(crate) fn add(&self, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let bytes = allocate(range.end - range.start)?;
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        regions.push(Region {
            range,
            bytes: Mutex::new(bytes),
        });
        Ok(())
    }

    /// Makes the last region end at `end`, if it may be grown to include `range`: it must be the next granule at the
    /// latest where it ends. Returns what is new, if it was grown.
    pub(crate) fn grow_over(&self, range: &Range<u64>) -> Result<Option<Range<u64>>> {
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        let granule = GRANULE_BYTES as u64;
        let Some(last) = regions.last_mut() else {
            return Ok(None);
        };
        let old_end = last.range.end;
        if range.start - range.start % granule >= old_end.next_multiple_of(granule) {
            return Ok(None);
        }
        if range.end <= old_end {
            return Ok(Some(old_end..old_end));
        }
        let bytes = last.bytes.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut grown = allocate(range.end - last.range.start)?;
        grown[..bytes.len()].copy_from_slice(bytes);
        *bytes = grown;
        last.range.end = range.end;
        Ok(Some(old_end..range.end))
    }

    /// The bytes of a range; None if they are not all held back.
    pub(crate) fn read(&self, range: &Range<u64>) -> Option<Vec<u8>> {
        let mut found = Vec::new();
        let mut next = range.start;
        for region in self.regions().iter() {
            let inside = region.range.start.max(next)..region.range.end.min(range.end);
            if inside.is_empty() || inside.start > next {
                continue;
            }
            let index = |offset: u64| usize::try_from(offset - region.range.start).ok();
            let bytes = region.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            found.extend_from_slice(bytes.get(index(inside.start)?..index(inside.end)?)?);
            next = inside.end;
        }
        (next == range.end).then_some(found)
    }

    /// Keeps the parts of `bytes` that are in a region, and calls `outside` for the rest.
    pub(crate) fn keep(
        &self,
        guest_offset: u64,
        bytes: &[u8],
        mut outside: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let part = |range: Range<u64>| {
            let index = |offset: u64| usize::try_from(offset - guest_offset).unwrap_or(usize::MAX);
            &bytes[index(range.start)..index(range.end)]
        };
        let end = guest_offset + bytes.len() as u64;
        let mut next = guest_offset;
        for region in self.regions().iter() {
            let inside = region.range.start.max(next)..region.range.end.min(end);
            if inside.is_empty() {
                continue;
            }
            if next < inside.start {
                outside(next, part(next..inside.start))?;
            }
            let start = usize::try_from(inside.start - region.range.start).unwrap_or(usize::MAX);
            let source = part(inside.clone());
            region.bytes.lock().unwrap_or_else(PoisonError::into_inner)
                [start..start + source.len()]
                .copy_from_slice(source);
            next = inside.end;
        }
        if next < end {
            outside(next, part(next..end))?;
        }
        Ok(())
    }

    /// The parts of a range that no region covers, ascending.
    pub(crate) fn outside(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut parts = Vec::with_capacity(1);
        let mut next = range.start;
        for region in self.regions().iter() {
            if next < region.range.start.min(range.end) {
                parts.push(next..region.range.start.min(range.end));
            }
            next = next.max(region.range.end);
        }
        if next < range.end {
            parts.push(next..range.end);
        }
        parts
    }

    /// Calls `write` with each region and its bytes, padded with zeros to a granule; the head comes
    /// last.
    pub(crate) fn for_each(
        &self,
        mut write: impl FnMut(&Range<u64>, &[u8]) -> Result<()>,
    ) -> Result<()> {
        for region in self.regions().iter().rev() {
            let bytes = region.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            write(&region.range, &bytes)?;
        }
        Ok(())
    }

    fn regions(&self) -> std::sync::RwLockReadGuard<'_, Vec<Region>> {
        self.regions.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Zeros for a region of that length, padded to a whole granule.
fn allocate(bytes: u64) -> Result<AlignedBuf> {
    let len = usize::try_from(bytes)
        .unwrap_or(usize::MAX)
        .next_multiple_of(GRANULE_BYTES);
    AlignedBuf::new(len)
        .map_err(|source| Error::io(ErrorKind::Write, "Allocating memory failed", source))
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "offsets of a few MiB fit every usize"
)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn head_and_foot_never_overlap_and_reach_both_ends() {
        for size in [
            512,
            MIB - 512,
            MIB,
            MIB + 512,
            2 * MIB - 512,
            2 * MIB,
            9 * MIB + 512,
        ] {
            let (head, foot) = (head(Some(size)), foot(size));
            assert_eq!(head.start, 0);
            assert!(head.end <= foot.start, "{size}");
            assert_eq!(foot.end, size);
            assert!(head.end == size || foot.end - foot.start >= MIB.min(size - head.end));
        }
    }

    #[test]
    fn bytes_are_kept_inside_and_passed_on_outside() {
        let held = Held::default();
        held.add(0..MIB).unwrap();
        held.add(3 * MIB..4 * MIB).unwrap();
        let bytes: Vec<u8> = (0..4 * MIB).map(|i| (i % 251) as u8).collect();
        let mut passed = Vec::new();
        let mut pass = |offset, part: &[u8]| {
            passed.push((offset, part.to_vec()));
            Ok(())
        };
        for range in [100..MIB as usize + 7, MIB as usize + 7..4 * MIB as usize] {
            held.keep(range.start as u64, &bytes[range], &mut pass)
                .unwrap();
        }
        let expected = [(MIB, MIB + 7), (MIB + 7, 3 * MIB)]
            .map(|(from, to)| (from, bytes[from as usize..to as usize].to_vec()));
        assert_eq!(passed, expected);
        held.for_each(|range, kept| {
            let start = range.start.max(100) as usize;
            let from = start - range.start as usize;
            assert_eq!(kept[from..], bytes[start..range.end as usize]);
            Ok(())
        })
        .unwrap();
        assert_eq!(held.outside(0..5 * MIB), [MIB..3 * MIB, 4 * MIB..5 * MIB]);
        assert_eq!(held.outside(10..MIB), []);
        let inside = 2 * MIB..2 * MIB + 5;
        assert_eq!(held.outside(inside.clone()), std::slice::from_ref(&inside));
    }
}
