//! The database's files: used by one daemon only, readable by its user only, and still the ones that were
//! opened.
//!
//! Two locks are held for the life of the process. One is a file beside the database (`jobs.db.lock`), which is
//! found by any path to the directory, even when the database itself was replaced. The other is on the
//! database's own file, far beyond the bytes that SQLite locks: it is seen by a daemon that has the same file
//! in another directory (a hard link, a bind mount of the file), or when the lock file was removed.
//!
//! Closing any descriptor of the database's file drops all of this process's locks on it, SQLite's
//! included (fcntl(2)). So this one is opened before SQLite's and closed after them, and nothing else opens
//! that file.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lvp_image::grace;

use super::StoreError;
use crate::files::with_ending;
use crate::lock::{Lock, LockError};

/// Nobody but the daemon's user reads the database or a backup.
pub(super) const MODE: u32 = 0o600;

/// The locked bytes of the database's own file: no database is this long, and SQLite's locks end at 1 GiB and
/// 512 bytes (`PENDING_BYTE`).
const LOCKED_BYTES: Range<u64> = (1 << 62)..(1 << 62) + 1;

/// The opened files, and the locks on them.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    /// Held open for its lock, and so that its inode number is not reused.
    _database: File,
    lock: Mutex<Lock>,
    /// Device and inode of the files, once all of them existed.
    opened: Mutex<Vec<(PathBuf, (u64, u64))>>,
}

/// Why the files at the database's path are not those that are open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lost {
    Removed(PathBuf),
    Replaced(PathBuf),
}

impl Files {
    /// Creates the database's file if it is absent, restricts the files to their owner, and locks the database.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let opened = |source| StoreError::Files {
            path: path.to_owned(),
            source,
        };
        let database = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(MODE)
            .open(path)
            .map_err(opened)?;
        // By the file itself, wherever links lead: SQLite keeps its other files beside that one.
        let path = path.canonicalize().map_err(opened)?;
        for file in all(&path) {
            tighten(&file).map_err(|source| StoreError::Files {
                path: file.clone(),
                source,
            })?;
        }
        let what = format!("The database {}", path.display());
        let lock = Lock::take(&with_ending(&path, ".lock"), &what)?;
        // On a file system without such locks, SQLite fails too, and reports it.
        if let Ok(false) = grace::lock_range(&database, &LOCKED_BYTES) {
            return Err(StoreError::Locked(LockError::Held {
                what,
                holder: "which uses it under another path".to_owned(),
                path,
            }));
        }
        Ok(Self {
            path,
            _database: database,
            lock: Mutex::new(lock),
            opened: Mutex::default(),
        })
    }

    /// The path of the database's file, with links resolved.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Remembers the files that exist now; SQLite has created all of them by its first transaction.
    pub(super) fn remember(&self) -> io::Result<()> {
        let found = all(&self.path).into_iter().map(|path| {
            let found = fs::metadata(&path)?;
            Ok((path, (found.dev(), found.ino())))
        });
        let found = found.collect::<io::Result<_>>()?;
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(())
    }

    /// Whether what is written goes to the files that the next start will read.
    pub(super) fn check(&self) -> Result<(), Lost> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, number) in opened.iter() {
            match fs::metadata(path) {
                Ok(found) if (found.dev(), found.ino()) == *number => {}
                Ok(_) => return Err(Lost::Replaced(path.clone())),
                Err(_) => return Err(Lost::Removed(path.clone())),
            }
        }
        Ok(())
    }

    /// Takes the lock again if somebody has removed its file.
    pub(super) fn renew_lock(&self) -> Result<(), LockError> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        lock.renew()
    }
}

/// The database, and the files that SQLite keeps beside it.
fn all(path: &Path) -> Vec<PathBuf> {
    let endings = ["", "-wal", "-shm"];
    endings.map(|ending| with_ending(path, ending)).to_vec()
}

/// Restricts a file to its owner, whatever mode the umask or an older release gave it.
fn tighten(path: &Path) -> io::Result<()> {
    let mode = match fs::metadata(path) {
        Ok(found) => found.permissions().mode() & 0o7777,
        // SQLite gives a new one the mode of the database.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if mode == MODE {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    if mode & 0o077 != 0 {
        tracing::warn!(
            component = "storage", path = %path.display(), was = format!("{mode:o}"),
            "The database's file could be read or written by other users: its mode was set to 0600"
        );
    }
    Ok(())
}
