//! Backups of the database and checks of its health, also while a daemon uses it.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::StoreError;
use super::files::MODE;
use super::schema::{BUSY_TIMEOUT, VERSION, opening_failed};

/// The contents of a database that passed the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// The schema's version.
    pub version: i32,
    /// Rows of jobs.
    pub jobs: i64,
    /// Rows of cached images.
    pub images: i64,
}

/// Reads every page and index of a database; returns what it holds, or what is wrong with it. Blocks.
pub fn check(path: &Path) -> Result<Health, StoreError> {
    check_open(path, &open_read_only(path)?)
}

/// Writes a consistent copy of the database to a file that must not exist yet, and makes it durable. The daemon
/// may write meanwhile. Blocks.
///
/// The copy is made under a temporary name beside `to`, so that `to` is complete or absent.
pub fn backup(path: &Path, to: &Path) -> Result<Health, StoreError> {
    let failed = |source| StoreError::Backup {
        path: to.to_owned(),
        source,
    };
    let connection = open_read_only(path)?;
    check_open(path, &connection)?;
    let directory = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // An early check, as the copy may take long; `persist_noclobber` is what prevents overwriting.
    if to.symlink_metadata().is_ok() {
        return Err(failed(std::io::ErrorKind::AlreadyExists.into()));
    }
    let copy = tempfile::Builder::new()
        .prefix(".lvp-backup-")
        .permissions(Permissions::from_mode(MODE))
        .tempfile_in(directory)
        .map_err(failed)?;
    // Independent of the umask.
    copy.as_file()
        .set_permissions(Permissions::from_mode(MODE))
        .map_err(failed)?;
    let target = copy
        .path()
        .to_str()
        .ok_or_else(|| failed(std::io::ErrorKind::InvalidFilename.into()))?;
    connection
        .execute("VACUUM INTO ?1", [target])
        .map_err(|source| opening_failed(path, source))?;
    // A copy that cannot be read is no backup.
    let health = check(copy.path())?;
    copy.as_file().sync_all().map_err(failed)?;
    copy.persist_noclobber(to)
        .map_err(|error| failed(error.error))?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed)?;
    Ok(health)
}

/// Name of a backup in a directory of backups; sorting by name sorts by time.
pub fn backup_name(now: &str) -> String {
    let stamp: String = now.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{PREFIX}{stamp}{SUFFIX}")
}

/// Removes all but the newest `keep` backups of a directory; returns the removed ones. Files with other names
/// are not touched.
pub fn prune(directory: &Path, keep: usize) -> std::io::Result<Vec<PathBuf>> {
    let mut backups = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(is_backup) {
            backups.push(path);
        }
    }
    backups.sort();
    let old = backups.len().saturating_sub(keep);
    backups.truncate(old);
    for path in &backups {
        std::fs::remove_file(path)?;
    }
    Ok(backups)
}

const PREFIX: &str = "jobs-";
const SUFFIX: &str = ".db";

fn is_backup(name: &str) -> bool {
    let stamp = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.strip_suffix(SUFFIX));
    // 20260127T103045123Z
    stamp.is_some_and(|stamp| {
        stamp.len() == 19
            && stamp.bytes().enumerate().all(|(index, byte)| match index {
                8 => byte == b'T',
                18 => byte == b'Z',
                _ => byte.is_ascii_digit(),
            })
    })
}

fn open_read_only(path: &Path) -> Result<Connection, StoreError> {
    let failed = |source| StoreError::Open {
        path: path.to_owned(),
        source,
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    Ok(connection)
}

pub(super) fn check_open(path: &Path, connection: &Connection) -> Result<Health, StoreError> {
    let failed = |source| opening_failed(path, source);
    let finding: String = connection
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(failed)?;
    if finding != "ok" {
        return Err(StoreError::Corrupt {
            path: path.to_owned(),
            finding,
        });
    }
    let version: i32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(failed)?;
    if version > VERSION {
        return Err(StoreError::TooNew {
            path: path.to_owned(),
            found: version,
        });
    }
    let count = |table: &str| {
        connection
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
                row.get(0)
            })
            .map_err(failed)
    };
    Ok(Health {
        version,
        jobs: count("jobs")?,
        images: count("images")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_backups_count_as_backups_and_the_newest_stay() {
        let directory = tempfile::tempdir().expect("there is room");
        let names = [
            "2026-01-27T10:30:45.123Z",
            "2026-01-28T10:30:45.123Z",
            "2026-02-01T00:00:00.000Z",
        ]
        .map(backup_name);
        for name in names.iter().map(String::as_str).chain([
            "jobs.db",
            "jobs-old.db",
            "jobs-20260127T103045123Z.db.gz",
        ]) {
            std::fs::write(directory.path().join(name), "").expect("it is written");
        }
        let gone = prune(directory.path(), 2).expect("it works");
        assert_eq!(gone, [directory.path().join(&names[0])]);
        let left = std::fs::read_dir(directory.path()).expect("it is there");
        assert_eq!(left.count(), 5);
    }
}
