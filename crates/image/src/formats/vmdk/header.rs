//! The header, and the footer that replaces it in a stream-optimized image.

use std::ops::Range;

use super::descriptor;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ImageType, Subformat};
use crate::formats::blocks::{bad_header, inside, too_large};
use crate::formats::bytes::{le16, le32, le64, read};
use crate::formats::content::{is_vmdk_descriptor, not_this_format};
use crate::limits::{MAX_BLOCK_TABLE_BYTES, MAX_L2_BYTES, MAX_VIRTUAL_SIZE};
use crate::map::extent::SECTOR;
use crate::source::ReadAt;

const MAGIC: &[u8] = b"KDMV";
/// The format of old ESX servers; files exported from them do not use it.
const OLD_MAGIC: &[u8] = b"COWD";
const HEADER_BYTES: usize = 512;

/// Flags.
const HAS_NEWLINE_TEST: u32 = 1 << 0;
const HAS_ZERO_GRAINS: u32 = 1 << 2;
const IS_COMPRESSED: u32 = 1 << 16;
const HAS_MARKERS: u32 = 1 << 17;

/// A method of compression.
const DEFLATE: u16 = 1;

/// Bytes that a transfer in text mode would change.
const NEWLINE_TEST: [u8; 4] = *b"\n \r\n";

/// The directory's offset if the footer has it.
const AT_END: u64 = u64::MAX;

/// The footer and the end-of-stream marker after it: the last 1024 bytes. A marker comes before
/// them.
const FOOTER_FROM_END: u64 = 1536;
const END_OF_STREAM: u32 = 0;
const FOOTER: u32 = 3;

/// Grain sizes: by the specification a power of two above 8 sectors; a copy's buffers limit them to 2
/// MiB.
const GRAIN_SECTORS: Range<u64> = 1..4097;

/// Maximum entries of a grain table, as in QEMU.
const MAX_TABLE_ENTRIES: u32 = 512;

/// Longest descriptor: the specification's has 20 sectors.
const MAX_DESCRIPTOR_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Header {
    pub(super) subformat: Subformat,
    pub(super) virtual_size: u64,
    pub(super) grain_size: u64,
    pub(super) directory_offset: u64,
    pub(super) is_compressed: bool,
    pub(super) has_zero_grains: bool,
    /// Header, descriptor and footer.
    pub(super) reserved: Vec<Range<u64>>,
    table_entries: u32,
}

impl Header {
    pub(super) fn read(source: &dyn ReadAt) -> Result<Self> {
        let mut header = [0; HEADER_BYTES];
        let len = HEADER_BYTES.min(usize::try_from(source.len()).unwrap_or(usize::MAX));
        read(&source, "the header", 0, &mut header[..len])?;
        if header.starts_with(OLD_MAGIC) {
            return Err(Error::new(
                ErrorKind::UnknownFeature,
                "The image is in the format of old ESX servers (COWD); convert it by vmkfstools or \
                 qemu-img",
            ));
        }
        if is_vmdk_descriptor(&header[..len]) {
            return Err(Error::new(
                ErrorKind::ExternalDataFile,
                "The image is the descriptor of a VMDK whose data is in other files; convert it to one \
                 file with `qemu-img convert -O vmdk -o subformat=streamOptimized`",
            ));
        }
        if len < HEADER_BYTES || !header.starts_with(MAGIC) {
            return Err(not_this_format(ImageType::Vmdk, source));
        }
        let first_sector = 0..HEADER_BYTES as u64;
        let mut reserved = vec![first_sector];
        if le64(&header, 56) == AT_END {
            let (footer, range) = footer(source)?;
            header = footer;
            reserved.push(range);
        }
        Self::parse(&header, reserved, source)
    }

    fn parse(header: &[u8], mut reserved: Vec<Range<u64>>, source: &dyn ReadAt) -> Result<Self> {
        let (version, flags) = (le32(header, 4), le32(header, 8));
        if !(1..=3).contains(&version) {
            return Err(bad_header(format!(
                "The image is of VMDK version {version}; only 1 to 3 are known"
            )));
        }
        if flags & HAS_NEWLINE_TEST != 0 && header[73..77] != NEWLINE_TEST {
            return Err(bad_header(
                "The image was changed by a transfer in text mode; fetch it again",
            ));
        }
        // QEMU decides by the method alone, and VMware by the flag: they have to agree.
        let is_compressed = le16(header, 77) == DEFLATE;
        let expected = if is_compressed {
            IS_COMPRESSED | HAS_MARKERS
        } else {
            0
        };
        if flags & (IS_COMPRESSED | HAS_MARKERS) != expected {
            return Err(Error::new(
                ErrorKind::UnknownFeature,
                "The image's grains are compressed by an unknown method",
            ));
        }
        let grain_sectors = le64(header, 20);
        if !grain_sectors.is_power_of_two() || !GRAIN_SECTORS.contains(&grain_sectors) {
            return Err(bad_header(format!(
                "The header says grains of {grain_sectors} sectors; they have a power of two up to {}",
                GRAIN_SECTORS.end - 1
            )));
        }
        let table_entries = le32(header, 44);
        if table_entries == 0 || table_entries > MAX_TABLE_ENTRIES {
            return Err(bad_header(format!(
                "The header says grain tables of {table_entries} entries; they have up to \
                 {MAX_TABLE_ENTRIES}"
            )));
        }
        let virtual_size = le64(header, 12).checked_mul(SECTOR);
        let Some(virtual_size) = virtual_size.filter(|size| *size <= MAX_VIRTUAL_SIZE) else {
            return Err(too_large(format!(
                "The disk has {} sectors, more than {}",
                le64(header, 12),
                MAX_VIRTUAL_SIZE / SECTOR
            )));
        };
        // All three are in sectors.
        let at = |sectors: u64| {
            let bytes = sectors.checked_mul(SECTOR);
            bytes.ok_or_else(|| bad_header(format!("The header names sector {sectors:#x}")))
        };
        let (descriptor_offset, descriptor_bytes) = (at(le64(header, 28))?, at(le64(header, 36))?);
        if descriptor_offset == 0 || descriptor_bytes == 0 {
            return Err(Error::new(
                ErrorKind::ExternalDataFile,
                "The image has no descriptor: it is one of the files that a disk was split into; merge \
                 them before they are uploaded",
            ));
        }
        if descriptor_bytes > MAX_DESCRIPTOR_BYTES {
            return Err(too_large(format!(
                "The descriptor has {descriptor_bytes} bytes, and at most {MAX_DESCRIPTOR_BYTES} are supported"
            )));
        }
        let descriptor = inside(
            &"The descriptor",
            descriptor_offset,
            descriptor_bytes,
            source.len(),
        )?;
        descriptor::check(source, &descriptor)?;
        reserved.push(descriptor);
        let overhead = at(le64(header, 64))?;
        if overhead > source.len() {
            return Err(Error::new(
                ErrorKind::Truncated,
                format!(
                    "The image has {} bytes, and its metadata alone {overhead}; fetch the image again",
                    source.len()
                ),
            ));
        }
        Ok(Self {
            subformat: match is_compressed {
                true => Subformat::StreamOptimized,
                false => Subformat::MonolithicSparse,
            },
            virtual_size,
            grain_size: grain_sectors * SECTOR,
            directory_offset: at(le64(header, 56))?,
            is_compressed,
            has_zero_grains: flags & HAS_ZERO_GRAINS != 0,
            reserved,
            table_entries,
        })
    }

    /// The size of a grain table in the file.
    pub(super) fn table_bytes(&self) -> u64 {
        u64::from(self.table_entries) * 4
    }

    /// How much of the disk a grain table maps.
    pub(super) fn table_coverage(&self) -> u64 {
        u64::from(self.table_entries) * self.grain_size
    }

    /// The size of the grain directory in the file. Refuses more tables than can be read.
    pub(super) fn directory_bytes(&self) -> Result<usize> {
        let tables = self.virtual_size.div_ceil(self.table_coverage());
        let directory = usize::try_from(tables * 4).unwrap_or(usize::MAX);
        if directory > MAX_BLOCK_TABLE_BYTES || tables * self.table_bytes() > MAX_L2_BYTES {
            return Err(too_large(format!(
                "The disk needs {tables} grain tables, more than can be read; convert the image to \
                 another format"
            )));
        }
        Ok(directory)
    }
}

/// The footer, and its place including its markers.
fn footer(source: &dyn ReadAt) -> Result<([u8; HEADER_BYTES], Range<u64>)> {
    let missing = || {
        Error::new(
            ErrorKind::Truncated,
            "The header says that there is a footer, and there is none; fetch the image again",
        )
    };
    let start = source
        .len()
        .checked_sub(FOOTER_FROM_END)
        .ok_or_else(missing)?;
    let mut tail = [0; 3 * HEADER_BYTES];
    read(&source, "the footer", start, &mut tail)?;
    let (marker, rest) = tail.split_at(HEADER_BYTES);
    let (footer, end) = rest.split_at(HEADER_BYTES);
    // A marker: a number, the size of what follows in bytes (0), and its kind.
    let is_marker = |bytes: &[u8], kind| le32(bytes, 8) == 0 && le32(bytes, 12) == kind;
    let is_footer = is_marker(marker, FOOTER)
        && footer.starts_with(MAGIC)
        && is_marker(end, END_OF_STREAM)
        && le64(end, 0) == 0
        && le64(footer, 56) != AT_END;
    match footer.first_chunk() {
        Some(footer) if is_footer => Ok((*footer, start..source.len())),
        _ => Err(missing()),
    }
}
