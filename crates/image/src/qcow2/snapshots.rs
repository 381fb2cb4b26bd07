//! Internal snapshots: where they stand. Only the active layer is ever read.

use super::bytes::{Cursor, be16, be32, be64};
use super::claims::Claims;
use super::header::{Header, inside};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{MAX_L1_BYTES, MAX_SNAPSHOT_EXTRA_BYTES, MAX_SNAPSHOT_TABLE_BYTES};
use crate::source::ReadAt;

/// The fixed part of a snapshot; extra data, its id and its name follow.
const FIXED_LEN: usize = 40;

/// Walks the snapshot table, and claims it and every snapshot's L1 table.
pub(super) fn check<S: ReadAt>(source: &S, header: &Header, claims: &mut Claims) -> Result<()> {
    if header.snapshot_count == 0 {
        return Ok(());
    }
    let start = header.snapshots_offset;
    inside("The snapshot table", &(start..start + 1), source.len())?;
    let limit = start.saturating_add(MAX_SNAPSHOT_TABLE_BYTES);
    let mut cursor = Cursor::new(source, "The snapshot table", start, limit);
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
            claims.exclusive(l1_table, what)?;
        }
    }
    claims.exclusive(start..cursor.position(), || "The snapshot table".to_owned())
}
