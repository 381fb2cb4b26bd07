//! Databases that no daemon has open: a restored one before its first start, and that of the Go program of the
//! same name.

use std::path::Path;

use lvp_api::VolumeName;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::StoreError;
use super::backup::check_open;
use super::schema::opening_failed;

/// Ends all unfinished jobs as cancelled; returns how many. No other process may have the database
/// open. Blocks.
pub fn cancel_unfinished(path: &Path, now: &str) -> Result<usize, StoreError> {
    let failed = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
            StoreError::InUse {
                path: path.to_owned(),
            }
        }
        _ => opening_failed(path, source),
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    // Every connection to a database with a write-ahead log holds a shared lock on the file for as
    // long as it is open; this takes an exclusive one.
    connection
        .pragma_update(None, "locking_mode", "EXCLUSIVE")
        .map_err(failed)?;
    connection
        .transaction_with_behavior(TransactionBehavior::Exclusive)
        .and_then(rusqlite::Transaction::rollback)
        .map_err(failed)?;
    check_open(path, &connection)?;
    let ended = connection.execute(
        "UPDATE jobs SET state = 'cancelled', updated_at = ?1, finished_at = ?1, \
         image_url_sealed = iif(image_url_sealed IS NULL, NULL, x'') \
         WHERE state IN ('pending', 'running')",
        [now],
    );
    ended.map_err(failed)
}

/// The volumes that completed jobs of the Go program's database have written, by name. Names that LVM
/// cannot have are left out. Blocks.
pub fn volumes_of_go_program(path: &Path) -> Result<Vec<VolumeName>, StoreError> {
    let failed = |source| opening_failed(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    let names: Vec<String> = connection
        .prepare(
            "SELECT DISTINCT json_extract(request_json, '$.volume_name') FROM jobs \
             WHERE status = 'completed' \
             AND json_type(request_json, '$.volume_name') = 'text' ORDER BY 1",
        )
        .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
        .map_err(failed)?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}
