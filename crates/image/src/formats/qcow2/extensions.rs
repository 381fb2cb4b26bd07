//! Header extensions: between the header's fields and the end of its cluster.

use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::formats::bytes::{be32, be64, read};
use crate::limits::{MAX_BITMAP_DIRECTORY_BYTES, MAX_BITMAPS};
use crate::source::ReadAt;

const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const ENCRYPTION: u32 = 0x0537_be77;
const BITMAPS: u32 = 0x2385_2875;
const EXTERNAL_DATA: u32 = 0x4441_5441;

/// QEMU's buffer for the backing format's name has 16 bytes with the terminator.
const MAX_BACKING_FORMAT_LEN: usize = 15;
/// A feature name: its kind, its bit, and 46 bytes of text.
const FEATURE_NAME_LEN: usize = 48;
const KIND_INCOMPATIBLE: u8 = 0;

/// The fields of the extension for bitmaps.
pub(super) type BitmapFields = [u8; 24];

/// Where the persistent dirty bitmaps are.
#[derive(Debug, Clone)]
pub(super) struct Bitmaps {
    pub(super) count: u32,
    pub(super) directory: Range<u64>,
}

impl Bitmaps {
    /// Checks the bitmaps extension of an image whose feature bit says that it is valid.
    pub(super) fn new(fields: &BitmapFields) -> Result<Self> {
        let (count, reserved) = (be32(fields, 0), be32(fields, 4));
        let (directory_len, offset) = (be64(fields, 8), be64(fields, 16));
        if count > MAX_BITMAPS || directory_len > MAX_BITMAP_DIRECTORY_BYTES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "The image has {count} bitmaps in a directory of {directory_len} bytes; at \
                     most {MAX_BITMAPS} in {MAX_BITMAP_DIRECTORY_BYTES} are allowed"
                ),
            ));
        }
        match offset.checked_add(directory_len) {
            Some(end) if reserved == 0 && count > 0 && directory_len > 0 => Ok(Self {
                count,
                directory: offset..end,
            }),
            _ => Err(bad(format!(
                "The header extension for bitmaps is impossible: {count} bitmaps in \
                 {directory_len} bytes at {offset:#x}, reserved field {reserved:#x}"
            ))),
        }
    }
}

/// The header extensions that matter.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) data_file: bool,
    pub(super) encryption: bool,
    /// Not checked yet: without the feature bit that says it is valid, it has no meaning.
    pub(super) bitmaps: Option<BitmapFields>,
    incompatible_names: Vec<(u8, String)>,
}

impl Extensions {
    /// Walks the extensions in `area`, the part of the header's cluster between its fields and the
    /// name of a backing file. The area is empty if the name begins before the fields end.
    pub(super) fn read<S: ReadAt>(source: &S, area: Range<u64>) -> Result<Self> {
        // At most one cluster of 2 MiB. A file that ends inside it is too short for its tables.
        let len = area.end.saturating_sub(area.start);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        read(source, "the header's cluster", area.start, &mut bytes)?;
        let mut extensions = Self::default();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let Some((head, body)) = rest.split_at_checked(8) else {
                return Err(too_long(area.end));
            };
            let (kind, len) = (be32(head, 0), be32(head, 4));
            let Some(data) = usize::try_from(len).ok().and_then(|len| body.get(..len)) else {
                return Err(too_long(area.end));
            };
            if kind == END {
                break;
            }
            extensions.add(kind, data)?;
            rest = body
                .get(data.len().next_multiple_of(8)..)
                .unwrap_or_default();
        }
        Ok(extensions)
    }

    fn add(&mut self, kind: u32, data: &[u8]) -> Result<()> {
        match kind {
            BACKING_FORMAT if data.len() > MAX_BACKING_FORMAT_LEN => {
                return Err(bad(format!(
                    "The header extension for the backing format has {} bytes, more than \
                     {MAX_BACKING_FORMAT_LEN}",
                    data.len()
                )));
            }
            FEATURE_NAMES => {
                for entry in data.chunks_exact(FEATURE_NAME_LEN) {
                    if entry[0] == KIND_INCOMPATIBLE && entry[1] < 64 {
                        self.incompatible_names.push((entry[1], text(&entry[2..])));
                    }
                }
            }
            ENCRYPTION => self.encryption = true,
            EXTERNAL_DATA => self.data_file = true,
            BITMAPS => self.bitmaps = Some(bitmap_fields(data)?),
            // Unknown extensions may be ignored: incompatible changes have feature bits.
            _ => {}
        }
        Ok(())
    }

    /// The image's own name for an incompatible feature.
    pub(super) fn incompatible_name(&self, bit: u8) -> Option<&str> {
        self.incompatible_names
            .iter()
            .find(|(named, name)| *named == bit && !name.is_empty())
            .map(|(_, name)| name.as_str())
    }
}

fn bitmap_fields(data: &[u8]) -> Result<BitmapFields> {
    data.try_into().map_err(|_| {
        bad(format!(
            "The header extension for bitmaps has {} bytes instead of 24",
            data.len()
        ))
    })
}

/// A text from the image, made safe to show.
fn text(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take_while(|byte| **byte != 0)
        .map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '?',
        })
        .collect()
}

fn too_long(end: u64) -> Error {
    bad(format!(
        "A header extension reaches beyond the room for extensions, which ends at {end:#x}"
    ))
}

fn bad(context: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadHeader, context)
}
