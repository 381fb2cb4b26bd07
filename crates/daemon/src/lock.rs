//! One daemon for one database, and one for one cache: a locked file beside what it guards.
//!
//! - Taken before anything is read or written, held for life, given back by the kernel whatever
//!   ends the process. The file stays: were it removed, two could hold the lock on two files.
//! - In it is who took it, for the other one's error. What counts is the lock, not what the file says.
//! - Somebody may remove the file. [`Lock::renew`] notices that and locks a new one.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use lvp_image::grace;
use rustix::fs::OFlags;
use rustix::io::Errno;

/// Others have no business with it.
const MODE: u32 = 0o600;

/// How much of a command is written down.
const COMMAND_BYTES: usize = 200;

/// How often a lock file may be removed between its being opened and its being locked.
const ATTEMPTS: u32 = 10;

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process has it.
    #[error(
        "{what} is used by another process, {holder}: stop that one, or give each of the two its own \
         (the lock is {})", path.display()
    )]
    Held {
        /// What is guarded.
        what: String,
        /// The other one.
        holder: String,
        /// The lock's file.
        path: PathBuf,
    },
    /// The lock's file cannot be made or locked.
    #[error("Cannot lock {}", path.display())]
    File {
        /// The lock's file.
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
    /// Takes the lock at `path`, which guards `what`. Blocks for a moment when somebody has it.
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
            // Another one may have been put there since it was opened.
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
            "the file is removed each time it is made",
        )))
    }

    /// The lock's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the lock's file is still the one at its path.
    pub fn is_in_place(&self) -> bool {
        is_at(&self.file, &self.path)
    }

    /// Locks a new file if somebody has removed the old one.
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
        return Err(io::Error::other("it is no regular file"));
    }
    if found.permissions().mode() & 0o7777 != MODE {
        // Whatever the umask made of it.
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    Ok(file)
}

/// Some when it was locked, or the file system has no locks: then nothing can be told there.
fn try_lock(file: &File) -> io::Result<Option<()>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(())),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => match Errno::from_io_error(&error) {
            Some(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                tracing::warn!(
                    component = "storage",
                    %error,
                    "The file system has no locks: nothing keeps a second daemon away"
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

/// Who has the lock, by what it wrote down.
fn holder(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // What cannot be read is not named.
    let limit = 4 * COMMAND_BYTES as u64;
    file.rewind().ok();
    file.take(limit).read_to_end(&mut bytes).ok();
    let text = String::from_utf8_lossy(&bytes);
    match text.trim().split_once(' ') {
        Some((pid, command)) if pid.parse::<u32>().is_ok() => {
            let command: String = command.chars().filter(|c| !c.is_control()).collect();
            format!("process {pid} ({command})")
        }
        _ => "which has left no name".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one_and_the_other_is_told_by_whom() {
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
    fn a_removed_lock_is_taken_anew_and_refused_when_another_was_faster() {
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
    fn what_is_no_file_is_refused() {
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
