//! The descriptor: a text with the kind of disk and the files that it is in.

use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::formats::blocks::{bad_header, needs_parent};
use crate::formats::bytes::read_table;
use crate::source::ReadAt;

/// Kinds of disks that are completely in the file with the descriptor.
const KINDS: [&str; 2] = ["monolithicSparse", "streamOptimized"];

/// The `parentCID` of a disk without a parent.
const NO_PARENT: &str = "ffffffff";

/// How an extent is accessed: a line that begins with one of these names a file.
const ACCESS: [&str; 3] = ["RW", "RDONLY", "NOACCESS"];

/// Refuses a disk that needs another file, or a key.
pub(super) fn check(source: &dyn ReadAt, range: &Range<u64>) -> Result<()> {
    let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let bytes = read_table(source, "the descriptor", range.start, len)?;
    // What follows a zero byte is padding.
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let mut extents = 0;
    for line in text.lines().map(str::trim) {
        if line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        if words.next().is_some_and(|word| ACCESS.contains(&word)) {
            extents += 1;
            extent(words.nth(1).unwrap_or_default())?;
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        entry(key.trim(), value.trim().trim_matches('"'))?;
    }
    match extents {
        1 => Ok(()),
        0 => Err(bad_header("The descriptor names no extent")),
        more => Err(Error::new(
            ErrorKind::ExternalDataFile,
            format!("The disk is in {more} files; merge them into one before they are uploaded"),
        )),
    }
}

fn extent(kind: &str) -> Result<()> {
    match kind {
        "SPARSE" => Ok(()),
        other => Err(Error::new(
            ErrorKind::ExternalDataFile,
            format!(
                "The disk's data is in another file (an extent of type {other:?}); convert it to one \
                 file before it is uploaded"
            ),
        )),
    }
}

fn entry(key: &str, value: &str) -> Result<()> {
    if key.eq_ignore_ascii_case("createType") && !KINDS.contains(&value) {
        return Err(Error::new(
            ErrorKind::ExternalDataFile,
            format!(
                "The disk is of type {value:?}, which is kept in more than one file; convert it to \
                 monolithicSparse or streamOptimized"
            ),
        ));
    }
    let has_parent = key.eq_ignore_ascii_case("parentFileNameHint")
        || (key.eq_ignore_ascii_case("parentCID") && !value.eq_ignore_ascii_case(NO_PARENT));
    if has_parent {
        return Err(needs_parent("VMDK"));
    }
    let is_encrypted = [
        "encryptionKeys",
        "encryption.",
        "dataFileKey",
        "ddb.encoding.key",
    ]
    .iter()
    .any(|name| {
        let start = key.get(..name.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(name))
    });
    match is_encrypted {
        true => Err(Error::new(
            ErrorKind::Encrypted,
            "The image is encrypted; decrypt it before it is uploaded",
        )),
        false => Ok(()),
    }
}
