//! The database's schema: its version, the steps from older versions, and the check of the file.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::{StoreError, literal};

/// The schema's version, kept in the file's `user_version`.
pub(super) const VERSION: i32 = 14;

/// The steps that bring a database from one version to the next.
const STEPS: [(i32, &str); 14] = [
    (1, include_str!("schema.sql")),
    (2, include_str!("schema-2.sql")),
    (3, include_str!("schema-3.sql")),
    (4, include_str!("schema-4.sql")),
    (5, include_str!("schema-5.sql")),
    (6, include_str!("schema-6.sql")),
    // Not by SQL alone: see `literal`.
    (7, ""),
    (8, include_str!("schema-8.sql")),
    (9, include_str!("schema-9.sql")),
    (10, include_str!("schema-10.sql")),
    (11, include_str!("schema-11.sql")),
    (12, include_str!("schema-12.sql")),
    (13, include_str!("schema-13.sql")),
    (14, include_str!("schema-14.sql")),
];

/// How long a statement waits for another process that holds the database, such as a backup.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Marks the file as this program's (`file(1)` shows it); "LVPv" in ASCII.
pub(super) const APPLICATION_ID: i32 = 0x4c56_5076;

pub(super) fn stamp(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "application_id", APPLICATION_ID)
}

/// The error for a failure while opening: a damaged file, or one that cannot be opened.
pub(super) fn opening_failed(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            StoreError::Corrupt {
                path,
                finding: source.to_string(),
            }
        }
        _ => StoreError::Open { path, source },
    }
}

/// Sets a connection up, checks the file, and brings its schema up to date.
pub(super) fn prepare(path: &Path, connection: &mut Connection) -> Result<(), StoreError> {
    let damaged = |finding: String| StoreError::Corrupt {
        path: path.to_owned(),
        finding,
    };
    let failed = |source| opening_failed(path, source);
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .map_err(failed)?;
    connection
        .pragma_update(None, "synchronous", "FULL")
        .map_err(failed)?;
    connection
        .pragma_update(None, "foreign_keys", "ON")
        .map_err(failed)?;
    let finding: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(failed)?;
    if finding != "ok" {
        return Err(damaged(finding));
    }
    let found: i32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(failed)?;
    if found > VERSION {
        return Err(StoreError::TooNew {
            path: path.to_owned(),
            found,
        });
    }
    for (version, step) in STEPS.into_iter().filter(|(version, _)| found < *version) {
        let transaction = connection.transaction().map_err(failed)?;
        transaction.execute_batch(step).map_err(failed)?;
        if version == 7 {
            literal::rewrite(&transaction).map_err(failed)?;
        }
        transaction
            .pragma_update(None, "user_version", version)
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}
