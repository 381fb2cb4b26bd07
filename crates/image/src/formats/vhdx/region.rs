//! The region tables: where the block allocation table and the metadata are (section 2.2.3).

use std::ops::Range;

use super::crc32c;
use super::guid::Guid;
use super::layout::{ALIGNMENT, FIRST_REGION};
use crate::error::{Error, ErrorKind, Result};
use crate::formats::blocks::{bad_header, inside};
use crate::formats::bytes::{le32, le64, read};
use crate::source::ReadAt;

const SIGNATURE: &[u8] = b"regi";
const TABLE_BYTES: usize = 64 << 10;
const OFFSETS: [u64; 2] = [192 << 10, 256 << 10];
const HEADER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 32;

/// Maximum number of entries in a table.
const MAX_ENTRIES: usize = 2047;

const BLOCK_TABLE: Guid = Guid::new(0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08);
const METADATA: Guid = Guid::new(0x8b7c_a206_4790_4b9a_b8fe_575f_050f_886e);

/// The required regions.
pub(super) struct Regions {
    pub(super) table: Range<u64>,
    pub(super) metadata: Range<u64>,
}

impl Regions {
    pub(super) fn read(source: &dyn ReadAt) -> Result<Self> {
        let mut table = vec![0; TABLE_BYTES];
        for offset in OFFSETS {
            read(&source, "a region table", offset, &mut table)?;
            if table.starts_with(SIGNATURE) && crc32c::is_right(&table) {
                return Self::parse(&table, source.len());
            }
        }
        Err(bad_header(
            "Both region tables have a wrong checksum; fetch the image again",
        ))
    }

    fn parse(table: &[u8], file_size: u64) -> Result<Self> {
        let count = usize::try_from(le32(table, 8)).unwrap_or(usize::MAX);
        if count > MAX_ENTRIES {
            return Err(bad_header(format!(
                "The region table says {count} entries; it has room for {MAX_ENTRIES}"
            )));
        }
        let (mut blocks, mut metadata) = (None, None);
        let entries = table[HEADER_BYTES..].chunks_exact(ENTRY_BYTES);
        for entry in entries.take(count) {
            let guid = Guid::at(entry, 0);
            let found = match guid {
                Some(BLOCK_TABLE) => &mut blocks,
                Some(METADATA) => &mut metadata,
                _ if le32(entry, 28) & 1 == 0 => continue,
                _ => {
                    let name = guid.map(|guid| guid.to_string()).unwrap_or_default();
                    return Err(Error::new(
                        ErrorKind::UnknownFeature,
                        format!("The image needs the unknown region {name}"),
                    ));
                }
            };
            let (offset, length) = (le64(entry, 16), u64::from(le32(entry, 24)));
            if !offset.is_multiple_of(ALIGNMENT) || offset < FIRST_REGION {
                return Err(bad_header(format!(
                    "A region is at {offset:#x}, which is not a multiple of {ALIGNMENT}"
                )));
            }
            let range = inside(&"A region", offset, length, file_size)?;
            if found.replace(range).is_some() {
                return Err(bad_header("The region table has a duplicate region"));
            }
        }
        match (blocks, metadata) {
            (Some(table), Some(metadata)) => Ok(Self { table, metadata }),
            _ => Err(bad_header(
                "The region table lacks the block allocation table or the metadata",
            )),
        }
    }
}
