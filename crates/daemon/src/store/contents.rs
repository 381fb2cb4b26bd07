//! The digests of the disks that images hold. They outlive the cached images, as volumes with these do.

use rusqlite::{OptionalExtension as _, params};

use super::rows::parsed;
use super::{Store, StoreError};
use crate::volume::{Content, GoldenKey};

/// How many are kept: those that were used last. Each can be computed again from its image.
const KEPT: u32 = 10_000;

impl Store {
    /// Records what an image was found to hold.
    pub async fn save_content(
        &self,
        key: GoldenKey,
        content: Content,
        now: String,
    ) -> Result<(), StoreError> {
        self.write("save_content", move |transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO contents (digest, image_type, disk_bytes, disk_digest, used_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    key.digest.to_string(),
                    key.image_type.as_str(),
                    content.size_bytes.cast_signed(),
                    content.digest.to_string(),
                    now,
                ],
            )?;
            transaction.execute(
                "DELETE FROM contents WHERE rowid IN \
                 (SELECT rowid FROM contents ORDER BY used_at DESC LIMIT -1 OFFSET ?1)",
                [KEPT],
            )?;
            Ok(())
        })
        .await
    }

    /// What an image holds, if that is known.
    pub async fn content(&self, key: GoldenKey) -> Result<Option<Content>, StoreError> {
        self.read("get_content", move |connection| {
            connection
                .query_row(
                    "SELECT * FROM contents WHERE digest = ?1 AND image_type = ?2",
                    [&key.digest.to_string(), key.image_type.as_str()],
                    |row| {
                        Ok(Content {
                            size_bytes: row.get::<_, i64>("disk_bytes")?.cast_unsigned(),
                            digest: parsed(row, "disk_digest")?,
                        })
                    },
                )
                .optional()
        })
        .await
    }
}
