//! VirtualBox's format, according to VirtualBox's `VDICore.h` and QEMU's `block/vdi.c`.
//!
//! ```text
//! header ──> block map (a number for each block of the disk) ──> blocks of 1 MiB
//! ```
//!
//! A static image is a dynamic one with all blocks allocated.

mod header;

use super::blocks::{self, Block, BlockImage, Blocks, Needed};
use super::bytes::{le32, read_table};
use super::reader::{ImageFormat, Opened};
use crate::error::Result;
use crate::format::{Format, Layout};
use crate::map::batch::BatchBuilder;
use crate::map::extent::{Bounds, SECTOR};
use crate::source::ReadAt;
use header::{BLOCK_BYTES, Header};

/// VDI images, dynamic and static.
pub(super) struct Vdi;

/// Values from here on are not blocks: 0xffffffff was never written, 0xfffffffe is zero.
const FIRST_UNALLOCATED: u32 = 0xffff_fffe;

impl ImageFormat for Vdi {
    fn open(&self, source: &dyn ReadAt, batch_bytes: usize) -> Result<Opened> {
        let header = Header::read(source)?;
        let map_bytes = header.map_bytes()?;
        let map = read_table(source, "the block map", header.map_offset, map_bytes)?;
        let mut reserved = vec![
            0..header.end,
            header.map_offset..header.map_offset + map_bytes as u64,
        ];
        reserved.sort_unstable_by_key(|range| range.start);
        let image = BlockImage {
            bounds: Bounds {
                file_size: source.len(),
                virtual_size: header.virtual_size,
                cluster_size: SECTOR,
            },
            blocks: Table {
                map,
                data_offset: header.data_offset,
            },
            reserved,
        };
        let format = Format::Vdi(Layout {
            subformat: header.subformat,
            block_size: Some(BLOCK_BYTES),
        });
        blocks::open(image, format, None, source, batch_bytes)
    }
}

#[derive(Debug)]
struct Table {
    /// The entries as they are in the file.
    map: Vec<u8>,
    data_offset: u64,
}

impl Blocks for Table {
    fn fill(
        &self,
        bounds: &Bounds,
        _source: &dyn ReadAt,
        batch: &mut BatchBuilder,
    ) -> Result<bool> {
        blocks::fill(batch, bounds, BLOCK_BYTES, Needed::Seen, |index| {
            let at = usize::try_from(index * 4).unwrap_or(usize::MAX);
            Ok(match le32(&self.map, at) {
                FIRST_UNALLOCATED.. => Block::Zero,
                number => Block::At(self.data_offset + u64::from(number) * BLOCK_BYTES),
            })
        })
    }
}
