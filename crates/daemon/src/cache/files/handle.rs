//! The cache's open directory: everything is done relative to it, and no link is followed.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat};

use super::{FILE_MODE, STAT_BLOCK_BYTES};
use crate::cache::CacheError;

/// The open directory.
pub(super) struct Handle {
    pub(super) path: PathBuf,
    pub(super) fd: OwnedFd,
}

impl Handle {
    /// Names of everything in the directory.
    pub(super) fn names(&self) -> Result<Vec<String>, CacheError> {
        let failed = |error: rustix::io::Errno| {
            CacheError::file("list the cache directory", &self.path, error.into())
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            // The cache's own names are UTF-8; other files are ignored.
            match entry.map_err(failed)?.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        Ok(names)
    }

    /// Length of a regular file; 0 for anything else, and if there is none.
    pub(super) fn length(&self, name: &str) -> u64 {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .ok()
            .filter(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file())
            .map_or(0, |stat| stat.st_size.cast_unsigned())
    }

    /// The space that a regular file takes; 0 for anything else, and if there is none.
    pub(super) fn used(&self, name: &str) -> u64 {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .ok()
            .filter(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file())
            .map_or(0, |stat| {
                stat.st_blocks
                    .cast_unsigned()
                    .saturating_mul(STAT_BLOCK_BYTES)
            })
    }

    /// Opens a published image to read it. Its owner and number of links do not matter: the image is hashed
    /// again when they change.
    pub(super) fn image(&self, name: &str) -> io::Result<File> {
        // O_NONBLOCK, so as not to wait for the other end of a FIFO.
        let file = self.open(name, OFlags::RDONLY | OFlags::NONBLOCK)?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(rustix::io::Errno::LOOP.into()),
        }
    }

    /// Opens a partial file to continue it.
    pub(super) fn partial(&self, name: &str) -> Result<File, CacheError> {
        let failed = |error| self.failed("open the partial image", name, error);
        let file = self
            .open(name, OFlags::RDWR | OFlags::NONBLOCK)
            .map_err(failed)?;
        match strange(&file.metadata().map_err(failed)?) {
            None => Ok(file),
            Some(what) => Err(failed(io::Error::new(io::ErrorKind::InvalidInput, what))),
        }
    }

    /// Creates an empty partial file. A file that had its name is unlinked, and not written to.
    pub(super) fn new_partial(&self, name: &str) -> Result<File, CacheError> {
        self.remove(name)?;
        self.open(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
            .map_err(|error| self.failed("create the partial image", name, error))
    }

    /// Removes a file, a link itself and not what it leads to; it may be gone already.
    pub(super) fn remove(&self, name: &str) -> Result<(), CacheError> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failed("remove", name, error.into())),
        }
    }

    /// Gives a file its final name, durably.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), CacheError> {
        renameat(&self.fd, from, &self.fd, to).map_err(|error| match error {
            // The directory was replaced, or somebody removed the file: it has to be fetched again.
            rustix::io::Errno::NOENT => CacheError::Lost {
                dir: self.path.clone(),
                why: "no longer has the file of a running download",
            },
            error => self.failed("publish the image as", to, error.into()),
        })?;
        rustix::fs::fsync(&self.fd)
            .map_err(|error| CacheError::file("sync the cache directory", &self.path, error.into()))
    }

    /// Free bytes in the file system.
    pub(super) fn free_bytes(&self) -> Result<u64, CacheError> {
        let stat = rustix::fs::fstatvfs(self.fd.as_fd()).map_err(|error| {
            CacheError::file("inspect the file system of", &self.path, error.into())
        })?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    pub(super) fn open(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::from_raw_mode(FILE_MODE))?;
        Ok(File::from(fd))
    }

    pub(super) fn failed(&self, action: &'static str, name: &str, source: io::Error) -> CacheError {
        CacheError::file(action, &self.path.join(name), source)
    }
}

/// What is wrong with a file that should belong to the cache.
fn strange(meta: &Metadata) -> Option<&'static str> {
    if !meta.is_file() {
        Some("it is not a regular file")
    } else if meta.uid() != rustix::process::geteuid().as_raw() {
        Some("it belongs to another user")
    } else if meta.nlink() > 1 {
        Some("it has another hard link")
    } else {
        None
    }
}
