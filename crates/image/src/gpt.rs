//! Moves a disk's backup GPT to the end of a larger volume.
//!
//! An image's GPT (GUID partition table) ends where the image's disk ends. On a larger volume the guest's tools
//! find the backup in the middle, complain, and do not offer the space behind it. Here the table is made to fit
//! the volume, and nothing else: no partition changes.
//!
//! All section numbers are those of the UEFI specification 2.10. What changes:
//!
//! - the backup's entry array and header are written at the end of the volume (5.3.2: the backup header is in the
//!   last logical block, and its array is before it, after the last usable block);
//! - the primary header says where the backup is and which block is the last usable one (5.3.2, table 5.5);
//! - the protective MBR covers the volume (5.2.3, table 5.4);
//! - the backup that came with the image is cleared, if it is where it should be.
//!
//! The module computes [`Change`]s of bytes; who writes them when is the caller's business.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use crate::error::{Error, ErrorKind, Result};

mod fields;
mod mbr;

pub use fields::REACH_BYTES;
use fields::{Header, MIN_ARRAY_BYTES, damaged};

/// Sizes of a logical block: the usual one, and that of disks with 4 KiB ("4Kn").
const SECTOR_SIZES: [u64; 2] = [512, 4096];

/// Bytes that are to be written somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Offset on the disk.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Change {
    /// The range that changes.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.bytes.len() as u64
    }
}

/// What becomes of a disk's GPT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The disk has no GPT.
    NoTable,
    /// The GPT already ends where the volume ends.
    AtEnd,
    /// The backup is moved.
    Moved {
        /// Size of a logical block of the table, in bytes.
        sector_bytes: u64,
        /// Where the backup header was, in bytes.
        from: u64,
        /// Where it is now.
        to: u64,
        /// Whether the image had a sound backup at its end. If not, one is made from the primary table.
        had_backup: bool,
        /// Whether the MBR has partitions of its own (hybrid), and was kept.
        is_hybrid: bool,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTable => {
                f.write_str("The image's disk has no GPT: its partition table was left as it is")
            }
            Self::AtEnd => f.write_str(
                "The backup GPT is at the volume's end already: the partition table was left as it is",
            ),
            Self::Moved {
                sector_bytes,
                from,
                to,
                had_backup,
                is_hybrid,
            } => {
                write!(
                    f,
                    "Moved the backup GPT from byte {from} to byte {to}, the volume's end (logical blocks of \
                     {sector_bytes} bytes)"
                )?;
                if !had_backup {
                    f.write_str(
                        "; the image had no sound backup at its end, so it was made from the primary GPT",
                    )?;
                }
                if *is_hybrid {
                    f.write_str("; the hybrid MBR was left as it is")?;
                }
                Ok(())
            }
        }
    }
}

/// What is to be done, and the changes for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// What becomes of the GPT.
    pub outcome: Outcome,
    /// The changes, which do not overlap. Those of the head come last.
    pub changes: Vec<Change>,
}

impl Move {
    fn none(outcome: Outcome) -> Self {
        let changes = Vec::new();
        Self { outcome, changes }
    }

    /// Where the new backup begins; none if nothing is moved.
    pub(crate) fn backup(&self) -> Option<Range<u64>> {
        let ranges = || self.changes.iter().map(Change::range);
        let end = ranges().map(|range| range.end).max()?;
        let mut start = end;
        while let Some(range) = ranges().find(|range| range.end == start && range.start < start) {
            start = range.start;
        }
        Some(start..end)
    }
}

/// Plans the move of a disk's backup GPT to the end of a volume of `volume_bytes`. `read` is asked only for parts
/// of the disk's first and last [`REACH_BYTES`].
///
/// Fails with [`ErrorKind::BadPartitionTable`] if the disk has a GPT that is damaged, or whose partitions leave no
/// room for the backup.
pub fn plan(
    read: impl Fn(Range<u64>) -> Result<Vec<u8>>,
    disk_bytes: u64,
    volume_bytes: u64,
) -> Result<Move> {
    if disk_bytes < 2 * SECTOR_SIZES[0] {
        return Ok(Move::none(Outcome::NoTable));
    }
    let head = read(0..disk_bytes.min(REACH_BYTES))?;
    let Some(mbr) = mbr::Protective::parse(&head) else {
        return Ok(Move::none(Outcome::NoTable));
    };
    let (header, sector) = primary(&head)?;
    let array = header.array(&head, sector, disk_bytes)?;

    let sectors = volume_bytes / sector;
    let array_sectors = (array.len() as u64).max(MIN_ARRAY_BYTES).div_ceil(sector);
    let no_room = || {
        Error::new(
            ErrorKind::BadPartitionTable,
            format!(
                "The volume has no room for the backup GPT behind the image's partitions: it has {sectors} logical \
                 blocks of {sector} bytes; request a larger volume, or one without expand"
            ),
        )
    };
    // The header, its array, and a last usable block before them.
    let last = sectors.checked_sub(1).ok_or_else(no_room)?;
    let array_lba = last.checked_sub(array_sectors).ok_or_else(no_room)?;
    let last_usable = array_lba.checked_sub(1).ok_or_else(no_room)?;
    if last_usable < header.last_used(&array)?.max(header.first_usable) {
        return Err(no_room());
    }
    if header.alternate_lba == last && header.last_usable == last_usable {
        return Ok(Move::none(Outcome::AtEnd));
    }

    let moved = Header {
        alternate_lba: last,
        last_usable,
        ..header.clone()
    };
    let backup = Header {
        my_lba: last,
        alternate_lba: 1,
        array_lba,
        ..moved.clone()
    };
    let old = header.old_backup(&read, sector, disk_bytes)?;
    let new_start = array_lba * sector;
    let mut changes = Vec::new();
    for range in old.iter().flatten() {
        // What the new backup covers is written with it.
        let end = range.end.min(new_start);
        let is_outside_partitions = range.start >= (header.last_used(&array)? + 1) * sector;
        if range.start < end && is_outside_partitions {
            let length = usize::try_from(end - range.start).unwrap_or_default();
            changes.push(Change {
                offset: range.start,
                bytes: vec![0; length],
            });
        }
    }
    let sector_len = usize::try_from(sector).unwrap_or_default();
    let mut table = array;
    table.resize(
        usize::try_from(array_sectors * sector).unwrap_or_default(),
        0,
    );
    changes.push(Change {
        offset: new_start,
        bytes: table,
    });
    changes.push(Change {
        offset: last * sector,
        bytes: backup.to_bytes(sector_len),
    });
    changes.push(Change {
        offset: sector,
        bytes: moved.to_bytes(sector_len),
    });
    let is_hybrid = mbr.is_hybrid();
    if !is_hybrid {
        changes.push(Change {
            offset: 0,
            bytes: mbr.covering(sectors),
        });
    }
    Ok(Move {
        outcome: Outcome::Moved {
            sector_bytes: sector,
            from: header.alternate_lba.saturating_mul(sector),
            to: last * sector,
            had_backup: old.is_some(),
            is_hybrid,
        },
        changes,
    })
}

/// Plans for an open disk, whose size is that of the volume.
pub fn plan_file(file: &File, disk_bytes: u64, volume_bytes: u64) -> Result<Move> {
    plan(|range| read_file(file, range), disk_bytes, volume_bytes)
}

/// Moves the backup GPT on a volume that holds the disk already, such as a clone, and waits until that is on stable
/// storage. At every instant the volume has one complete table: the new backup is durable before the head refers
/// to it, and the old one goes last.
pub fn move_in_place(file: &File, disk_bytes: u64, volume_bytes: u64) -> Result<Outcome> {
    let Move { outcome, changes } = plan_file(file, disk_bytes, volume_bytes)?;
    let is_zero = |change: &&Change| change.bytes.iter().all(|byte| *byte == 0);
    let head_end = REACH_BYTES.min(disk_bytes);
    let is_head = |change: &&Change| change.offset < head_end && !is_zero(change);
    let writes: [Vec<_>; 3] = [
        changes
            .iter()
            .filter(|change| !is_head(change) && !is_zero(change))
            .collect(),
        changes.iter().filter(is_head).collect(),
        changes.iter().filter(is_zero).collect(),
    ];
    let failed = |source| {
        let kind = ErrorKind::of_write(&source);
        Error::io(kind, "Moving the volume's backup GPT failed", source)
    };
    for step in writes {
        for change in &step {
            file.write_all_at(&change.bytes, change.offset)
                .map_err(failed)?;
        }
        if !step.is_empty() {
            file.sync_all().map_err(failed)?;
        }
    }
    Ok(outcome)
}

fn read_file(file: &File, range: Range<u64>) -> Result<Vec<u8>> {
    let length = usize::try_from(range.end - range.start).unwrap_or_default();
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, range.start)
        .map_err(|source| {
            Error::io(
                ErrorKind::Read,
                "Reading the volume's partition table failed",
                source,
            )
        })?;
    Ok(bytes)
}

/// The primary header, and the size of a logical block that its place tells.
fn primary(head: &[u8]) -> Result<(Header, u64)> {
    let mut why = "there is no GPT header behind the protective MBR".to_owned();
    for sector in SECTOR_SIZES {
        let start = usize::try_from(sector).unwrap_or_default();
        let Some(block) = head.get(start..2 * start) else {
            continue;
        };
        match Header::parse(block) {
            Ok(header) if header.my_lba == 1 => return Ok((header, sector)),
            Ok(header) => {
                why = format!(
                    "its primary header says that it is in block {}",
                    header.my_lba
                )
            }
            Err(Some(flaw)) => why = format!("in its primary header, {flaw}"),
            Err(None) => {}
        }
    }
    Err(damaged(&why))
}

#[cfg(test)]
mod tests;
