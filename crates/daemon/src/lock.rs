//! One daemon for each database and each cache: a locked file beside what it guards.
//!
//! - The lock is taken before anything is read or written, and held until the process ends, however
//!   it ends; the kernel releases it then. The file is never removed: otherwise two processes could
//!   hold the lock on two files.
//! - The file says which process took the lock, for the error of the other one. Only the lock counts,
//!   not the file's content.
//! - If somebody removes the file, [`Lock::renew`] notices that and locks a new one.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use lvp_image::grace;
use rustix::fs::OFlags;
use rustix::io::Errno;

/// Readable by its owner only.
const MODE: u32 = 0o600;

/// How much of a command line is written to the file.
const COMMAND_BYTES: usize = 200;

/// How many times the lock file may disappear between being opened and being locked.
const ATTEMPTS: u32 = 10;

/// Why a lock could not be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "{what} is used by another process, {holder}: stop that process, or give each its own \
         (the lock is {})", path.display()
    )]
    Held {
        /// What the lock guards.
        what: String,
        /// The process that holds it.
        holder: String,
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file cannot be created or locked.
    #[error("Cannot lock {}", path.display())]
    File {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A lock that is held.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    what: String,
}

impl Lock {
    /// Takes the lock at `path`, which guards `what`. Waits for a moment if it is held.
    pub fn take(path: &Path, what: &str) -> Result<Self, LockError> {
        let failed = |source| LockError::File {
            path: path.to_owned(),
            source,
        };
        for _ in 0..ATTEMPTS {
            let mut file = open(path).map_err(failed)?;
            if grace::take(|| try_lock(&file)).map_err(failed)?.is_none() {
                return Err(LockError::Held {
                    what: what.to_owned(),
                    holder: holder(&mut file),
                    path: path.to_owned(),
                });
            }
            // The file may have been replaced since it was opened.
            if is_at(&file, path) {
                write_holder(&mut file).map_err(failed)?;
                return Ok(Self {
                    file,
                    path: path.to_owned(),
                    what: what.to_owned(),
                });
            }
        }
        Err(failed(io::Error::other(
            "the file disappears each time it is created",
        )))
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the lock file is still the one at its path.
    pub fn is_in_place(&self) -> bool {
        is_at(&self.file, &self.path)
    }

    /// Locks a new file if the old one was removed.
    pub fn renew(&mut self) -> Result<(), LockError> {
        if !self.is_in_place() {
            *self = Self::take(&self.path, &self.what)?;
        }
        Ok(())
    }
}

/// Whether an open file is the one at a path.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if found.permissions().mode() & 0o7777 != MODE {
        // Whatever the umask made of the mode.
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    Ok(file)
}

/// Some if the file was locked, or if the file system has no locks, where nothing can be found out.
fn try_lock(file: &File) -> io::Result<Option<()>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(())),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => match Errno::from_io_error(&error) {
            Some(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                tracing::warn!(
                    component = "storage",
                    %error,
                    "The file system has no locks: nothing prevents a second daemon from using the same files"
                );
                Ok(Some(()))
            }
            _ => Err(error),
        },
    }
}

fn write_holder(file: &mut File) -> io::Result<()> {
    let command: Vec<_> = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let command: String = command.join(" ").chars().take(COMMAND_BYTES).collect();
    let text = format!("{} {}\n", std::process::id(), command.escape_debug());
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())
}

/// Which process has the lock, according to the file's content.
fn holder(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // If the file cannot be read, the process is not named.
    let limit = 4 * COMMAND_BYTES as u64;
    file.rewind().ok();
    file.take(limit).read_to_end(&mut bytes).ok();
    let text = String::from_utf8_lossy(&bytes);
    match text.trim().split_once(' ') {
        Some((pid, command)) if pid.parse::<u32>().is_ok() => {
            let command: String = command.chars().filter(|c| !c.is_control()).collect();
            format!("process {pid} ({command})")
        }
        _ => "whose command is unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_the_error_names_the_holder() {
        let home = tempfile::tempdir().expect("there is room");
        let path = home.path().join("lock");
        let lock = Lock::take(&path, "The database x").expect("nobody has it");
        let refused = Lock::take(&path, "The database x").expect_err("it is held");
        let text = refused.to_string();
        let pid = std::process::id().to_string();
        for told in ["The database x", &pid, "lock"] {
            assert!(text.contains(told), "{told}: {text}");
        }
        drop(lock);
        Lock::take(&path, "The database x").expect("it is free again");
    }

    #[test]
    fn a_removed_lock_file_is_locked_again_unless_another_process_was_faster() {
        let home = tempfile::tempdir().expect("there is room");
        let path = home.path().join("lock");
        let mut lock = Lock::take(&path, "The cache x").expect("nobody has it");
        fs::remove_file(&path).expect("it is removed");
        assert!(!lock.is_in_place());
        lock.renew().expect("nobody has the new one");
        assert!(lock.is_in_place());
        fs::remove_file(&path).expect("it is removed");
        let other = Lock::take(&path, "The cache x").expect("nobody has the new one");
        assert!(matches!(lock.renew(), Err(LockError::Held { .. })));
        drop(other);
        lock.renew().expect("it is free");
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused() {
        let home = tempfile::tempdir().expect("there is room");
        let link = home.path().join("link");
        std::os::unix::fs::symlink(home.path().join("elsewhere"), &link).expect("it is made");
        for path in [home.path(), &link] {
            let refused = Lock::take(path, "x").expect_err("it is no file");
            assert!(matches!(refused, LockError::File { .. }), "{refused}");
        }
        assert!(!home.path().join("elsewhere").exists());
    }
}
