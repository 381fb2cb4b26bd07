//! Persistent dirty bitmaps: where they are, by the rules under which QEMU loads them.
//!
//! Their tables and clusters have refcounts like any others, so two bitmaps may share some.

use super::claims::Claims;
use super::extensions::Bitmaps;
use super::geometry::inside;
use super::header::Header;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::bytes::{Cursor, be16, be32, be64};
use crate::limits::MAX_BITMAP_TABLE_BYTES;
use crate::source::ReadAt;

/// The fixed part of a directory entry; the bitmap's name follows.
const FIXED_LEN: usize = 24;
/// The bitmap was being written: its data is invalid.
const IN_USE: u32 = 1 << 0;
/// Only bits 0 (in use) and 1 (enabled) of the flags are defined.
const RESERVED_FLAGS: u32 = !3;
const DIRTY_TRACKING: u8 = 1;
const MAX_NAME_LEN: u16 = 1023;
/// Most bytes that one bitmap may take (`BME_MAX_PHYS_SIZE`).
const MAX_BITMAP_BYTES: u64 = 0x2000_0000;

/// Reserved bits of a bitmap table's entry: 1-8 and 56-63.
const TABLE_RESERVED: u64 = 0xff00_0000_0000_01fe;
const TABLE_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Without an offset: all bits of this cluster are ones.
const TABLE_ALL_ONES: u64 = 1;

/// Walks the bitmap directory, and claims it, every bitmap table and every bitmap.
pub(super) fn check<S: ReadAt>(source: &S, header: &Header, claims: &mut Claims) -> Result<()> {
    let Some(Bitmaps { count, directory }) = &header.bitmaps else {
        return Ok(());
    };
    if !header.geometry.is_aligned(directory.start) {
        return Err(bad(format!(
            "The bitmap directory begins at {:#x}, inside a cluster",
            directory.start
        )));
    }
    inside("The bitmap directory", directory, source.len())?;
    claims.exclusive(directory.clone(), || "The bitmap directory".to_owned())?;

    let mut table_bytes = 0;
    let mut cursor = Cursor::new(
        source,
        "The bitmap directory",
        directory.start,
        directory.end,
    );
    for index in 0..*count {
        let fixed = cursor.take(FIXED_LEN)?;
        let entry = DirectoryEntry {
            index,
            table_offset: be64(fixed, 0),
            table_entries: be32(fixed, 8),
            flags: be32(fixed, 12),
            kind: fixed[16],
            granularity_bits: fixed[17],
            name_len: be16(fixed, 18),
            extra_len: be32(fixed, 20),
        };
        entry.check(header)?;
        let entry_len = (FIXED_LEN as u64 + u64::from(entry.name_len)).next_multiple_of(8);
        cursor.skip(entry_len - FIXED_LEN as u64)?;
        let table = entry.table();
        table_bytes += table.end - table.start;
        if table_bytes > MAX_BITMAP_TABLE_BYTES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("The bitmap tables have more than {MAX_BITMAP_TABLE_BYTES} bytes"),
            ));
        }
        inside(&entry.table_name(), &table, source.len())?;
        claims.bitmap(table, || entry.table_name())?;
        if entry.flags & IN_USE == 0 {
            entry.claim_data(source, header, claims)?;
        }
    }
    if cursor.position() != directory.end {
        return Err(bad(format!(
            "The bitmap directory continues after its {count} bitmaps"
        )));
    }
    Ok(())
}

struct DirectoryEntry {
    index: u32,
    table_offset: u64,
    table_entries: u32,
    flags: u32,
    kind: u8,
    granularity_bits: u8,
    name_len: u16,
    extra_len: u32,
}

impl DirectoryEntry {
    fn check(&self, header: &Header) -> Result<()> {
        let geometry = &header.geometry;
        let bytes = u64::from(self.table_entries) * geometry.cluster_size();
        if self.table_entries == 0
            || self.table_offset == 0
            || !geometry.is_aligned(self.table_offset)
            || !(9..=31).contains(&self.granularity_bits)
            || self.flags & RESERVED_FLAGS != 0
            || self.name_len > MAX_NAME_LEN
            || self.kind != DIRTY_TRACKING
            || self.extra_len != 0
            || bytes > MAX_BITMAP_BYTES
        {
            return Err(bad(format!(
                "Entry {} of the bitmap directory is invalid",
                self.index
            )));
        }
        let bits = header.virtual_size.div_ceil(1 << self.granularity_bits);
        // QEMU keeps bitmaps in 64-bit words.
        let needed = (bits.div_ceil(64) * 8).div_ceil(geometry.cluster_size());
        if self.flags & IN_USE == 0 && u64::from(self.table_entries) != needed {
            return Err(bad(format!(
                "Bitmap {} has {} clusters; for this disk it needs {needed}",
                self.index, self.table_entries
            )));
        }
        Ok(())
    }

    fn table(&self) -> std::ops::Range<u64> {
        let len = u64::from(self.table_entries) * 8;
        self.table_offset..self.table_offset.saturating_add(len)
    }

    fn table_name(&self) -> String {
        format!("The table of bitmap {}", self.index)
    }

    fn claim_data<S: ReadAt>(
        &self,
        source: &S,
        header: &Header,
        claims: &mut Claims,
    ) -> Result<()> {
        let cluster_size = header.geometry.cluster_size();
        let table = self.table();
        let what = || format!("A cluster of bitmap {}", self.index);
        let mut cursor = Cursor::new(source, "A bitmap table", table.start, table.end);
        for _ in 0..self.table_entries {
            let entry = be64(cursor.take(8)?, 0);
            let offset = entry & TABLE_OFFSET;
            if entry & TABLE_RESERVED != 0
                || !header.geometry.is_aligned(offset)
                || (offset != 0 && entry & TABLE_ALL_ONES != 0)
            {
                return Err(bad(format!(
                    "{} has the invalid entry {entry:#x}",
                    self.table_name()
                )));
            }
            if offset != 0 {
                let data = offset..offset + cluster_size;
                inside(&what(), &data, source.len())?;
                claims.bitmap(data, what)?;
            }
        }
        Ok(())
    }
}

fn bad(context: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadTable, context)
}
