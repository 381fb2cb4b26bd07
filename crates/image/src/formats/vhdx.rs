//! Microsoft's newer format, according to its specification ([MS-VHDX]).
//!
//! ```text
//! identifier, two headers ──> log (must be empty)
//! two region tables ─┬─> block allocation table ──> blocks
//!                    └─> metadata: sizes, whether there is a parent
//! ```
//!
//! Of the two headers, the valid one with the higher sequence number is used, and of the region tables
//! the first valid one. A log with pending changes is not replayed: such an image is refused.

mod crc32c;
mod guid;
mod header;
mod layout;
mod metadata;
mod region;

use super::blocks::{self, Block, BlockImage, Blocks, Needed, bad_header, needs_parent, too_large};
use super::bytes::{le64, read_table};
use super::reader::{ImageFormat, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Format, Layout, Subformat};
use crate::limits::MAX_BLOCK_TABLE_BYTES;
use crate::map::batch::BatchBuilder;
use crate::map::extent::{Bounds, SECTOR};
use crate::source::ReadAt;
use layout::FIRST_REGION;
use metadata::Metadata;
use region::Regions;

/// VHDX images, fixed and dynamic.
pub(super) struct Vhdx;

/// States of a payload block (section 2.5.1.1).
const NOT_PRESENT: u64 = 0;
const UNDEFINED: u64 = 1;
const ZERO: u64 = 2;
const UNMAPPED: u64 = 3;
/// The value in drafts of the specification.
const UNMAPPED_OF_DRAFTS: u64 = 5;
const FULLY_PRESENT: u64 = 6;
const PARTIALLY_PRESENT: u64 = 7;

impl ImageFormat for Vhdx {
    fn open(&self, source: &dyn ReadAt, batch_bytes: usize) -> Result<Opened> {
        let log = header::read(source)?;
        let regions = Regions::read(source)?;
        let metadata = Metadata::read(source, &regions.metadata)?;
        if metadata.has_parent {
            return Err(needs_parent("VHDX"));
        }
        let ratio = metadata.chunk_ratio();
        let blocks = metadata.virtual_size.div_ceil(metadata.block_size);
        // The entry of a chunk's bitmap comes after those of its blocks.
        let entries = blocks + blocks.saturating_sub(1) / ratio;
        let table_bytes = usize::try_from(entries * 8).unwrap_or(usize::MAX);
        if table_bytes > MAX_BLOCK_TABLE_BYTES {
            return Err(too_large(format!(
                "The block allocation table has {table_bytes} bytes, and at most {MAX_BLOCK_TABLE_BYTES} are supported; \
                 convert the image with larger blocks"
            )));
        }
        if table_bytes as u64 > regions.table.end - regions.table.start {
            return Err(bad_header(format!(
                "The disk has {blocks} blocks, more than the block allocation table has room for"
            )));
        }
        let table = read_table(
            source,
            "the block allocation table",
            regions.table.start,
            table_bytes,
        )?;
        let mut reserved = vec![0..FIRST_REGION, regions.table, regions.metadata];
        reserved.extend(log);
        reserved.sort_unstable_by_key(|range| range.start);
        blocks::refuse_overlap(&reserved)?;
        let format = Format::Vhdx(Layout {
            subformat: match metadata.is_fixed {
                true => Subformat::Fixed,
                false => Subformat::Dynamic,
            },
            block_size: Some(metadata.block_size),
        });
        let image = BlockImage {
            bounds: Bounds {
                file_size: source.len(),
                virtual_size: metadata.virtual_size,
                cluster_size: SECTOR,
            },
            blocks: Table {
                table,
                block_size: metadata.block_size,
                ratio,
            },
            reserved,
        };
        blocks::open(image, format, None, source, batch_bytes)
    }
}

#[derive(Debug)]
struct Table {
    /// The entries as they are in the file.
    table: Vec<u8>,
    block_size: u64,
    /// Blocks per chunk.
    ratio: u64,
}

impl Blocks for Table {
    fn fill(
        &self,
        bounds: &Bounds,
        _source: &dyn ReadAt,
        batch: &mut BatchBuilder,
    ) -> Result<bool> {
        blocks::fill(batch, bounds, self.block_size, Needed::Seen, |index| {
            let at = usize::try_from((index + index / self.ratio) * 8).unwrap_or(usize::MAX);
            let entry = le64(&self.table, at);
            block(entry).map_err(|why| {
                Error::new(
                    ErrorKind::BadTable,
                    format!("The entry {entry:#018x} for block {index} of the disk {why}"),
                )
            })
        })
    }
}

fn block(entry: u64) -> Result<Block, &'static str> {
    match entry & 7 {
        NOT_PRESENT | UNDEFINED | ZERO | UNMAPPED | UNMAPPED_OF_DRAFTS => Ok(Block::Zero),
        FULLY_PRESENT if entry & 0xf_fff8 == 0 => Ok(Block::At(entry & !0xf_ffff)),
        FULLY_PRESENT => Err("has reserved bits set"),
        PARTIALLY_PRESENT => Err("says that a part of it is in a parent"),
        _ => Err("has an unknown state"),
    }
}
