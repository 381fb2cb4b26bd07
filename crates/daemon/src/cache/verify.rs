//! Whether a cached file is still what its name says.
//!
//! A file whose size, inode, modification time and change time are the same as at the last look has not been
//! written to since: setting back the modification time changes the change time, which cannot be set. In doubt,
//! the file is hashed again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use lvp_api::Sha256Digest;
use sha2::{Digest, Sha256};

use super::files::Found;
use super::unpacked::is_disk_of;
use super::{Cache, CacheError, ImageRow, file_name};
use crate::stamp::{FileStamp, Times};

/// Bytes hashed at a time: large enough for the disk, small enough for the processor's cache.
const BLOCK_BYTES: usize = 1 << 20; // 1 MiB

/// SHA-256 of a whole file. Blocks.
pub fn hash_file(file: &File) -> io::Result<Sha256Digest> {
    let mut hasher = Sha256::new();
    each_block(file, |block| hasher.update(block))?;
    Ok(Sha256Digest::new(hasher.finalize().into()))
}

/// Passes all bytes of a file to `take`, in order. Blocks.
pub fn each_block(file: &File, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut offset = 0;
    loop {
        match file.read_at(&mut block, offset) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                take(&block[..read]);
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Hashes a file that may have changed, and fails if it changes meanwhile. Blocks.
pub(super) fn hash_again(file: &File) -> io::Result<(Sha256Digest, FileStamp)> {
    let before = FileStamp::settled(file, Times::Coarse)?;
    let digest = hash_file(file)?;
    if FileStamp::of(file)? != before {
        return Err(io::Error::other("the file is being written to"));
    }
    Ok((digest, before))
}

impl Cache {
    /// The row and its open file, if the file exists and is intact; a file that changed is hashed again, and
    /// one that is wrong is removed with its row.
    pub(super) async fn still_right(
        &self,
        row: ImageRow,
    ) -> Result<Option<(ImageRow, File)>, CacheError> {
        let path = self.image_path(&row.digest);
        let (digest, stamp) = (row.digest, row.stamp);
        let found = self.0.disk.run(move |files| files.image(&digest, stamp));
        match found.await? {
            Found::Unchanged(file) => return Ok(Some((row, file))),
            Found::Changed {
                file,
                digest,
                stamp,
            } if digest == row.digest => {
                let row = ImageRow { stamp, ..row };
                self.0.store.refresh_image(row.clone()).await?;
                return Ok(Some((row, file)));
            }
            Found::Gone => {
                tracing::warn!(
                    component = "cache", path = %path.display(),
                    "A cached image is missing on the disk; it will be fetched again when it is \
                     needed"
                );
                self.0.store.forget_image(row.digest).await?;
                return Ok(None);
            }
            Found::Changed { .. } | Found::Strange => {}
        }
        tracing::error!(
            component = "cache", path = %path.display(),
            "A cached image has changed on the disk; it was removed and will be fetched again \
             when it is needed"
        );
        self.0.store.forget_image(row.digest).await?;
        self.0
            .disk
            .run(move |files| {
                files.remove_all(|name| is_disk_of(name, &digest))?;
                files.remove(&file_name(&digest))
            })
            .await?;
        Ok(None)
    }
}

impl super::Pin {
    /// Whether the file still has the image's bytes after it was read. Blocks; if the file's stamp has changed,
    /// for as long as it takes to hash the file.
    pub fn is_unchanged(&self) -> io::Result<bool> {
        if FileStamp::of(self.file())? == self.stamp {
            return Ok(true);
        }
        hash_again(self.file()).map(|(digest, _)| digest == self.digest())
    }
}
