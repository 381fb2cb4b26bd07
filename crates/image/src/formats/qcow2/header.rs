//! The header: every field of it is checked here, before anything else is read.

use std::ops::Range;

use super::backing::BackingName;
use super::claims::Claims;
use super::extensions::{Bitmaps, Extensions};
use super::features::{
    BITMAPS_CONSISTENT, DIRTY, EXTENDED_L2, LAZY_REFCOUNTS, RAW_EXTERNAL_DATA, V2_LENGTH, Version3,
    encrypted, external_data, refuse_features,
};
use super::geometry::{Geometry, inside};
use crate::error::{Error, ErrorKind, Result};
use crate::format::ImageType;
use crate::formats::bytes::{be32, be64, read};
use crate::formats::content::not_this_format;
use crate::limits::{MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES, MAX_SNAPSHOTS, MAX_VIRTUAL_SIZE};
use crate::map::extent::{Encoding, SECTOR};
use crate::source::ReadAt;

/// "QFI\xfb", the first four bytes of every qcow and qcow2 image.
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// A subcluster is a 32nd of a cluster, and no smaller than a sector.
const MIN_EXTENDED_CLUSTER_BITS: u32 = 14;

/// A header whose every field has been checked, but not what the fields point to.
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
    /// The bitmaps extension, if its feature bit says that it is valid.
    pub(super) bitmaps: Option<Bitmaps>,
}

impl Header {
    /// Reads the header and its extensions.
    pub(super) fn read<S: ReadAt>(source: &S) -> Result<Self> {
        let mut fixed = [0; V2_LENGTH];
        read(source, "the header", 0, &mut fixed)?;
        if fixed[..4] != MAGIC {
            return Err(not_this_format(ImageType::Qcow2, source));
        }
        let version = be32(&fixed, 4);
        if version < 2 {
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
                "The header says clusters of 2^{cluster_bits} bytes; qcow2 has clusters of 2^9 to 2^21"
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

    /// The range of the L1 table; empty if it has no entry.
    pub(super) fn l1_table(&self) -> Range<u64> {
        self.l1_offset..self.l1_offset + u64::from(self.l1_entries) * 8
    }

    /// Claims the tables that the header itself points to. They have to be inside the file.
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

fn virtual_size(size: u64) -> Result<u64> {
    if size > MAX_VIRTUAL_SIZE {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "The image has a disk of {size} bytes, and at most {MAX_VIRTUAL_SIZE} are supported"
            ),
        ));
    }
    // A disk consists of whole sectors; QEMU drops what is after the last whole one.
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
            format!(
                "The refcount table has {len} bytes, and at most {MAX_REFCOUNT_TABLE_BYTES} are supported"
            ),
        ));
    }
    table_at("refcount table", offset, len, geometry)
}

fn snapshots(count: u32, offset: u64, geometry: &Geometry) -> Result<(u32, u64)> {
    if count > MAX_SNAPSHOTS {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("The image has {count} snapshots, and at most {MAX_SNAPSHOTS} are supported"),
        ));
    }
    // The smallest snapshot takes 40 bytes; their actual length is checked when they are read.
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

fn bad(context: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadHeader, context)
}
