//! Internal snapshots: only their place is checked. Only the active layer is ever read.
//!
//! Two snapshots of the same state may share an L1 table, with a refcount of two, and it may be the
//! active one. Nothing of a snapshot is read, so that makes no difference here. Tables that overlap
//! in any other way are refused.

use std::collections::BTreeMap;

use super::claims::Claims;
use super::geometry::inside;
use super::header::Header;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::bytes::{Cursor, be16, be32, be64};
use crate::limits::{MAX_L1_BYTES, MAX_SNAPSHOT_EXTRA_BYTES, MAX_SNAPSHOT_TABLE_BYTES};
use crate::source::ReadAt;

/// The fixed part of a snapshot; extra data, its id and its name follow.
const FIXED_LEN: usize = 40;

/// L1 tables by offset, each with the end of the longest one there and a snapshot that has it.
type L1Tables = BTreeMap<u64, (u64, u32)>;

/// Walks the snapshot table, and claims it and every snapshot's L1 table.
pub(super) fn check<S: ReadAt>(source: &S, header: &Header, claims: &mut Claims) -> Result<()> {
    if header.snapshot_count == 0 {
        return Ok(());
    }
    let start = header.snapshots_offset;
    inside("The snapshot table", &(start..start + 1), source.len())?;
    let limit = start.saturating_add(MAX_SNAPSHOT_TABLE_BYTES);
    let mut cursor = Cursor::new(source, "The snapshot table", start, limit);
    let mut l1_tables = L1Tables::new();
    for index in 0..header.snapshot_count {
        // A snapshot begins at a multiple of 8 bytes.
        cursor.skip(cursor.position().next_multiple_of(8) - cursor.position())?;
        let fixed = cursor.take(FIXED_LEN)?;
        let l1_offset = be64(fixed, 0);
        let l1_len = u64::from(be32(fixed, 8)) * 8;
        let names_len = u64::from(be16(fixed, 12)) + u64::from(be16(fixed, 14));
        let extra_len = be32(fixed, 36);
        if extra_len > MAX_SNAPSHOT_EXTRA_BYTES || l1_len > MAX_L1_BYTES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "Snapshot {index} has {extra_len} bytes of extra data and an L1 table of \
                     {l1_len} bytes; at most {MAX_SNAPSHOT_EXTRA_BYTES} and {MAX_L1_BYTES} are \
                     allowed"
                ),
            ));
        }
        cursor.skip(u64::from(extra_len) + names_len)?;

        let what = || format!("The L1 table of snapshot {index}");
        let l1_table = l1_offset..l1_offset.saturating_add(l1_len);
        if !header.geometry.is_aligned(l1_offset) {
            return Err(Error::new(
                ErrorKind::BadTable,
                format!("{} begins at {l1_offset:#x}, inside a cluster", what()),
            ));
        }
        inside(&what(), &l1_table, source.len())?;
        if !l1_table.is_empty() {
            let (end, _) = l1_tables.entry(l1_offset).or_insert((0, index));
            *end = l1_table.end.max(*end);
        }
    }
    claim_l1_tables(l1_tables, header, claims)?;
    claims.exclusive(start..cursor.position(), || "The snapshot table".to_owned())
}

/// Claims each table once, however many snapshots share it.
fn claim_l1_tables(l1_tables: L1Tables, header: &Header, claims: &mut Claims) -> Result<()> {
    let active = header.l1_table();
    for (start, (end, index)) in l1_tables {
        let unclaimed = if start == active.start && !active.is_empty() {
            // The active table's clusters are already claimed.
            active.end.next_multiple_of(header.geometry.cluster_size())..end
        } else {
            start..end
        };
        if !unclaimed.is_empty() {
            claims.exclusive(unclaimed, || format!("The L1 table of snapshot {index}"))?;
        }
    }
    Ok(())
}
