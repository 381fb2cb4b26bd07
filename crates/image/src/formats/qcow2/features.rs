//! The header fields of version 3, and the features that are refused by name.

use super::extensions::Extensions;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::bytes::{be32, be64, read};
use crate::map::extent::Encoding;
use crate::source::ReadAt;

/// Version 2's header; version 3's first part is the same.
pub(super) const V2_LENGTH: usize = 72;
/// Version 3's header without additional fields.
pub(super) const V3_LENGTH: usize = 104;

/// The supported incompatible feature bits.
pub(super) const DIRTY: u64 = 1 << 0;
pub(super) const CORRUPT: u64 = 1 << 1;
pub(super) const EXTERNAL_DATA: u64 = 1 << 2;
pub(super) const COMPRESSION_TYPE: u64 = 1 << 3;
pub(super) const EXTENDED_L2: u64 = 1 << 4;
pub(super) const KNOWN_INCOMPATIBLE: u64 =
    DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2;

/// Compatible feature bit 0: refcounts are updated lazily.
pub(super) const LAZY_REFCOUNTS: u64 = 1 << 0;

/// Autoclear feature bit 0: the bitmaps extension is consistent.
pub(super) const BITMAPS_CONSISTENT: u64 = 1 << 0;
/// Autoclear feature bit 1: the external data file is a raw image by itself.
pub(super) const RAW_EXTERNAL_DATA: u64 = 1 << 1;

/// The fields of version 3, and their defaults for version 2.
pub(super) struct Version3 {
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    pub(super) refcount_order: u32,
    pub(super) header_length: u32,
    pub(super) encoding: Encoding,
}

impl Version3 {
    pub(super) fn read<S: ReadAt>(source: &S, version: u32, cluster_size: u32) -> Result<Self> {
        if version == 2 {
            return Ok(Self {
                incompatible: 0,
                compatible: 0,
                autoclear: 0,
                refcount_order: 4,
                header_length: 72,
                encoding: Encoding::Deflate,
            });
        }
        let mut fixed = [0; V3_LENGTH];
        read(source, "the header", 0, &mut fixed)?;
        let header_length = be32(&fixed, 100);
        if header_length < 104 || header_length > cluster_size || !header_length.is_multiple_of(8) {
            return Err(bad(format!(
                "The header says that it has {header_length} bytes; it has a multiple of 8 from \
                 104 to the cluster's {cluster_size}"
            )));
        }
        let incompatible = be64(&fixed, 72);
        let compression = if header_length > 104 {
            let mut byte = [0];
            read(source, "the header", 104, &mut byte)?;
            byte[0]
        } else {
            0
        };
        let flagged = incompatible & COMPRESSION_TYPE != 0;
        let encoding = match (compression, flagged) {
            (0, false) => Encoding::Deflate,
            (1, true) => Encoding::Zstd,
            (0 | 1, _) => {
                return Err(bad(format!(
                    "The header's compression type {compression} and its feature bit for that \
                     contradict each other"
                )));
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::UnknownFeature,
                    format!(
                        "The image is compressed by method {compression}; only zlib (0) and \
                         zstd (1) are known"
                    ),
                ));
            }
        };
        Ok(Self {
            incompatible,
            compatible: be64(&fixed, 80),
            autoclear: be64(&fixed, 88),
            refcount_order: be32(&fixed, 96),
            header_length,
            encoding,
        })
    }
}

/// Refuses features that are known but not supported, and unknown ones, each by name.
pub(super) fn refuse_features(
    fixed: &[u8; V2_LENGTH],
    extra: &Version3,
    extensions: Option<&Extensions>,
) -> Result<()> {
    match be32(fixed, 32) {
        0 => {}
        1 => return Err(encrypted("AES")),
        2 => return Err(encrypted("LUKS")),
        other => {
            return Err(Error::new(
                ErrorKind::Encrypted,
                format!("The image is encrypted by unknown method {other}"),
            ));
        }
    }
    let unknown = extra.incompatible & !KNOWN_INCOMPATIBLE;
    if unknown != 0 {
        let names: Vec<String> = (0..64)
            .filter(|bit| unknown & (1 << bit) != 0)
            .map(|bit| {
                extensions
                    .and_then(|extensions| extensions.incompatible_name(bit))
                    .map_or_else(
                        || format!("bit {bit}"),
                        |name| format!("bit {bit} (\"{name}\")"),
                    )
            })
            .collect();
        return Err(Error::new(
            ErrorKind::UnknownFeature,
            format!(
                "The image needs features that are not supported: incompatible feature {}",
                names.join(", ")
            ),
        ));
    }
    if extra.incompatible & CORRUPT != 0 {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "The image is marked corrupt; repair it with `qemu-img check -r all`",
        ));
    }
    if extra.incompatible & EXTERNAL_DATA != 0 {
        return Err(external_data());
    }
    Ok(())
}

pub(super) fn external_data() -> Error {
    Error::new(
        ErrorKind::ExternalDataFile,
        "The image keeps its data in another file, which is not supported; convert it with \
         `qemu-img convert`",
    )
}

pub(super) fn encrypted(method: &str) -> Error {
    Error::new(
        ErrorKind::Encrypted,
        format!(
            "The image is encrypted ({method}), which is not supported; decrypt it with \
             `qemu-img convert`"
        ),
    )
}

fn bad(context: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadHeader, context)
}
