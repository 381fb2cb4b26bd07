//! The metadata region: sizes, and whether there is a parent (section 2.6).

use std::ops::Range;

use super::guid::Guid;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::blocks::{bad_header, inside, too_large};
use crate::formats::bytes::{le16, le32, le64, read};
use crate::source::ReadAt;

const SIGNATURE: &[u8] = b"metadata";
const TABLE_BYTES: usize = 64 << 10;
const ENTRY_BYTES: usize = 32;
const MAX_ENTRIES: usize = 2047;

const FILE_PARAMETERS: Guid = Guid::new(0xcaa1_6737_fa36_4d43_b3b6_33f0_aa44_e76b);
const VIRTUAL_DISK_SIZE: Guid = Guid::new(0x2fa5_4224_cd1b_4876_b211_5dbe_d83b_f4b8);
const DISK_ID: Guid = Guid::new(0xbeca_12ab_b2e6_4523_93ef_c309_e000_c746);
const LOGICAL_SECTOR_SIZE: Guid = Guid::new(0x8141_bf1d_a96f_4709_ba47_f233_a8fa_ab5f);
const PHYSICAL_SECTOR_SIZE: Guid = Guid::new(0xcda3_48c7_445d_4471_9cc9_e988_5251_c556);
const PARENT_LOCATOR: Guid = Guid::new(0xa8d3_5f2d_b30b_454d_abf7_d3d8_4834_ab0c);

/// Flags of a table entry, and of the file parameters.
const IS_REQUIRED: u32 = 1 << 2;
const LEAVE_BLOCKS_ALLOCATED: u32 = 1 << 0;
const HAS_PARENT: u32 = 1 << 1;

/// Limits of the block size and the disk size (section 2.1).
const BLOCK_BYTES: Range<u64> = 1 << 20..(256 << 20) + 1;
const MAX_DISK_BYTES: u64 = 64 << 40;

/// Number of sectors that the bitmap of a chunk covers.
const SECTORS_PER_CHUNK: u64 = 1 << 23;

pub(super) struct Metadata {
    pub(super) block_size: u64,
    pub(super) virtual_size: u64,
    pub(super) has_parent: bool,
    pub(super) is_fixed: bool,
    sector_size: u64,
}

/// Items found so far.
#[derive(Default)]
struct Items {
    parameters: Option<(u64, u32)>,
    disk_size: Option<u64>,
    sector_size: Option<u64>,
    has_parent_locator: bool,
}

impl Metadata {
    pub(super) fn read(source: &dyn ReadAt, region: &Range<u64>) -> Result<Self> {
        inside(
            &"The metadata table",
            region.start,
            TABLE_BYTES as u64,
            region.end,
        )?;
        let mut table = vec![0; TABLE_BYTES];
        read(&source, "the metadata table", region.start, &mut table)?;
        if !table.starts_with(SIGNATURE) {
            return Err(bad_header(
                "There is no metadata table where the region table says that it is",
            ));
        }
        let count = usize::from(le16(&table, 10));
        if count > MAX_ENTRIES {
            return Err(bad_header(format!(
                "The metadata table says {count} entries; it has room for {MAX_ENTRIES}"
            )));
        }
        let mut items = Items::default();
        for entry in table[ENTRY_BYTES..].chunks_exact(ENTRY_BYTES).take(count) {
            items.take(source, region, entry)?;
        }
        items.check()
    }

    /// How many blocks a chunk has.
    pub(super) fn chunk_ratio(&self) -> u64 {
        SECTORS_PER_CHUNK * self.sector_size / self.block_size
    }
}

impl Items {
    fn take(&mut self, source: &dyn ReadAt, region: &Range<u64>, entry: &[u8]) -> Result<()> {
        let guid = Guid::at(entry, 0);
        let (offset, length) = (u64::from(le32(entry, 16)), u64::from(le32(entry, 20)));
        let mut value = [0; 8];
        let mut item = |len: usize| {
            if length < len as u64 {
                return Err(bad_header(format!(
                    "An item of the metadata has {length} bytes instead of {len}"
                )));
            }
            let range = inside(
                &"An item of the metadata",
                region.start + offset,
                length,
                region.end,
            )?;
            read(
                &source,
                "an item of the metadata",
                range.start,
                &mut value[..len],
            )
        };
        let is_again = match guid {
            Some(FILE_PARAMETERS) => {
                item(8)?;
                let parameters = (u64::from(le32(&value, 0)), le32(&value, 4));
                self.parameters.replace(parameters).is_some()
            }
            Some(VIRTUAL_DISK_SIZE) => {
                item(8)?;
                self.disk_size.replace(le64(&value, 0)).is_some()
            }
            Some(LOGICAL_SECTOR_SIZE) => {
                item(4)?;
                let size = u64::from(le32(&value, 0));
                self.sector_size.replace(size).is_some()
            }
            Some(PARENT_LOCATOR) => {
                self.has_parent_locator = true;
                false
            }
            Some(DISK_ID | PHYSICAL_SECTOR_SIZE) => false,
            _ if le32(entry, 24) & IS_REQUIRED == 0 => false,
            _ => {
                let name = guid.map(|guid| guid.to_string()).unwrap_or_default();
                return Err(Error::new(
                    ErrorKind::UnknownFeature,
                    format!("The image needs the unknown metadata item {name}"),
                ));
            }
        };
        match is_again {
            true => Err(bad_header("The metadata table has a duplicate item")),
            false => Ok(()),
        }
    }

    fn check(self) -> Result<Metadata> {
        let (Some((block_size, flags)), Some(virtual_size), Some(sector_size)) =
            (self.parameters, self.disk_size, self.sector_size)
        else {
            return Err(bad_header(
                "The metadata lacks the block size, the disk size or the sector size",
            ));
        };
        if !block_size.is_power_of_two() || !BLOCK_BYTES.contains(&block_size) {
            return Err(bad_header(format!(
                "The metadata says blocks of {block_size} bytes; they have a power of two from 1 MiB to \
                 256 MiB"
            )));
        }
        if !matches!(sector_size, 512 | 4096) {
            return Err(bad_header(format!(
                "The metadata says sectors of {sector_size} bytes; they have 512 or 4096"
            )));
        }
        if virtual_size > MAX_DISK_BYTES {
            return Err(too_large(format!(
                "The disk has {virtual_size} bytes, and at most {MAX_DISK_BYTES} are supported"
            )));
        }
        if virtual_size == 0 || !virtual_size.is_multiple_of(sector_size) {
            return Err(bad_header(format!(
                "The metadata says a disk of {virtual_size} bytes, which is not a whole number of sectors of \
                 {sector_size} bytes"
            )));
        }
        Ok(Metadata {
            block_size,
            virtual_size,
            has_parent: flags & HAS_PARENT != 0 || self.has_parent_locator,
            is_fixed: flags & LEAVE_BLOCKS_ALLOCATED != 0,
            sector_size,
        })
    }
}
