//! Microsoft's older format, according to its specification ("Virtual Hard Disk Image Format
//! Specification", version 1.0). `qemu-img` calls it vpc.
//!
//! ```text
//! fixed     the disk's bytes, footer
//! dynamic   copy of the footer ──> header ──> block allocation table ──> blocks, footer
//! ```
//!
//! A block is a bitmap of its sectors followed by its data. The bitmap matters only for
//! differencing disks, which are refused; QEMU ignores it for other disks, and so does this reader.

mod footer;

use super::blocks::{
    self, Block, BlockImage, Blocks, Needed, bad_header, inside, needs_parent, too_large,
};
use super::bytes::{be32, be64, read, read_table};
use super::content::not_this_format;
use super::reader::{ImageFormat, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Format, ImageType, Layout, Subformat};
use crate::limits::MAX_BLOCK_TABLE_BYTES;
use crate::map::batch::BatchBuilder;
use crate::map::extent::{Bounds, SECTOR};
use crate::source::ReadAt;
use footer::{DiskType, FOOTER_BYTES, Footer, checksum};

/// VHD images, fixed and dynamic.
pub(super) struct Vhd;

/// A dynamic disk's header.
const HEADER_BYTES: usize = 1024;
const HEADER_COOKIE: &[u8] = b"cxsparse";
const HEADER_CHECKSUM_AT: usize = 36;
const HEADER_VERSION: u32 = 0x0001_0000;

/// The table entry of a block that is not allocated.
const UNUSED: u32 = 0xffff_ffff;

impl ImageFormat for Vhd {
    fn open(&self, source: &dyn ReadAt, batch_bytes: usize) -> Result<Opened> {
        let file_size = source.len();
        let mut head = [0; FOOTER_BYTES];
        let head_len = head
            .len()
            .min(usize::try_from(file_size).unwrap_or(usize::MAX));
        read(&source, "the image's beginning", 0, &mut head[..head_len])?;
        if let Some(footer) = Footer::parse(&head)? {
            return match footer.disk_type {
                DiskType::Dynamic => open_dynamic(&footer, source, batch_bytes),
                DiskType::Differencing => Err(needs_parent("VHD")),
                DiskType::Fixed => Err(bad_header(
                    "The footer's copy at the image's beginning says that the disk is of fixed size, \
                     which has no such copy",
                )),
            };
        }
        let tail_offset = file_size.checked_sub(FOOTER_BYTES as u64);
        let mut tail = [0; FOOTER_BYTES];
        if let Some(offset) = tail_offset {
            read(&source, "the footer", offset, &mut tail)?;
        }
        match (Footer::parse(&tail)?, tail_offset) {
            (Some(footer), Some(end)) => match footer.disk_type {
                DiskType::Fixed => open_fixed(&footer, end, source, batch_bytes),
                DiskType::Differencing => Err(needs_parent("VHD")),
                DiskType::Dynamic => Err(bad_header(
                    "The footer says that the disk is dynamic, and its copy at the image's beginning is \
                     missing",
                )),
            },
            _ => Err(not_this_format(ImageType::Vhd, source)),
        }
    }
}

fn open_fixed(
    footer: &Footer,
    data_end: u64,
    source: &dyn ReadAt,
    batch_bytes: usize,
) -> Result<Opened> {
    if footer.virtual_size > data_end {
        return Err(Error::new(
            ErrorKind::Truncated,
            format!(
                "The footer says a disk of {} bytes, and the image has {data_end} before it; fetch the \
                 image again",
                footer.virtual_size
            ),
        ));
    }
    let footer_range = data_end..source.len();
    let image = BlockImage {
        bounds: Bounds {
            file_size: source.len(),
            virtual_size: footer.virtual_size,
            cluster_size: SECTOR,
        },
        blocks: Content::Fixed,
        reserved: vec![footer_range],
    };
    let format = Format::Vhd(Layout {
        subformat: Subformat::Fixed,
        block_size: None,
    });
    blocks::open(image, format, None, source, batch_bytes)
}

fn open_dynamic(footer: &Footer, source: &dyn ReadAt, batch_bytes: usize) -> Result<Opened> {
    let header_offset = footer.data_offset;
    inside(
        &"The dynamic disk's header",
        header_offset,
        HEADER_BYTES as u64,
        source.len(),
    )?;
    let mut header = [0; HEADER_BYTES];
    read(
        &source,
        "the dynamic disk's header",
        header_offset,
        &mut header,
    )?;
    if !header.starts_with(HEADER_COOKIE) {
        return Err(bad_header(
            "There is no dynamic disk's header where the footer says that it is",
        ));
    }
    if be32(&header, HEADER_CHECKSUM_AT) != checksum(&header, HEADER_CHECKSUM_AT) {
        return Err(bad_header("The dynamic disk's header has a wrong checksum"));
    }
    let version = be32(&header, 24);
    if version != HEADER_VERSION {
        return Err(bad_header(format!(
            "The dynamic disk's header is of version {version:#x}; only {HEADER_VERSION:#x} is known"
        )));
    }
    let (table_offset, table_entries) = (be64(&header, 16), be32(&header, 28));
    let block_size = u64::from(be32(&header, 32));
    if !block_size.is_power_of_two() || block_size < SECTOR {
        return Err(bad_header(format!(
            "The header says blocks of {block_size} bytes; they have a power of two, and a sector at \
             least"
        )));
    }
    let blocks = footer.virtual_size.div_ceil(block_size);
    if blocks > u64::from(table_entries) {
        return Err(bad_header(format!(
            "The disk has {blocks} blocks, and the block allocation table {table_entries} entries"
        )));
    }
    let table_bytes = usize::try_from(blocks * 4).unwrap_or(usize::MAX);
    if table_bytes > MAX_BLOCK_TABLE_BYTES {
        return Err(too_large(format!(
            "The block allocation table has {table_bytes} bytes, and at most {MAX_BLOCK_TABLE_BYTES} are supported; \
             convert the image with larger blocks"
        )));
    }
    let table = read_table(
        source,
        "the block allocation table",
        table_offset,
        table_bytes,
    )?;
    let table_end = table_offset + table_bytes as u64;
    let mut reserved = vec![
        0..FOOTER_BYTES as u64,
        header_offset..header_offset + HEADER_BYTES as u64,
        table_offset..table_end,
    ];
    reserved.sort_unstable_by_key(|range| range.start);
    let image = BlockImage {
        bounds: Bounds {
            file_size: source.len(),
            virtual_size: footer.virtual_size,
            cluster_size: SECTOR,
        },
        blocks: Content::Dynamic {
            table,
            block_size,
            // One bit for each sector, in whole sectors.
            bitmap_bytes: (block_size / SECTOR).div_ceil(8).next_multiple_of(SECTOR),
        },
        reserved,
    };
    let format = Format::Vhd(Layout {
        subformat: Subformat::Dynamic,
        block_size: Some(block_size),
    });
    blocks::open(image, format, None, source, batch_bytes)
}

#[derive(Debug)]
enum Content {
    Fixed,
    Dynamic {
        /// The entries as they are in the file.
        table: Vec<u8>,
        block_size: u64,
        bitmap_bytes: u64,
    },
}

impl Blocks for Content {
    fn fill(
        &self,
        bounds: &Bounds,
        _source: &dyn ReadAt,
        batch: &mut BatchBuilder,
    ) -> Result<bool> {
        match self {
            Content::Fixed => {
                let from = batch.next_guest_offset();
                batch.plain(from, bounds.virtual_size - from);
                Ok(false)
            }
            Content::Dynamic {
                table,
                block_size,
                bitmap_bytes,
            } => blocks::fill(batch, bounds, *block_size, Needed::Whole, |index| {
                let at = usize::try_from(index * 4).unwrap_or(usize::MAX);
                Ok(match be32(table, at) {
                    UNUSED => Block::Zero,
                    sector => Block::At(u64::from(sector) * SECTOR + bitmap_bytes),
                })
            }),
        }
    }
}
