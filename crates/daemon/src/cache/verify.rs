//! Whether a cached file is still what its name says.
//!
//! A file whose size, inode and both of its times are those of the last look has not been written to
//! since: whoever sets back the modification time changes the change time by that, which nobody can
//! set. In doubt the file is hashed again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use lvp_api::Sha256Digest;
use sha2::{Digest as _, Sha256};

use super::{Cache, CacheError, ImageRow, file_name};
use crate::stamp::FileStamp;

/// Bytes hashed at a time: large enough for the disk, small enough for the processor's cache.
const BLOCK_BYTES: usize = 1 << 20; // 1 MiB

/// SHA-256 of a whole file. Blocks.
pub fn hash_file(file: &File) -> io::Result<Sha256Digest> {
    let mut hasher = Sha256::new();
    let mut block = vec![0; BLOCK_BYTES];
    let mut offset = 0;
    loop {
        match file.read_at(&mut block, offset) {
            Ok(0) => return Ok(Sha256Digest::new(hasher.finalize().into())),
            Ok(read) => {
                hasher.update(&block[..read]);
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Hashes a file that may have changed, and looks whether it stayed as it is meanwhile. Blocks.
fn hash_again(file: &File) -> io::Result<(Sha256Digest, FileStamp)> {
    let before = FileStamp::settled(file)?;
    let digest = hash_file(file)?;
    if FileStamp::of(file)? != before {
        return Err(io::Error::other("the file is being written to"));
    }
    Ok((digest, before))
}

/// An error of a thread is one of the file.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
        .flatten()
}

impl Cache {
    /// The row and its open file, if it is there and right; a file that changed is hashed again, one
    /// that is wrong is dropped with its row.
    pub(super) async fn still_right(
        &self,
        row: ImageRow,
    ) -> Result<Option<(ImageRow, File)>, CacheError> {
        let path = self.image_path(&row.digest);
        let handle = self.0.directory.handle()?;
        let failed = |error| CacheError::file("read the cached image", &path, error);
        let opened = match handle.image(&file_name(&row.digest)) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.probe().await?;
                tracing::warn!(
                    component = "cache", path = %path.display(),
                    "A cached image is gone; it will be fetched again"
                );
                self.0.store.forget_image(row.digest).await?;
                return Ok(None);
            }
            // A link, or something else that is no file.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                None
            }
            Err(error) => return Err(failed(error)),
        };
        let found = match opened {
            None => None,
            Some(file) if FileStamp::of(&file).map_err(failed)? == row.stamp => {
                return Ok(Some((row, file)));
            }
            Some(file) => {
                let hashed = blocking(move || Ok((hash_again(&file)?, file))).await;
                Some(hashed.map_err(failed)?)
            }
        };
        if let Some(((digest, stamp), file)) = found
            && digest == row.digest
        {
            let row = ImageRow { stamp, ..row };
            self.0.store.refresh_image(row.clone()).await?;
            return Ok(Some((row, file)));
        }
        tracing::error!(
            component = "cache", path = %path.display(),
            "A cached image has changed on the disk; it is dropped and will be fetched again"
        );
        self.0.store.forget_image(row.digest).await?;
        handle.remove(&file_name(&row.digest))?;
        Ok(None)
    }
}

impl super::Pin {
    /// Whether the file still has the image's bytes, after it was read. Blocks; when anything about
    /// the file has changed, for as long as it takes to hash it.
    pub fn is_unchanged(&self) -> io::Result<bool> {
        if FileStamp::of(self.file())? == self.stamp {
            return Ok(true);
        }
        hash_again(self.file()).map(|(digest, _)| digest == self.digest())
    }
}
