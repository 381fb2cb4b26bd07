//! The cache's directory, found again before every use.
//!
//! A directory that is gone, was replaced, or whose file system is no longer mounted is told apart
//! from an empty cache ([`Home`]). Everything is done relative to a handle of the
//! directory that was just found to be the right one: no file is made on another file system, and no
//! link is followed out of it.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, open, openat, renameat, unlinkat};

use super::CacheError;
use super::home::Home;

/// A file that has no name for longer than a moment; swept like any partial file, if that was cut short.
const SCRATCH: &str = ".lvp-unpacked.partial";

/// Rights of the files: others have nothing to look for in them.
const FILE_MODE: u32 = 0o640;

/// A directory, by what it is and not by its name alone.
#[derive(Debug)]
pub(super) struct Directory(Home);

/// The directory, as long as it is needed.
#[derive(Debug)]
pub(super) struct Handle {
    path: PathBuf,
    fd: OwnedFd,
}

impl Directory {
    /// Makes the directory if it is absent, and takes it for this process alone.
    pub(super) fn open(path: &Path) -> Result<Self, CacheError> {
        Home::open(path.to_owned()).map(Self)
    }

    pub(super) fn path(&self) -> &Path {
        self.0.dir()
    }

    /// Whether the directory is there, is the cache, and can be written to. Blocks.
    pub(super) fn check(&self) -> Result<(), CacheError> {
        self.0.check()
    }

    /// The directory itself, if it is the cache.
    pub(super) fn handle(&self) -> Result<Handle, CacheError> {
        let path = self.path();
        let failed = |error| CacheError::file("open the cache directory", path, error);
        let number = self.0.find()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| failed(error.into()))?;
        if (stat.st_dev, stat.st_ino) != number {
            return Err(CacheError::Lost {
                dir: path.to_owned(),
                why: "was replaced at this moment",
            });
        }
        Ok(Handle {
            path: path.to_owned(),
            fd,
        })
    }
}

impl Handle {
    /// Names of everything in the directory.
    pub(super) fn names(&self) -> Result<Vec<String>, CacheError> {
        let failed = |error: rustix::io::Errno| {
            CacheError::file("list the cache directory", &self.path, error.into())
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            // Our own names are text; others are none of our business.
            match entry.map_err(failed)?.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        Ok(names)
    }

    /// Length of a regular file; 0 for anything else and when there is none.
    pub(super) fn length(&self, name: &str) -> u64 {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .ok()
            .filter(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file())
            .map_or(0, |stat| stat.st_size.cast_unsigned())
    }

    /// Opens a published image to read it. Whose file it is does not matter, and not how many names it
    /// has: it is hashed again when that changes.
    pub(super) fn image(&self, name: &str) -> io::Result<File> {
        // Not to wait for the other end of a FIFO.
        let file = self.open(name, OFlags::RDONLY | OFlags::NONBLOCK)?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(rustix::io::Errno::LOOP.into()),
        }
    }

    /// Opens a partial file to go on with it.
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

    /// Makes an empty partial file. What had its name before loses it, and is not written to.
    pub(super) fn new_partial(&self, name: &str) -> Result<File, CacheError> {
        self.remove(name)?;
        self.open(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
            .map_err(|error| self.failed("make the partial image", name, error))
    }

    /// A file without a name, for what is not needed any more when it is closed.
    pub(super) fn unnamed(&self) -> Result<File, CacheError> {
        match self.open(".", OFlags::RDWR | OFlags::TMPFILE) {
            Ok(file) => Ok(file),
            // The file system has none: it loses its name at once.
            Err(_) => {
                let file = self.new_partial(SCRATCH)?;
                self.remove(SCRATCH)?;
                Ok(file)
            }
        }
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
            // Its directory was replaced under it, or somebody removed it: it has to be fetched again.
            rustix::io::Errno::NOENT => CacheError::Lost {
                dir: self.path.clone(),
                why: "has lost the file of a download",
            },
            error => self.failed("publish the image as", to, error.into()),
        })?;
        rustix::fs::fsync(&self.fd)
            .map_err(|error| CacheError::file("sync the cache directory", &self.path, error.into()))
    }

    /// Free bytes in the file system.
    pub(super) fn free_bytes(&self) -> Result<u64, CacheError> {
        let stat = rustix::fs::fstatvfs(self.fd.as_fd()).map_err(|error| {
            CacheError::file("look at the file system of", &self.path, error.into())
        })?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn open(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::from_raw_mode(FILE_MODE))?;
        Ok(File::from(fd))
    }

    fn failed(&self, action: &'static str, name: &str, source: io::Error) -> CacheError {
        CacheError::file(action, &self.path.join(name), source)
    }
}

/// What is wrong with a file that should be ours.
fn strange(meta: &Metadata) -> Option<&'static str> {
    if !meta.is_file() {
        Some("it is not a regular file")
    } else if meta.uid() != rustix::process::geteuid().as_raw() {
        Some("it belongs to another user")
    } else if meta.nlink() > 1 {
        Some("it has another name too")
    } else {
        None
    }
}
