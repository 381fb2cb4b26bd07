//! Whether a cached file is still what its name says.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use lvp_api::{ImageType, Sha256Digest};
use sha2::{Digest as _, Sha256};

use super::{Cache, CacheError, ImageRow, publish::remove_if_there};

/// Bytes hashed at a time: large enough for the disk, small enough for the processor's cache.
const BLOCK_BYTES: usize = 1 << 20; // 1 MiB

/// SHA-256 of a whole file. Blocks.
pub fn hash_file(file: &mut File) -> io::Result<Sha256Digest> {
    let mut hasher = Sha256::new();
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok(Sha256Digest::new(hasher.finalize().into())),
            Ok(read) => hasher.update(&block[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What the index keeps of a file to notice later changes.
pub(super) fn row_of(path: &Path, digest: Sha256Digest) -> io::Result<ImageRow> {
    let meta = std::fs::metadata(path)?;
    let now = crate::clock::now_text();
    Ok(ImageRow {
        digest,
        image_type: ImageType::Qcow2,
        size_bytes: meta.len(),
        image_url: String::new(),
        inode: meta.ino(),
        mtime_ns: meta
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(meta.mtime_nsec()),
        published_at: now.clone(),
        last_used_at: now,
    })
}

impl Cache {
    /// The row, if its file is there and right; a file that changed is hashed again, one that is
    /// wrong is dropped with its row.
    pub(super) async fn still_right(&self, row: ImageRow) -> Result<Option<ImageRow>, CacheError> {
        let path = self.image_path(&row.digest);
        let found = match row_of(&path, row.digest) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.probe().await?;
                tracing::warn!(
                    component = "cache", path = %path.display(),
                    "A cached image is gone; it will be fetched again"
                );
                self.0.store.forget_image(row.digest).await?;
                return Ok(None);
            }
            Err(error) => return Err(CacheError::file("look at the cached image", &path, error)),
        };
        let same = |row: &ImageRow| (row.size_bytes, row.inode, row.mtime_ns);
        if same(&found) == same(&row) {
            return Ok(Some(row));
        }
        let opened = path.clone();
        let digest = tokio::task::spawn_blocking(move || hash_file(&mut File::open(opened)?))
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| CacheError::file("read the cached image", &path, error))?;
        if digest == row.digest {
            let row = ImageRow {
                size_bytes: found.size_bytes,
                inode: found.inode,
                mtime_ns: found.mtime_ns,
                ..row
            };
            self.0.store.refresh_image(row.clone()).await?;
            return Ok(Some(row));
        }
        tracing::error!(
            component = "cache", path = %path.display(), found = %digest,
            "A cached image has changed on the disk; it is dropped and will be fetched again"
        );
        self.0.store.forget_image(row.digest).await?;
        remove_if_there(&path)?;
        Ok(None)
    }
}
