//! The header: every field that matters is checked here, before anything else is read.

use crate::error::{Error, ErrorKind, Result};
use crate::format::{ImageType, Subformat};
use crate::formats::blocks::{bad_header, needs_parent, too_large};
use crate::formats::bytes::{le32, le64, read};
use crate::formats::content::not_this_format;
use crate::limits::MAX_BLOCK_TABLE_BYTES;
use crate::map::extent::SECTOR;
use crate::source::ReadAt;

/// The size of every block, as in QEMU: no program uses another.
pub(super) const BLOCK_BYTES: u64 = 1 << 20;

/// The fields of version 1.1, including the text before them.
const HEADER_BYTES: usize = 0x1c8;
const SIGNATURE: u32 = 0xbeda_107f;
const VERSION: u32 = 0x0001_0001;

pub(super) struct Header {
    pub(super) subformat: Subformat,
    pub(super) virtual_size: u64,
    pub(super) map_offset: u64,
    pub(super) data_offset: u64,
    /// Where the header's last field ends.
    pub(super) end: u64,
    blocks: u64,
}

impl Header {
    pub(super) fn read(source: &dyn ReadAt) -> Result<Self> {
        let mut header = [0; HEADER_BYTES];
        if source.len() < HEADER_BYTES as u64 {
            return Err(not_this_format(ImageType::Vdi, source));
        }
        read(&source, "the header", 0, &mut header)?;
        if le32(&header, 0x40) != SIGNATURE {
            return Err(not_this_format(ImageType::Vdi, source));
        }
        let version = le32(&header, 0x44);
        if version != VERSION {
            return Err(bad_header(format!(
                "The image is of VDI version {}.{}; only 1.1 is known",
                version >> 16,
                version & 0xffff
            )));
        }
        let subformat = match le32(&header, 0x4c) {
            1 => Subformat::Dynamic,
            2 => Subformat::Static,
            3 | 4 => return Err(needs_parent("VDI")),
            other => {
                return Err(bad_header(format!(
                    "The header says that the image is of type {other}; known are 1 (dynamic) and 2 \
                     (static)"
                )));
            }
        };
        // The UUIDs of a parent image.
        if header[0x1a8..0x1c8].iter().any(|byte| *byte != 0) {
            return Err(needs_parent("VDI"));
        }
        let (sector, block, extra) = (
            le32(&header, 0x168),
            le32(&header, 0x178),
            le32(&header, 0x17c),
        );
        if u64::from(sector) != SECTOR {
            return Err(bad_header(format!(
                "The header says sectors of {sector} bytes; they have {SECTOR}"
            )));
        }
        if u64::from(block) != BLOCK_BYTES || extra != 0 {
            return Err(Error::new(
                ErrorKind::UnknownFeature,
                format!(
                    "The header says blocks of {block} bytes with {extra} before each; only blocks of \
                     {BLOCK_BYTES} bytes are known"
                ),
            ));
        }
        let (map_offset, data_offset) = (le32(&header, 0x154), le32(&header, 0x158));
        for (what, offset) in [("block map", map_offset), ("data", data_offset)] {
            if !u64::from(offset).is_multiple_of(SECTOR) {
                return Err(bad_header(format!(
                    "The {what}'s offset {offset:#x} is not a multiple of {SECTOR}"
                )));
            }
        }
        let disk_size = le64(&header, 0x170);
        let blocks = le32(&header, 0x180);
        if disk_size > u64::from(blocks) * BLOCK_BYTES {
            return Err(bad_header(format!(
                "The disk has {disk_size} bytes, and the {blocks} blocks less"
            )));
        }
        let virtual_size = disk_size.next_multiple_of(SECTOR);
        Ok(Self {
            subformat,
            virtual_size,
            map_offset: map_offset.into(),
            data_offset: data_offset.into(),
            end: HEADER_BYTES as u64,
            blocks: virtual_size.div_ceil(BLOCK_BYTES),
        })
    }

    /// The length of the block map for the disk.
    pub(super) fn map_bytes(&self) -> Result<usize> {
        let bytes = usize::try_from(self.blocks * 4).unwrap_or(usize::MAX);
        if bytes > MAX_BLOCK_TABLE_BYTES {
            return Err(too_large(format!(
                "The block map has {bytes} bytes, and at most {MAX_BLOCK_TABLE_BYTES} are supported; convert the image \
                 to another format"
            )));
        }
        Ok(bytes)
    }
}
