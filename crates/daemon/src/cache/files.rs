//! The cache's files. Everything here blocks, and is called only through [`Disk::run`], on a thread that may
//! block.
//!
//! The directory is checked before every use. One that is missing, was replaced, or whose file system is no
//! longer mounted is distinguished from an empty cache ([`Home`]). Everything is done relative to a handle of
//! the directory that was just checked: no file is created on another file system, and no link is followed out
//! of the directory.

mod handle;

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use lvp_api::Sha256Digest;
use rustix::fs::{Mode, OFlags, open};

use super::home::Home;
use super::verify::hash_again;
use super::{CacheError, file_name};
use crate::stamp::FileStamp;
use crate::threads::blocking;
use handle::Handle;

/// Mode of the files: not readable by other users.
const FILE_MODE: u32 = 0o640;

/// The unit of `st_blocks`, whatever the file system's is (stat(2)).
const STAT_BLOCK_BYTES: u64 = 512;

/// Name of a file that is unlinked as soon as it is created; swept like any partial file, if a crash comes in
/// between.
const SCRATCH: &str = ".lvp-unpacked.partial";

/// The cache's files, for async code.
#[derive(Debug, Clone)]
pub(super) struct Disk(Arc<Files>);

/// The cache's files, for threads that may block.
#[derive(Debug)]
pub(super) struct Files(Home);

/// What was found under a published image's name.
#[derive(Debug)]
pub(super) enum Found {
    /// The image, unchanged.
    Unchanged(File),
    /// A file that was changed, and what it is now.
    Changed {
        file: File,
        digest: Sha256Digest,
        stamp: FileStamp,
    },
    /// Nothing.
    Gone,
    /// A link, or something else that is not a regular file.
    Strange,
}

impl Disk {
    /// Creates the directory if it is absent, and locks it for this process. Blocks; called before serving.
    pub(super) fn open(dir: &Path) -> Result<Self, CacheError> {
        let home = Home::open(dir.to_owned())?;
        Ok(Self(Arc::new(Files(home))))
    }

    /// The cache's directory.
    pub(super) fn dir(&self) -> &Path {
        self.0.dir()
    }

    /// Runs `work` to its end, whether or not the caller still waits.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, CacheError> + Send + 'static,
    ) -> Result<T, CacheError> {
        let files = Arc::clone(&self.0);
        let done = blocking(move || work(&files)).await;
        done.unwrap_or_else(|crashed| {
            let error = io::Error::other(crashed);
            Err(CacheError::file(
                "work in the cache directory",
                self.dir(),
                error,
            ))
        })
    }
}

impl Files {
    fn dir(&self) -> &Path {
        self.0.dir()
    }

    /// Fails unless the directory exists, is the cache, and can be written to.
    pub(super) fn check(&self) -> Result<(), CacheError> {
        self.0.check()
    }

    /// Fails unless the directory is the cache, so that a lost cache does not look empty.
    pub(super) fn find(&self) -> Result<(), CacheError> {
        self.handle().map(drop)
    }

    /// Names of everything in the directory.
    pub(super) fn names(&self) -> Result<Vec<String>, CacheError> {
        self.handle()?.names()
    }

    /// Names of the files whose names are `wanted`, and the space that they take.
    pub(super) fn sizes(
        &self,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<(String, u64)>, CacheError> {
        let handle = self.handle()?;
        let mut names = handle.names()?;
        names.retain(|name| wanted(name));
        let sizes = names.into_iter().map(|name| {
            let used = handle.used(&name);
            (name, used)
        });
        Ok(sizes.collect())
    }

    /// Removes the files whose names are `wanted`.
    pub(super) fn remove_all(&self, wanted: impl Fn(&str) -> bool) -> Result<(), CacheError> {
        let handle = self.handle()?;
        let mut names = handle.names()?;
        names.retain(|name| wanted(name));
        names.iter().try_for_each(|name| handle.remove(name))
    }

    /// Opens a file for reading, with its stamp; None if there is none, or something else.
    pub(super) fn read(&self, name: &str) -> Result<Option<(File, FileStamp)>, CacheError> {
        let handle = self.handle()?;
        match handle.image(name) {
            Ok(file) => {
                let stamp = FileStamp::of(&file);
                let stamp = stamp.map_err(|error| handle.failed("inspect", name, error))?;
                Ok(Some((file, stamp)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                Ok(None)
            }
            Err(error) => Err(handle.failed("open", name, error)),
        }
    }

    /// The space that an open file takes.
    pub(super) fn used_bytes(&self, file: &File, name: &str) -> Result<u64, CacheError> {
        let meta = file.metadata().map_err(|error| {
            let path = self.dir().join(name);
            CacheError::file("inspect", &path, error)
        })?;
        Ok(meta.blocks().saturating_mul(STAT_BLOCK_BYTES))
    }

    /// Length of a regular file; 0 for anything else, and if there is none.
    pub(super) fn length(&self, name: &str) -> Result<u64, CacheError> {
        Ok(self.handle()?.length(name))
    }

    /// Removes a file, or a link and not its target; it need not exist. Removing a large file may take long.
    pub(super) fn remove(&self, name: &str) -> Result<(), CacheError> {
        self.handle()?.remove(name)
    }

    /// Free bytes in the file system.
    pub(super) fn free_bytes(&self) -> Result<u64, CacheError> {
        self.handle()?.free_bytes()
    }

    /// Opens the image with this digest, and hashes it if its stamp has changed.
    pub(super) fn image(
        &self,
        digest: &Sha256Digest,
        stamp: FileStamp,
    ) -> Result<Found, CacheError> {
        let name = file_name(digest);
        let path = self.dir().join(&name);
        let failed = |error| CacheError::file("read the cached image", &path, error);
        let file = match self.handle()?.image(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.check()?;
                return Ok(Found::Gone);
            }
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Ok(Found::Strange);
            }
            Err(error) => return Err(failed(error)),
        };
        if FileStamp::of(&file).map_err(failed)? == stamp {
            return Ok(Found::Unchanged(file));
        }
        let (digest, stamp) = hash_again(&file).map_err(failed)?;
        Ok(Found::Changed {
            file,
            digest,
            stamp,
        })
    }

    /// Opens a partial file, truncated to what is durable, or creates a new one if nothing is.
    pub(super) fn partial(&self, name: &str, durable_bytes: u64) -> Result<File, CacheError> {
        let handle = self.handle()?;
        if durable_bytes == 0 {
            return handle.new_partial(name);
        }
        // The durable part must exist: a new file would read as zeros.
        let file = handle.partial(name)?;
        file.set_len(durable_bytes)
            .map_err(|error| handle.failed("truncate the partial image", name, error))?;
        Ok(file)
    }

    /// A file without a name, which disappears when it is closed.
    pub(super) fn unnamed(&self) -> Result<File, CacheError> {
        let handle = self.handle()?;
        match handle.open(".", OFlags::RDWR | OFlags::TMPFILE) {
            Ok(file) => Ok(file),
            // The file system does not support O_TMPFILE: the file is unlinked at once.
            Err(_) => {
                let file = handle.new_partial(SCRATCH)?;
                handle.remove(SCRATCH)?;
                Ok(file)
            }
        }
    }

    /// Gives a partial file, whose bytes were just verified, its final name, durably. The file is synced before, unless
    /// that was done after its last byte.
    pub(super) fn publish(
        &self,
        (file, is_synced): (&File, bool),
        from: &str,
        to: &str,
    ) -> Result<FileStamp, CacheError> {
        let handle = self.handle()?;
        let unread = |error| handle.failed("inspect the image", to, error);
        if !is_synced {
            file.sync_all()
                .map_err(|error| handle.failed("sync the image", to, error))?;
        }
        handle.rename(from, to)?;
        let stamp = FileStamp::settled(file, self.0.times()).map_err(unread)?;
        // The renamed file may be another one that had taken the partial file's name.
        let named = handle.image(to).and_then(|named| FileStamp::of(&named));
        let named = named.map_err(unread)?;
        if named != stamp {
            handle.remove(to)?;
            let error = io::Error::other("another file took the place of the download");
            return Err(handle.failed("publish the image as", to, error));
        }
        Ok(stamp)
    }

    /// The directory itself, if it is the cache.
    fn handle(&self) -> Result<Handle, CacheError> {
        let path = self.dir();
        let failed = |error| CacheError::file("open the cache directory", path, error);
        let number = self.0.find()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| failed(error.into()))?;
        if (stat.st_dev, stat.st_ino) != number {
            return Err(CacheError::Lost {
                dir: path.to_owned(),
                why: "was replaced just now",
            });
        }
        Ok(Handle {
            path: path.to_owned(),
            fd,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn files_are_worked_with_on_threads_that_may_block() {
        let home = tempfile::tempdir().expect("there is room");
        let disk = Disk::open(&home.path().join("cache")).expect("it is made");
        let worker = disk.run(|_| Ok(thread::current().id())).await;
        assert_ne!(worker.expect("it ends"), thread::current().id());
        let crashed = disk.run::<()>(|_| panic!("as the test wants it")).await;
        assert!(
            matches!(crashed, Err(CacheError::File { .. })),
            "{crashed:?}"
        );
    }
}
