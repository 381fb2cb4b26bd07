//! The index of the unpacked copies of cached images.

use lvp_api::{ImageType, Sha256Digest};
use rusqlite::{OptionalExtension as _, Row, params};

use super::rows::{image_type, parsed};
use super::{Store, StoreError};
use crate::stamp::FileStamp;

/// One unpacked copy. It goes with its image's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackedRow {
    /// SHA-256 of the image as it is stored.
    pub digest: Sha256Digest,
    /// The format that it was read as.
    pub image_type: ImageType,
    /// The space that its file takes.
    pub used_bytes: u64,
    /// The stamp of the file when it was made.
    pub stamp: FileStamp,
}

impl Store {
    /// Records a copy in place of an earlier one.
    pub async fn save_unpacked(&self, row: UnpackedRow) -> Result<(), StoreError> {
        self.write("save_unpacked", move |transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO unpacked \
                 (digest, image_type, size_bytes, used_bytes, inode, mtime_ns, ctime_ns) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    row.digest.to_string(),
                    row.image_type.as_str(),
                    row.stamp.size_bytes.cast_signed(),
                    row.used_bytes.cast_signed(),
                    row.stamp.inode.cast_signed(),
                    row.stamp.mtime_ns,
                    row.stamp.ctime_ns,
                ],
            )?;
            Ok(())
        })
        .await
    }

    /// One copy.
    pub async fn unpacked(
        &self,
        digest: Sha256Digest,
        image_type: ImageType,
    ) -> Result<Option<UnpackedRow>, StoreError> {
        self.read("get_unpacked", move |connection| {
            connection
                .query_row(
                    "SELECT * FROM unpacked WHERE digest = ?1 AND image_type = ?2",
                    [&digest.to_string(), image_type.as_str()],
                    unpacked_row,
                )
                .optional()
        })
        .await
    }

    /// All copies, those of the longest unused images first, each with when its image was last used.
    pub async fn unpacked_by_use(&self) -> Result<Vec<(UnpackedRow, String)>, StoreError> {
        self.read("list_unpacked", |connection| {
            connection
                .prepare(
                    "SELECT unpacked.*, last_used_at FROM unpacked JOIN images USING (digest) \
                     ORDER BY last_used_at, digest, unpacked.image_type",
                )?
                .query_map([], |row| Ok((unpacked_row(row)?, row.get("last_used_at")?)))?
                .collect()
        })
        .await
    }

    /// Forgets one copy.
    pub async fn forget_unpacked(
        &self,
        digest: Sha256Digest,
        image_type: ImageType,
    ) -> Result<(), StoreError> {
        self.write("forget_unpacked", move |transaction| {
            transaction.execute(
                "DELETE FROM unpacked WHERE digest = ?1 AND image_type = ?2",
                [&digest.to_string(), image_type.as_str()],
            )?;
            Ok(())
        })
        .await
    }

    /// Counts a volume that is copied from a cached image; returns how many there were with it.
    pub async fn count_copy(&self, digest: Sha256Digest) -> Result<u64, StoreError> {
        self.write("count_copy", move |transaction| {
            let copies: Option<i64> = transaction
                .query_row(
                    "UPDATE images SET copies = copies + 1 WHERE digest = ?1 RETURNING copies",
                    [digest.to_string()],
                    |row| row.get(0),
                )
                .optional()?;
            Ok(copies.map_or(0, i64::cast_unsigned))
        })
        .await
    }
}

fn unpacked_row(row: &Row<'_>) -> rusqlite::Result<UnpackedRow> {
    Ok(UnpackedRow {
        digest: parsed(row, "digest")?,
        image_type: image_type(row)?,
        used_bytes: row.get::<_, i64>("used_bytes")?.cast_unsigned(),
        stamp: FileStamp {
            size_bytes: row.get::<_, i64>("size_bytes")?.cast_unsigned(),
            inode: row.get::<_, i64>("inode")?.cast_unsigned(),
            mtime_ns: row.get("mtime_ns")?,
            ctime_ns: row.get("ctime_ns")?,
        },
    })
}
