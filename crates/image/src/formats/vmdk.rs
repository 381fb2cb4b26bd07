//! VMware's format, according to its specification ("Virtual Disk Format 5.0"): sparse extents that
//! hold a whole disk in one file.
//!
//! ```text
//! header ─┬─> descriptor (text): the kind of disk, its files, its parent
//!         └─> grain directory ──> grain tables ──> grains: as they are, or compressed
//! ```
//!
//! A stream-optimized image has its grain directory at the end, to which a copy of the header in a
//! footer points, and its grains are compressed, each after a marker with its length. An image that is
//! split into several files, has flat extents (in other files) or has a parent is refused.

mod descriptor;
mod header;

use super::blocks::{self, BlockImage, Blocks, inside};
use super::bytes::{le32, read, read_table};
use super::reader::{ImageFormat, Opened};
use crate::error::Result;
use crate::format::{Format, Layout};
use crate::map::batch::BatchBuilder;
use crate::map::extent::{Bounds, Encoding, SECTOR};
use crate::source::ReadAt;
use header::Header;

/// VMDK images in one file: monolithicSparse and streamOptimized.
pub(super) struct Vmdk;

/// The grain table entry of a grain that reads as zero, if the header says that there are such
/// grains.
const ZERO_GRAIN: u32 = 1;

/// The marker before a compressed grain: its sector on the disk and its length.
const MARKER_BYTES: u64 = 12;

/// Grain tables that are adjacent in the file are read together, up to this many bytes.
const TABLES_READ_BYTES: u64 = 1 << 20;

impl ImageFormat for Vmdk {
    fn open(&self, source: &dyn ReadAt, batch_bytes: usize) -> Result<Opened> {
        let header = Header::read(source)?;
        let directory_bytes = header.directory_bytes()?;
        let directory = read_table(
            source,
            "the grain directory",
            header.directory_offset,
            directory_bytes,
        )?;
        let table_bytes = header.table_bytes();
        let mut reserved = header.reserved.clone();
        reserved.push(header.directory_offset..header.directory_offset + directory_bytes as u64);
        for index in 0..directory_bytes / 4 {
            let offset = u64::from(le32(&directory, index * 4)) * SECTOR;
            if offset != 0 {
                let what = format_args!("Grain table {index}");
                reserved.push(inside(&what, offset, table_bytes, source.len())?);
            }
        }
        reserved.sort_unstable_by_key(|range| range.start);
        blocks::refuse_overlap(&reserved)?;
        let format = Format::Vmdk(Layout {
            subformat: header.subformat,
            block_size: Some(header.grain_size),
        });
        let cluster_size = header.is_compressed.then_some(header.grain_size);
        let image = BlockImage {
            bounds: Bounds {
                file_size: source.len(),
                virtual_size: header.virtual_size,
                cluster_size: header.grain_size,
            },
            blocks: Directory { header, directory },
            reserved,
        };
        blocks::open(image, format, cluster_size, source, batch_bytes)
    }
}

#[derive(Debug)]
struct Directory {
    header: Header,
    /// The entries as they are in the file.
    directory: Vec<u8>,
}

impl Blocks for Directory {
    fn fill(&self, bounds: &Bounds, source: &dyn ReadAt, batch: &mut BatchBuilder) -> Result<bool> {
        let coverage = self.header.table_coverage();
        let mut tables = Tables::default();
        while batch.next_guest_offset() < bounds.virtual_size {
            let guest_offset = batch.next_guest_offset();
            let index = guest_offset / coverage;
            if self.table_offset(index) == 0 {
                if batch.is_full(1) {
                    return Ok(true);
                }
                batch.zero((index + 1) * coverage - guest_offset);
                continue;
            }
            let table = tables.get(self, source, index)?;
            if self.table(bounds, table, index * coverage, batch)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Directory {
    /// The offset of a grain table; 0 if it does not exist.
    fn table_offset(&self, index: u64) -> u64 {
        let at = usize::try_from(index * 4).unwrap_or(usize::MAX);
        match self.directory.get(at..) {
            Some([_, _, _, _, ..]) => u64::from(le32(&self.directory, at)) * SECTOR,
            _ => 0,
        }
    }

    /// Adds the grains of a table that begins at `start`, from the end of the batch on. True if the
    /// batch is full.
    fn table(
        &self,
        bounds: &Bounds,
        table: &[u8],
        start: u64,
        batch: &mut BatchBuilder,
    ) -> Result<bool> {
        let grain_size = self.header.grain_size;
        let done = (batch.next_guest_offset() - start) / grain_size;
        let (entries, _) = table.as_chunks::<4>();
        let first = usize::try_from(done)
            .unwrap_or(usize::MAX)
            .min(entries.len());
        let entries = entries.get(first..).unwrap_or_default();
        for (index, entry) in entries.iter().enumerate() {
            let guest_offset = batch.next_guest_offset();
            if guest_offset >= bounds.virtual_size {
                break;
            }
            if batch.is_full(2) {
                return Ok(true);
            }
            let entry = u32::from_le_bytes(*entry);
            if entry == 0 || (entry == ZERO_GRAIN && self.header.has_zero_grains) {
                batch.zero(grain_size);
                continue;
            }
            let host_offset = u64::from(entry) * SECTOR;
            let what = format_args!("The grain for guest offset {guest_offset:#x}");
            let seen = grain_size.min(bounds.virtual_size - guest_offset);
            if self.header.is_compressed {
                inside(&what, host_offset, MARKER_BYTES + 1, bounds.file_size)?;
                let next = entries.get(index + 1).copied().map(u32::from_le_bytes);
                let sectors = self.stream_sectors(entry, next);
                batch.compressed(host_offset, sectors, Encoding::Grain, grain_size);
            } else {
                inside(&what, host_offset, seen, bounds.file_size)?;
                batch.plain(host_offset, grain_size);
            }
        }
        Ok(false)
    }

    /// How many sectors a compressed grain takes at most: up to the next grain, if that comes after it,
    /// or as much as an incompressible grain may take.
    fn stream_sectors(&self, entry: u32, next: Option<u32>) -> u64 {
        // What QEMU reads of a grain.
        let most = (2 * self.header.grain_size) / SECTOR;
        let to_next = next
            .and_then(|next| next.checked_sub(entry))
            .filter(|sectors| *sectors > 0);
        to_next.map_or(most, |sectors| most.min(sectors.into()))
    }
}

/// Grain tables that were read together.
#[derive(Default)]
struct Tables {
    first: u64,
    count: u64,
    bytes: Vec<u8>,
}

impl Tables {
    /// A table, which must exist.
    fn get(&mut self, directory: &Directory, source: &dyn ReadAt, index: u64) -> Result<&[u8]> {
        let table_bytes = directory.header.table_bytes();
        if !(self.first..self.first + self.count).contains(&index) {
            let offset = directory.table_offset(index);
            let most = (TABLES_READ_BYTES / table_bytes).max(1);
            // Tables that are adjacent in the file in the same order as on the disk.
            let count = (1..most)
                .take_while(|more| {
                    directory.table_offset(index + more) == offset + more * table_bytes
                })
                .count() as u64
                + 1;
            let len = usize::try_from(count * table_bytes).unwrap_or(usize::MAX);
            self.bytes.resize(len, 0);
            read(&source, "grain tables", offset, &mut self.bytes)?;
            (self.first, self.count) = (index, count);
        }
        let at = |index: u64| usize::try_from(index * table_bytes).unwrap_or(usize::MAX);
        let range = at(index - self.first)..at(index - self.first + 1);
        Ok(self.bytes.get(range).unwrap_or_default())
    }
}
