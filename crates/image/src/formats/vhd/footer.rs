//! The footer. A dynamic disk has a copy of it at the beginning of the file.

use crate::error::{Error, ErrorKind, Result};
use crate::formats::blocks::bad_header;
use crate::formats::bytes::{be16, be32, be64};
use crate::map::extent::SECTOR;

pub(super) const FOOTER_BYTES: usize = 512;

const COOKIE: &[u8] = b"conectix";
const CHECKSUM_AT: usize = 64;
const VERSION: u32 = 0x0001_0000;

/// Programs whose disks have the size of the footer's geometry, which may be smaller than the footer's
/// size field: Virtual PC, and by default QEMU. QEMU knows the same two.
const SIZE_IN_GEOMETRY: [&[u8; 4]; 2] = [b"vpc ", b"qemu"];

/// The largest geometry, from which the size cannot be computed: 65535 cylinders, 16 heads, 255
/// sectors.
const MAX_GEOMETRY_SECTORS: u64 = 65535 * 16 * 255;

/// Largest disk: 2040 GiB, the limit of the format and of QEMU.
const MAX_SECTORS: u64 = 0xff00_0000;

/// The type of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskType {
    Fixed,
    Dynamic,
    Differencing,
}

/// A footer whose relevant fields have been checked.
#[derive(Debug)]
pub(super) struct Footer {
    pub(super) disk_type: DiskType,
    pub(super) virtual_size: u64,
    /// Where a dynamic disk's header stands.
    pub(super) data_offset: u64,
}

impl Footer {
    /// Parses a footer; `None` if these bytes are not one.
    pub(super) fn parse(bytes: &[u8; FOOTER_BYTES]) -> Result<Option<Self>> {
        if !bytes.starts_with(COOKIE) {
            return Ok(None);
        }
        if be32(bytes, CHECKSUM_AT) != checksum(bytes, CHECKSUM_AT) {
            return Err(bad_header("The footer has a wrong checksum"));
        }
        let version = be32(bytes, 12);
        if version != VERSION {
            return Err(bad_header(format!(
                "The image is of VHD version {version:#x}; only {VERSION:#x} is known"
            )));
        }
        let disk_type = match be32(bytes, 60) {
            2 => DiskType::Fixed,
            3 => DiskType::Dynamic,
            4 => DiskType::Differencing,
            other => {
                return Err(bad_header(format!(
                    "The footer says that the disk is of type {other}; known are 2 (fixed), 3 \
                     (dynamic) and 4 (differencing)"
                )));
            }
        };
        let sectors = sectors(bytes);
        if sectors > MAX_SECTORS {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("The disk has {sectors} sectors, and at most {MAX_SECTORS} are supported"),
            ));
        }
        Ok(Some(Self {
            disk_type,
            virtual_size: sectors * SECTOR,
            data_offset: be64(bytes, 16),
        }))
    }
}

fn sectors(bytes: &[u8; FOOTER_BYTES]) -> u64 {
    let in_footer = be64(bytes, 48) / SECTOR;
    let geometry = u64::from(be16(bytes, 56)) * u64::from(bytes[58]) * u64::from(bytes[59]);
    let has_geometry = SIZE_IN_GEOMETRY
        .iter()
        .any(|creator| bytes[28..].starts_with(*creator));
    if !has_geometry || geometry == MAX_GEOMETRY_SECTORS {
        in_footer
    } else {
        geometry
    }
}

/// The complement of the sum of all bytes except the checksum's own.
pub(super) fn checksum(bytes: &[u8], checksum_at: usize) -> u32 {
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    let own: u32 = bytes[checksum_at..checksum_at + 4]
        .iter()
        .map(|byte| u32::from(*byte))
        .sum();
    !(sum - own)
}
