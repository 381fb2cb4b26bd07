//! The file's identifier and its two headers (section 2.2).

use std::ops::Range;

use super::crc32c;
use super::layout::ALIGNMENT;
use crate::error::{Error, ErrorKind, Result};
use crate::format::ImageType;
use crate::formats::blocks::{bad_header, inside};
use crate::formats::bytes::{self, le16, le32, le64};
use crate::formats::content::not_this_format;
use crate::source::ReadAt;

const IDENTIFIER: &[u8] = b"vhdxfile";
const SIGNATURE: &[u8] = b"head";
const HEADER_BYTES: usize = 4096;
const OFFSETS: [u64; 2] = [64 << 10, 128 << 10];
const VERSION: u16 = 1;

/// Checks the headers. Returns where the log is, if there is one.
pub(super) fn read(source: &dyn ReadAt) -> Result<Option<Range<u64>>> {
    let mut identifier = [0; 8];
    if source.len() < identifier.len() as u64 {
        return Err(not_this_format(ImageType::Vhdx, source));
    }
    read_at(source, "the file's identifier", 0, &mut identifier)?;
    if identifier != IDENTIFIER {
        return Err(not_this_format(ImageType::Vhdx, source));
    }
    let mut current: Option<[u8; HEADER_BYTES]> = None;
    for offset in OFFSETS {
        let mut header = [0; HEADER_BYTES];
        read_at(source, "a header", offset, &mut header)?;
        let is_sound = header.starts_with(SIGNATURE) && crc32c::is_right(&header);
        let is_newer = current
            .as_ref()
            .is_none_or(|current| sequence(&header) > sequence(current));
        if is_sound && is_newer {
            current = Some(header);
        }
    }
    let Some(header) = current else {
        return Err(bad_header(
            "Both headers have a wrong checksum; fetch the image again",
        ));
    };
    let version = le16(&header, 66);
    if version != VERSION {
        return Err(bad_header(format!(
            "The image is of VHDX version {version}; only {VERSION} is known"
        )));
    }
    let log_guid = &header[48..64];
    if log_guid.iter().any(|byte| *byte != 0) {
        return Err(Error::new(
            ErrorKind::UnknownFeature,
            "The image's log has changes that were not applied: the program that wrote it did not close \
             it; apply them by `qemu-img check -r all`, or by mounting it once in Windows",
        ));
    }
    let (length, offset) = (u64::from(le32(&header, 68)), le64(&header, 72));
    if length == 0 {
        return Ok(None);
    }
    if !offset.is_multiple_of(ALIGNMENT) || !length.is_multiple_of(ALIGNMENT) {
        return Err(bad_header(format!(
            "The log of {length} bytes at {offset:#x} is not aligned to {ALIGNMENT} bytes"
        )));
    }
    inside(&"The log", offset, length, source.len()).map(Some)
}

fn sequence(header: &[u8; HEADER_BYTES]) -> u64 {
    le64(header, 8)
}

fn read_at(source: &dyn ReadAt, what: &str, offset: u64, buf: &mut [u8]) -> Result<()> {
    bytes::read(&source, what, offset, buf)
}
