//! The cache's directory: used by one daemon only, and still the one that was opened.
//!
//! A file system that is unmounted leaves an empty directory at the same path, and what is written there fills
//! another disk. So the directory is identified by its device and inode. Another directory is accepted as the
//! cache if it is on the same file system (somebody emptied the cache by removing its directory) or contains
//! the cache's lock file (the file system was mounted again); any other is not written to.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Access, Mode, OFlags};

use super::{CacheError, PARTIAL_PREFIX};
use crate::lock::Lock;
use crate::stamp::Times;

/// The lock file; hidden, so that libvirt's pool does not list it.
fn lock_path(dir: &Path) -> PathBuf {
    dir.join(format!("{PARTIAL_PREFIX}lock"))
}

#[derive(Debug)]
pub(super) struct Home {
    dir: PathBuf,
    now: Mutex<Now>,
}

/// The directory that is in use now.
#[derive(Debug)]
struct Now {
    device: u64,
    inode: u64,
    lock: Lock,
    times: Times,
}

impl Now {
    fn take(dir: &Path) -> Result<Self, CacheError> {
        let found = fs::metadata(dir)
            .map_err(|error| CacheError::file("inspect the cache directory", dir, error))?;
        let shown = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let what = format!("The cache {}", shown.display());
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
            lock: Lock::take(&lock_path(dir), &what)?,
            times: times(dir),
        })
    }
}

/// How changes of files in this directory are told apart.
fn times(dir: &Path) -> Times {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    // Where files without a name are not supported, nothing is certain.
    match rustix::fs::open(dir, flags, Mode::from_raw_mode(0o600)) {
        Ok(unnamed) => Times::found_with(&File::from(unnamed)),
        Err(_) => Times::Coarse,
    }
}

impl Home {
    /// Creates the directory if it is absent, and locks it.
    pub(super) fn open(dir: PathBuf) -> Result<Self, CacheError> {
        fs::create_dir_all(&dir)
            .map_err(|error| CacheError::file("create the cache directory", &dir, error))?;
        let now = Mutex::new(Now::take(&dir)?);
        Ok(Self { dir, now })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// How changes of its files are told apart.
    pub(super) fn times(&self) -> Times {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.times
    }

    /// Fails unless the directory exists, is the cache, and can be written to. Blocks.
    pub(super) fn check(&self) -> Result<(), CacheError> {
        self.find()?;
        rustix::fs::access(&self.dir, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| CacheError::file("write to", &self.dir, error.into()))?;
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(now.lock.renew()?)
    }

    /// The device and inode of the directory, if it is the cache.
    pub(super) fn find(&self) -> Result<(u64, u64), CacheError> {
        let lost = |why| CacheError::Lost {
            dir: self.dir.clone(),
            why,
        };
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match fs::metadata(&self.dir) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(lost("is missing"));
            }
            Err(error) => {
                return Err(CacheError::file(
                    "inspect the cache directory",
                    &self.dir,
                    error,
                ));
            }
        };
        if (found.dev(), found.ino()) != (now.device, now.inode) {
            let is_cache = found.dev() == now.device || lock_path(&self.dir).exists();
            if !found.is_dir() || !is_cache {
                return Err(lost(
                    "is not the one from the daemon's start; check whether its file system is \
                     mounted",
                ));
            }
            *now = Now::take(&self.dir)?;
            tracing::warn!(
                component = "cache", dir = %self.dir.display(),
                "The cache directory was replaced; what is missing in it is fetched again"
            );
        }
        Ok((now.device, now.inode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_gone_is_lost_until_it_is_back() {
        let home = tempfile::tempdir().expect("there is room");
        let dir = home.path().join("cache");
        let cache = Home::open(dir.clone()).expect("it is made");
        cache.check().expect("it is there");
        let away = home.path().join("away");
        fs::rename(&dir, &away).expect("it is moved");
        let lost = cache.check().expect_err("it is gone");
        assert!(lost.to_string().contains("is missing"), "{lost}");
        assert!(!dir.exists(), "a look makes nothing");
        fs::rename(&away, &dir).expect("it is moved");
        cache.check().expect("it is there");
        // Emptied by somebody's own hand, on the same file system.
        fs::remove_dir_all(&dir).expect("it is removed");
        fs::create_dir(&dir).expect("it is made");
        cache.check().expect("it will do");
        assert!(lock_path(&dir).exists(), "the new one is locked too");
        fs::remove_file(lock_path(&dir)).expect("it is removed");
        cache.check().expect("it is there");
        assert!(lock_path(&dir).exists(), "it is locked again");
    }
}
