//! The GPT header and its entry array (UEFI 2.10, section 5.3).

use std::ops::Range;

use flate2::Crc;

use crate::error::{Error, ErrorKind, Result};

/// Which part of each end of a disk is looked at and changed.
pub const REACH_BYTES: u64 = 1 << 20; // 1 MiB

/// "EFI PART" (table 5.5).
const SIGNATURE: &[u8; 8] = b"EFI PART";

/// The header's fields end here; what follows in its block is reserved and zero.
const HEADER_BYTES: usize = 92;

/// The space that must be reserved for the entry array (5.3.1).
pub(super) const MIN_ARRAY_BYTES: u64 = 16384;

/// The smallest entry. The size of one is 128 times a power of two (table 5.5).
const ENTRY_BYTES: u32 = 128;

/// A header with a right checksum.
#[derive(Debug, Clone)]
pub(super) struct Header {
    /// The header as it was found, as long as it says that it is.
    pub(super) bytes: Vec<u8>,
    pub(super) my_lba: u64,
    pub(super) alternate_lba: u64,
    pub(super) first_usable: u64,
    pub(super) last_usable: u64,
    pub(super) array_lba: u64,
    pub(super) entries: u32,
    pub(super) entry_bytes: u32,
    pub(super) array_crc: u32,
}

impl Header {
    /// Reads the header at the start of a logical block. `Err(None)`: there is none; otherwise what is wrong with it.
    pub(super) fn parse(block: &[u8]) -> Result<Self, Option<String>> {
        if !block.starts_with(SIGNATURE) {
            return Err(None);
        }
        let size = usize::try_from(number::<4>(block, 12)).unwrap_or(usize::MAX);
        if !(HEADER_BYTES..=block.len()).contains(&size) {
            return Err(Some(format!("the header's size is {size}")));
        }
        let bytes = block[..size].to_vec();
        let found = number::<4>(&bytes, 16);
        let right = u64::from(header_crc(&bytes));
        if found != right {
            return Err(Some(format!(
                "the checksum is {found:08x} and should be {right:08x}"
            )));
        }
        let word = |offset| u32::try_from(number::<4>(&bytes, offset)).unwrap_or_default();
        let header = Self {
            my_lba: number::<8>(&bytes, 24),
            alternate_lba: number::<8>(&bytes, 32),
            first_usable: number::<8>(&bytes, 40),
            last_usable: number::<8>(&bytes, 48),
            array_lba: number::<8>(&bytes, 72),
            entries: word(80),
            entry_bytes: word(84),
            array_crc: word(88),
            bytes,
        };
        let entry_bytes = header.entry_bytes;
        if !entry_bytes.is_multiple_of(ENTRY_BYTES)
            || !(entry_bytes / ENTRY_BYTES).is_power_of_two()
        {
            return Err(Some(format!("an entry has {entry_bytes} bytes")));
        }
        if header.entries == 0 || header.first_usable > header.last_usable {
            return Err(Some("there is no room for partitions".to_owned()));
        }
        Ok(header)
    }

    fn array_bytes(&self) -> u64 {
        u64::from(self.entries) * u64::from(self.entry_bytes)
    }

    /// Where the array is, if that can be expressed in bytes.
    fn array_range(&self, sector: u64) -> Option<Range<u64>> {
        let start = self.array_lba.checked_mul(sector)?;
        Some(start..start.checked_add(self.array_bytes())?)
    }

    /// The primary entry array.
    pub(super) fn array(&self, head: &[u8], sector: u64, disk_bytes: u64) -> Result<Vec<u8>> {
        let range = self
            .array_range(sector)
            .filter(|range| {
                let usable = self.first_usable.checked_mul(sector);
                self.array_lba >= 2 && usable.is_some_and(|usable| range.end <= usable)
            })
            .ok_or_else(|| damaged("its entries overlap its header or its partitions"))?;
        if range.end > disk_bytes.min(REACH_BYTES) {
            return Err(damaged(
                "its entries do not end in the first MiB of the disk",
            ));
        }
        let index = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
        let array = head
            .get(index(range.start)..index(range.end))
            .ok_or_else(|| damaged("its entries are outside the disk"))?;
        match crc(array) == self.array_crc {
            true => Ok(array.to_vec()),
            false => Err(damaged("the checksum of its entries is wrong")),
        }
    }

    /// The last block of a partition; 0 if there is no partition.
    pub(super) fn last_used(&self, array: &[u8]) -> Result<u64> {
        let entry_bytes = usize::try_from(self.entry_bytes).unwrap_or(usize::MAX);
        let mut last = 0;
        for entry in array.chunks_exact(entry_bytes) {
            // The type of an unused entry is zero (table 5.6).
            if entry[..16].iter().all(|byte| *byte == 0) {
                continue;
            }
            let (first, end) = (number::<8>(entry, 32), number::<8>(entry, 40));
            if first > end || first < self.first_usable || end > u64::MAX / 8192 {
                return Err(damaged(&format!(
                    "a partition is said to be in blocks {first} to {end}"
                )));
            }
            last = last.max(end);
        }
        Ok(last)
    }

    /// Where the backup of this table is, if it is in the disk's last part and its checksum is right: its array and
    /// its header.
    pub(super) fn old_backup(
        &self,
        read: impl Fn(Range<u64>) -> Result<Vec<u8>>,
        sector: u64,
        disk_bytes: u64,
    ) -> Result<Option<[Range<u64>; 2]>> {
        let reach = disk_bytes.saturating_sub(REACH_BYTES).max(2 * sector)..disk_bytes;
        let is_in_reach = |range: &Range<u64>| range.start >= reach.start && range.end <= reach.end;
        let whole = |lba: u64| {
            let start = lba.checked_mul(sector)?;
            Some(start..start.checked_add(sector)?)
        };
        let Some(at) = whole(self.alternate_lba).filter(is_in_reach) else {
            return Ok(None);
        };
        let Ok(backup) = Self::parse(&read(at.clone())?) else {
            return Ok(None);
        };
        let is_ours = backup.my_lba == self.alternate_lba
            && backup.alternate_lba == self.my_lba
            && backup.disk_guid() == self.disk_guid()
            && backup.array_crc == self.array_crc
            && backup.array_bytes() == self.array_bytes();
        let array = backup.array_range(sector).filter(is_in_reach);
        let Some(array) = array.filter(|array| is_ours && array.end <= at.start) else {
            return Ok(None);
        };
        match crc(&read(array.clone())?) == backup.array_crc {
            true => Ok(Some([array, at])),
            false => Ok(None),
        }
    }

    fn disk_guid(&self) -> &[u8] {
        &self.bytes[56..72]
    }

    /// The header as a logical block of that size.
    pub(super) fn to_bytes(&self, block_bytes: usize) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for (offset, value) in [
            (24, self.my_lba),
            (32, self.alternate_lba),
            (40, self.first_usable),
            (48, self.last_usable),
            (72, self.array_lba),
        ] {
            bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        }
        let crc = header_crc(&bytes);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        bytes.resize(block_bytes, 0);
        bytes
    }
}

/// The checksum of a header, computed with the field of the checksum as zero (table 5.5).
fn header_crc(header: &[u8]) -> u32 {
    let mut sum = Crc::new();
    sum.update(&header[..16]);
    sum.update(&[0; 4]);
    sum.update(&header[20..]);
    sum.sum()
}

fn crc(bytes: &[u8]) -> u32 {
    let mut sum = Crc::new();
    sum.update(bytes);
    sum.sum()
}

/// A little-endian number of `N` bytes; the caller has checked that it is there.
fn number<const N: usize>(bytes: &[u8], offset: usize) -> u64 {
    let mut value = [0; 8];
    value[..N].copy_from_slice(&bytes[offset..offset + N]);
    u64::from_le_bytes(value)
}

/// The error for a table that nobody should rely on.
pub(super) fn damaged(flaw: &str) -> Error {
    Error::new(
        ErrorKind::BadPartitionTable,
        format!(
            "The image's GPT is damaged: {flaw}; repair the image ('sgdisk --verify' tells more), or request the \
             volume without expand"
        ),
    )
}
