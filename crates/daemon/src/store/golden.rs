//! What the database knows about golden volumes beyond the volumes' own marks.

use lvp_api::{Sha256Digest, Sha512Digest};
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::rows::{image_type, parsed, parsed_if_any};
use super::{Store, StoreError};
use crate::volume::GoldenKey;

/// One golden volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoldenRow {
    /// What it holds.
    pub key: GoldenKey,
    /// Where its image came from, without credentials; empty if that is not known.
    pub image_url: String,
    /// SHA-512 of the image's bytes, if a request or a checksum file gave one.
    pub sha512: Option<Sha512Digest>,
    /// How many volumes were cloned from it.
    pub clones: u64,
    /// When it was made, or first seen.
    pub made_at: String,
    /// When a volume was last cloned from it.
    pub last_used_at: String,
}

impl Store {
    /// Records a golden volume. Values of an earlier one of that image are kept where the new row has none.
    pub async fn save_golden(&self, row: GoldenRow) -> Result<(), StoreError> {
        self.write("save_golden", move |transaction| {
            transaction.execute(
                "INSERT INTO golden (digest, image_type, image_url, sha512, clones, made_at, last_used_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
                 ON CONFLICT (digest, image_type) DO UPDATE SET \
                 image_url = iif(?3 = '', image_url, ?3), sha512 = ifnull(?4, sha512), made_at = ?6, \
                 last_used_at = max(last_used_at, ?7)",
                params![
                    row.key.digest.to_string(),
                    row.key.image_type.as_str(),
                    row.image_url,
                    row.sha512.map(|digest| digest.to_string()),
                    row.clones.cast_signed(),
                    row.made_at,
                    row.last_used_at,
                ],
            )?;
            Ok(())
        })
        .await
    }

    /// Notes that a volume was cloned from a golden one.
    pub async fn golden_cloned(&self, key: GoldenKey, now: String) -> Result<(), StoreError> {
        self.write("golden_cloned", move |transaction| {
            transaction.execute(
                "UPDATE golden SET clones = clones + 1, last_used_at = ?3 \
                 WHERE digest = ?1 AND image_type = ?2",
                params![key.digest.to_string(), key.image_type.as_str(), now],
            )?;
            Ok(())
        })
        .await
    }

    /// One golden volume.
    pub async fn golden(&self, key: GoldenKey) -> Result<Option<GoldenRow>, StoreError> {
        self.read("get_golden", move |connection| {
            connection
                .query_row(
                    "SELECT * FROM golden WHERE digest = ?1 AND image_type = ?2",
                    params![key.digest.to_string(), key.image_type.as_str()],
                    golden_row,
                )
                .optional()
        })
        .await
    }

    /// All golden volumes, the longest unused first.
    pub async fn golden_by_use(&self) -> Result<Vec<GoldenRow>, StoreError> {
        self.read("list_golden", |connection| {
            connection
                .prepare("SELECT * FROM golden ORDER BY last_used_at, digest, image_type")?
                .query_map([], golden_row)?
                .collect()
        })
        .await
    }

    /// Forgets a golden volume, and its objects' digests unless their image is still cached.
    pub async fn forget_golden(&self, key: GoldenKey) -> Result<(), StoreError> {
        self.write("forget_golden", move |transaction| {
            transaction.execute(
                "DELETE FROM golden WHERE digest = ?1 AND image_type = ?2",
                params![key.digest.to_string(), key.image_type.as_str()],
            )?;
            forget_objects(transaction, &key.digest)
        })
        .await
    }
}

/// Forgets the objects of an image that is neither cached nor in a golden volume.
pub(super) fn forget_objects(
    transaction: &Transaction<'_>,
    digest: &Sha256Digest,
) -> rusqlite::Result<()> {
    transaction.execute(
        "DELETE FROM objects WHERE digest = ?1 \
         AND NOT EXISTS (SELECT 1 FROM images WHERE digest = ?1) \
         AND NOT EXISTS (SELECT 1 FROM golden WHERE digest = ?1)",
        [digest.to_string()],
    )?;
    Ok(())
}

fn golden_row(row: &Row<'_>) -> rusqlite::Result<GoldenRow> {
    Ok(GoldenRow {
        key: GoldenKey {
            digest: parsed(row, "digest")?,
            image_type: image_type(row)?,
        },
        image_url: row.get("image_url")?,
        sha512: parsed_if_any(row, "sha512")?,
        clones: row.get::<_, i64>("clones")?.cast_unsigned(),
        made_at: row.get("made_at")?,
        last_used_at: row.get("last_used_at")?,
    })
}
