//! The header: every field of it is checked here, before anything else is read.

use std::ops::Range;

use super::backing::BackingName;
use super::bytes::{be32, be64, read};
use super::claims::Claims;
use super::extensions::{Bitmaps, Extensions};
use crate::error::{Error, ErrorKind, Result};
use crate::format::is_qcow2;
use crate::limits::{MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES, MAX_SNAPSHOTS, MAX_VIRTUAL_SIZE};
use crate::plan::extent::{Encoding, SECTOR};
use crate::source::ReadAt;

/// "QFI\xfb", the first four bytes of every qcow and qcow2 image.
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Version 2's header; version 3's first part is the same.
const V2_LENGTH: usize = 72;
/// Version 3's header without additional fields.
const V3_LENGTH: usize = 104;

/// Incompatible feature bits that are understood.
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN_INCOMPATIBLE: u64 = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2;

/// Compatible feature bit 0: refcounts are updated lazily.
const LAZY_REFCOUNTS: u64 = 1 << 0;

/// Autoclear feature bit 0: the bitmaps extension is consistent.
const BITMAPS_CONSISTENT: u64 = 1 << 0;
/// Autoclear feature bit 1: the external data file is a raw image by itself.
const RAW_EXTERNAL_DATA: u64 = 1 << 1;

/// A subcluster is a 32nd of a cluster, and no smaller than a sector.
const MIN_EXTENDED_CLUSTER_BITS: u32 = 14;

/// Sizes that follow from the cluster size and the kind of L2 entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) extended_l2: bool,
}

impl Geometry {
    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub(super) fn is_aligned(&self, offset: u64) -> bool {
        offset.is_multiple_of(self.cluster_size())
    }

    /// Bytes of an L2 entry: 8, or 16 with the subclusters' bitmap.
    pub(super) fn l2_entry_len(&self) -> usize {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Bytes of an L2 table: one cluster.
    pub(super) fn l2_table_len(&self) -> usize {
        1 << self.cluster_bits
    }

    /// Guest bytes that one L2 table maps.
    pub(super) fn l2_coverage(&self) -> u64 {
        (self.l2_table_len() / self.l2_entry_len()) as u64 * self.cluster_size()
    }
}

/// A header whose every field has been checked, but not what it points to.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) geometry: Geometry,
    pub(super) virtual_size: u64,
    pub(super) encoding: Encoding,
    pub(super) dirty: bool,
    pub(super) lazy_refcounts: bool,
    pub(super) l1_offset: u64,
    pub(super) l1_entries: u32,
    pub(super) refcount_order: u32,
    pub(super) refcount_table: Range<u64>,
    pub(super) snapshots_offset: u64,
    pub(super) snapshot_count: u32,
    /// The bitmaps extension, if the image vouches for it.
    pub(super) bitmaps: Option<Bitmaps>,
}

impl Header {
    /// Reads the header and its extensions.
    pub(super) fn read<S: ReadAt>(source: &S) -> Result<Self> {
        let mut fixed = [0; V2_LENGTH];
        read_start(source, &mut fixed)?;
        if fixed[..4] != MAGIC {
            return Err(Error::new(
                ErrorKind::NotThisFormat,
                "The image is declared qcow2, but does not begin with a qcow2 header",
            ));
        }
        let version = be32(&fixed, 4);
        if !is_qcow2(&fixed) {
            return Err(Error::new(
                ErrorKind::NotThisFormat,
                "The image is in QEMU's first qcow format, which is not supported; convert it to \
                 qcow2",
            ));
        }
        if version > 3 {
            return Err(bad(format!(
                "The image is of qcow2 version {version}; only versions 2 and 3 are known"
            )));
        }
        let cluster_bits = be32(&fixed, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(bad(format!(
                "The header says clusters of 2^{cluster_bits} bytes; they have 2^9 to 2^21"
            )));
        }
        let extra = Version3::read(source, version, 1 << cluster_bits)?;
        let backing_name = BackingName::new(&fixed);
        backing_name.refuse(source, 1 << cluster_bits)?;
        let extensions_end = backing_name.extensions_end(1 << cluster_bits);
        let extensions = Extensions::read(source, u64::from(extra.header_length)..extensions_end);
        refuse_features(&fixed, &extra, extensions.as_ref().ok())?;
        let extensions = extensions?;
        let are_bitmaps_consistent = extra.autoclear & BITMAPS_CONSISTENT != 0;
        if extensions.data_file || extra.autoclear & RAW_EXTERNAL_DATA != 0 {
            return Err(external_data());
        }
        if extensions.encryption {
            return Err(encrypted("LUKS"));
        }

        let geometry = Geometry {
            version,
            cluster_bits,
            extended_l2: extra.incompatible & EXTENDED_L2 != 0,
        };
        if geometry.extended_l2 && cluster_bits < MIN_EXTENDED_CLUSTER_BITS {
            return Err(bad(format!(
                "Extended L2 entries need clusters of 2^{MIN_EXTENDED_CLUSTER_BITS} bytes or \
                 more; the header says 2^{cluster_bits}"
            )));
        }
        if extra.refcount_order > 6 {
            return Err(bad(format!(
                "The header says refcounts of 2^{} bits; they have up to 2^6",
                extra.refcount_order
            )));
        }
        let virtual_size = virtual_size(be64(&fixed, 24))?;
        let refcount_table = refcount_table(be64(&fixed, 48), be32(&fixed, 56), &geometry)?;
        let (snapshot_count, snapshots_offset) =
            snapshots(be32(&fixed, 60), be64(&fixed, 64), &geometry)?;
        let l1_entries = be32(&fixed, 36);
        let l1_offset = be64(&fixed, 40);
        check_l1(l1_entries, l1_offset, virtual_size, &geometry)?;
        Ok(Self {
            version,
            geometry,
            virtual_size,
            encoding: extra.encoding,
            dirty: extra.incompatible & DIRTY != 0,
            lazy_refcounts: extra.compatible & LAZY_REFCOUNTS != 0,
            l1_offset,
            l1_entries,
            refcount_order: extra.refcount_order,
            refcount_table,
            snapshots_offset,
            snapshot_count,
            bitmaps: extensions
                .bitmaps
                .filter(|_| are_bitmaps_consistent)
                .map(|fields| Bitmaps::new(&fields))
                .transpose()?,
        })
    }

    /// The L1 table's place; empty when it has no entry.
    pub(super) fn l1_table(&self) -> Range<u64> {
        self.l1_offset..self.l1_offset + u64::from(self.l1_entries) * 8
    }

    /// Claims the tables that the header itself points to; they have to be inside the file.
    pub(super) fn claim_tables(&self, file_size: u64, claims: &mut Claims) -> Result<()> {
        for (what, table) in [
            ("The refcount table", self.refcount_table.clone()),
            ("The L1 table", self.l1_table()),
        ] {
            inside(what, &table, file_size)?;
            if !table.is_empty() {
                claims.exclusive(table, || what.to_owned())?;
            }
        }
        Ok(())
    }
}

/// Checks that a table is inside the file.
pub(super) fn inside(what: &str, table: &Range<u64>, file_size: u64) -> Result<()> {
    if table.is_empty() || table.end <= file_size {
        return Ok(());
    }
    Err(if table.start >= file_size {
        Error::new(
            ErrorKind::OutsideFile,
            format!(
                "{what} is said to stand at {:#x}, outside the image file of {file_size} bytes; \
                 fetch the image again",
                table.start
            ),
        )
    } else {
        Error::new(
            ErrorKind::Truncated,
            format!(
                "{what} reaches to {:#x}, beyond the image file of {file_size} bytes; fetch the \
                 image again",
                table.end
            ),
        )
    })
}

/// What version 3 adds; version 2's defaults for it.
struct Version3 {
    incompatible: u64,
    compatible: u64,
    autoclear: u64,
    refcount_order: u32,
    header_length: u32,
    encoding: Encoding,
}

impl Version3 {
    fn read<S: ReadAt>(source: &S, version: u32, cluster_size: u32) -> Result<Self> {
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
        read_start(source, &mut fixed)?;
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

/// Refuses what is understood but not supported, and what is not understood, each by its name.
fn refuse_features(
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
                "The image needs features that are not known: {}",
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

fn virtual_size(size: u64) -> Result<u64> {
    if size > MAX_VIRTUAL_SIZE {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("The image has a disk of {size} bytes, more than {MAX_VIRTUAL_SIZE}"),
        ));
    }
    // A disk is whole sectors; QEMU drops what is beyond the last whole one.
    Ok(size - size % SECTOR)
}

fn refcount_table(offset: u64, clusters: u32, geometry: &Geometry) -> Result<Range<u64>> {
    let len = u64::from(clusters) * geometry.cluster_size();
    if len == 0 {
        return Err(bad("The header says that there is no refcount table"));
    }
    if len > MAX_REFCOUNT_TABLE_BYTES {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("The refcount table has {len} bytes, more than {MAX_REFCOUNT_TABLE_BYTES}"),
        ));
    }
    table_at("refcount table", offset, len, geometry)
}

fn snapshots(count: u32, offset: u64, geometry: &Geometry) -> Result<(u32, u64)> {
    if count > MAX_SNAPSHOTS {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("The image has {count} snapshots, more than {MAX_SNAPSHOTS}"),
        ));
    }
    // The smallest snapshot takes 40 bytes; how long they really are is seen when they are read.
    let table = table_at("snapshot table", offset, u64::from(count) * 40, geometry)?;
    Ok((count, table.start))
}

fn check_l1(entries: u32, offset: u64, virtual_size: u64, geometry: &Geometry) -> Result<()> {
    let len = u64::from(entries) * 8;
    if len > MAX_L1_BYTES {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("The L1 table has {len} bytes, more than {MAX_L1_BYTES}"),
        ));
    }
    table_at("L1 table", offset, len, geometry)?;
    let needed = virtual_size.div_ceil(geometry.l2_coverage());
    if u64::from(entries) < needed {
        return Err(bad(format!(
            "The L1 table has {entries} entries; a disk of {virtual_size} bytes needs {needed}"
        )));
    }
    Ok(())
}

fn table_at(what: &str, offset: u64, len: u64, geometry: &Geometry) -> Result<Range<u64>> {
    let end = offset.checked_add(len);
    match end {
        Some(end) if geometry.is_aligned(offset) && i64::try_from(end).is_ok() => Ok(offset..end),
        _ => Err(bad(format!(
            "The header puts the {what} at {offset:#x}, where no cluster begins"
        ))),
    }
}

fn read_start<S: ReadAt>(source: &S, buf: &mut [u8]) -> Result<()> {
    read(source, "the header", 0, buf)
}

fn bad(context: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadHeader, context)
}

fn external_data() -> Error {
    Error::new(
        ErrorKind::ExternalDataFile,
        "The image keeps its data in another file, which is not supported; convert it with \
         `qemu-img convert`",
    )
}

fn encrypted(method: &str) -> Error {
    Error::new(
        ErrorKind::Encrypted,
        format!(
            "The image is encrypted ({method}), which is not supported; decrypt it with \
             `qemu-img convert`"
        ),
    )
}
