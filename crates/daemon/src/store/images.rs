//! The cache's index: published images, the objects they came from, and downloads in progress.

use lvp_api::{ImageType, Sha256Digest};
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::golden::forget_objects;
use super::jobs::json;
use super::rows::{image_type, parsed};
use super::{Store, StoreError};
use crate::stamp::FileStamp;

/// One published image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// SHA-256 of the file's bytes, and the file's name.
    pub digest: Sha256Digest,
    /// The format it was fetched as.
    pub image_type: ImageType,
    /// Where it came from, without credentials.
    pub image_url: String,
    /// The stamp of the file when its digest was last verified.
    pub stamp: FileStamp,
    /// When it was published.
    pub published_at: String,
    /// When a job last used it.
    pub last_used_at: String,
}

/// The version and digest of an object when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRow {
    /// Which object; never its URL, whose query may hold secrets.
    pub identity: String,
    /// The entity tag or date that identifies its version.
    pub validator: String,
    /// Its length.
    pub size_bytes: u64,
    /// SHA-256 of its bytes.
    pub digest: Sha256Digest,
}

/// One download that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialRow {
    /// The partial file's name in the cache's directory.
    pub file_name: String,
    /// The object.
    pub image_url: String,
    /// The object's version.
    pub etag: String,
    /// The object's length.
    pub size_bytes: u64,
    /// How many of the first bytes are known to be on the disk.
    pub durable_bytes: u64,
}

impl Store {
    /// Records a published image and the object it came from, and forgets the partial download.
    pub async fn publish_image(
        &self,
        image: ImageRow,
        object: Option<ObjectRow>,
        partial: String,
    ) -> Result<(), StoreError> {
        self.write("publish_image", move |transaction| {
            insert_image(transaction, &image)?;
            if let Some(object) = object {
                transaction.execute(
                    "INSERT OR REPLACE INTO objects (identity, validator, size_bytes, digest) \
                     VALUES (?1, ?2, ?3, ?4)",
                    params![
                        object.identity,
                        object.validator,
                        object.size_bytes.cast_signed(),
                        object.digest.to_string()
                    ],
                )?;
            }
            transaction.execute("DELETE FROM partials WHERE file_name = ?1", [partial])?;
            Ok(())
        })
        .await
    }

    /// Records that a known image's file was checked again.
    pub async fn refresh_image(&self, image: ImageRow) -> Result<(), StoreError> {
        self.write("refresh_image", move |transaction| {
            insert_image(transaction, &image)
        })
        .await
    }

    /// One image by its digest.
    pub async fn image(&self, digest: Sha256Digest) -> Result<Option<ImageRow>, StoreError> {
        self.read("get_image", move |connection| {
            connection
                .query_row(
                    "SELECT * FROM images WHERE digest = ?1",
                    [digest.to_string()],
                    image_row,
                )
                .optional()
        })
        .await
    }

    /// Returns those of these objects whose images are cached.
    pub async fn kept_objects(&self, identities: Vec<String>) -> Result<Vec<String>, StoreError> {
        self.read("kept_objects", move |connection| {
            connection
                .prepare_cached(
                    "SELECT identity FROM objects JOIN images USING (digest) \
                     WHERE identity IN (SELECT value FROM json_each(?1))",
                )?
                .query_map([json(&identities)?], |row| row.get(0))?
                .collect()
        })
        .await
    }

    /// What an object was when it was last read.
    pub async fn object(&self, identity: String) -> Result<Option<ObjectRow>, StoreError> {
        self.read("get_object", move |connection| {
            connection
                .query_row(
                    "SELECT * FROM objects WHERE identity = ?1",
                    [identity],
                    |row| {
                        Ok(ObjectRow {
                            identity: row.get("identity")?,
                            validator: row.get("validator")?,
                            size_bytes: row.get::<_, i64>("size_bytes")?.cast_unsigned(),
                            digest: parsed(row, "digest")?,
                        })
                    },
                )
                .optional()
        })
        .await
    }

    /// Images, the last published first.
    pub async fn images(&self, limit: u32, offset: u32) -> Result<Vec<ImageRow>, StoreError> {
        self.read("list_images", move |connection| {
            connection
                .prepare_cached(
                    "SELECT * FROM images ORDER BY published_at DESC, digest LIMIT ?1 OFFSET ?2",
                )?
                .query_map([limit, offset], image_row)?
                .collect()
        })
        .await
    }

    /// How many images there are.
    pub async fn count_images(&self) -> Result<u64, StoreError> {
        self.read("list_images", |connection| {
            let count: i64 =
                connection.query_row("SELECT count(*) FROM images", [], |row| row.get(0))?;
            Ok(u64::try_from(count).unwrap_or(0))
        })
        .await
    }

    /// All images, the longest unused first.
    pub async fn images_by_use(&self) -> Result<Vec<ImageRow>, StoreError> {
        self.read("list_images", |connection| {
            connection
                .prepare("SELECT * FROM images ORDER BY last_used_at, digest")?
                .query_map([], image_row)?
                .collect()
        })
        .await
    }

    /// Notes that a job uses an image.
    pub async fn touch_image(&self, digest: Sha256Digest, now: String) -> Result<(), StoreError> {
        self.write("touch_image", move |transaction| {
            transaction.execute(
                "UPDATE images SET last_used_at = ?2 WHERE digest = ?1",
                [digest.to_string(), now],
            )?;
            Ok(())
        })
        .await
    }

    /// Forgets an image; its objects go with it, unless it has a golden volume. Returns whether there was one.
    pub async fn forget_image(&self, digest: Sha256Digest) -> Result<bool, StoreError> {
        self.write("forget_image", move |transaction| {
            let rows = transaction
                .execute("DELETE FROM images WHERE digest = ?1", [digest.to_string()])?;
            forget_objects(transaction, &digest)?;
            Ok(rows != 0)
        })
        .await
    }

    /// Records how much of a download is on the disk.
    pub async fn save_partial(&self, partial: PartialRow, now: String) -> Result<(), StoreError> {
        self.write("save_partial", move |transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO partials \
                 (file_name, image_url, etag, size_bytes, durable_bytes, updated_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    partial.file_name,
                    partial.image_url,
                    partial.etag,
                    partial.size_bytes.cast_signed(),
                    partial.durable_bytes.cast_signed(),
                    now
                ],
            )?;
            Ok(())
        })
        .await
    }

    /// One download that has not ended.
    pub async fn partial(&self, file_name: String) -> Result<Option<PartialRow>, StoreError> {
        self.read("get_partial", move |connection| {
            connection
                .query_row(
                    "SELECT * FROM partials WHERE file_name = ?1",
                    [file_name],
                    partial_row,
                )
                .optional()
        })
        .await
    }

    /// Forgets downloads that no job has continued since a time; returns their files' names.
    pub async fn forget_partials_before(&self, time: String) -> Result<Vec<String>, StoreError> {
        self.write("forget_partials", move |transaction| {
            transaction
                .prepare("DELETE FROM partials WHERE updated_at < ?1 RETURNING file_name")?
                .query_map([time], |row| row.get(0))?
                .collect()
        })
        .await
    }

    /// Forgets one download.
    pub async fn forget_partial(&self, file_name: String) -> Result<(), StoreError> {
        self.write("forget_partial", move |transaction| {
            transaction.execute("DELETE FROM partials WHERE file_name = ?1", [file_name])?;
            Ok(())
        })
        .await
    }
}

fn insert_image(transaction: &Transaction<'_>, image: &ImageRow) -> rusqlite::Result<()> {
    // An upsert, not a replace: a replace would delete the image's objects too.
    transaction.execute(
        "INSERT INTO images (digest, image_type, size_bytes, image_url, inode, mtime_ns, ctime_ns, \
         published_at, last_used_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
         ON CONFLICT (digest) DO UPDATE SET image_type = ?2, size_bytes = ?3, image_url = ?4, \
         inode = ?5, mtime_ns = ?6, ctime_ns = ?7, published_at = ?8, last_used_at = ?9",
        params![
            image.digest.to_string(),
            image.image_type.as_str(),
            image.stamp.size_bytes.cast_signed(),
            image.image_url,
            image.stamp.inode.cast_signed(),
            image.stamp.mtime_ns,
            image.stamp.ctime_ns,
            image.published_at,
            image.last_used_at,
        ],
    )?;
    Ok(())
}

fn image_row(row: &Row<'_>) -> rusqlite::Result<ImageRow> {
    Ok(ImageRow {
        digest: parsed(row, "digest")?,
        image_type: image_type(row)?,
        image_url: row.get("image_url")?,
        stamp: FileStamp {
            size_bytes: row.get::<_, i64>("size_bytes")?.cast_unsigned(),
            inode: row.get::<_, i64>("inode")?.cast_unsigned(),
            mtime_ns: row.get("mtime_ns")?,
            ctime_ns: row.get("ctime_ns")?,
        },
        published_at: row.get("published_at")?,
        last_used_at: row.get("last_used_at")?,
    })
}

fn partial_row(row: &Row<'_>) -> rusqlite::Result<PartialRow> {
    Ok(PartialRow {
        file_name: row.get("file_name")?,
        image_url: row.get("image_url")?,
        etag: row.get("etag")?,
        size_bytes: row.get::<_, i64>("size_bytes")?.cast_unsigned(),
        durable_bytes: row.get::<_, i64>("durable_bytes")?.cast_unsigned(),
    })
}
