//! How fast stages ran, for estimates.

use std::time::Duration;

use rusqlite::{Transaction, params};

use super::{Store, StoreError};

/// How many of the last measurements of a stage count.
const KEPT: u32 = 20;

/// How long a stage took for this many bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measurement {
    /// The stage's name.
    pub stage: &'static str,
    /// What it processed.
    pub bytes: u64,
    /// How long that took.
    pub took: Duration,
}

/// Records measurements, and removes older ones.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    measured: &[Measurement],
) -> rusqlite::Result<()> {
    for Measurement { stage, bytes, took } in measured {
        transaction.execute(
            "INSERT INTO measurements (stage, bytes, seconds) VALUES (?1, ?2, ?3)",
            params![stage, bytes.cast_signed(), took.as_secs_f64()],
        )?;
        transaction.execute(
            "DELETE FROM measurements WHERE stage = ?1 AND seq NOT IN \
             (SELECT seq FROM measurements WHERE stage = ?1 ORDER BY seq DESC LIMIT ?2)",
            params![stage, KEPT],
        )?;
    }
    Ok(())
}

impl Store {
    /// Bytes per second of a stage over its last measurements; None before the first.
    pub async fn stage_rate(&self, stage: &'static str) -> Result<Option<f64>, StoreError> {
        self.rate_of(stage, 0).await
    }

    /// The same, of measurements of at least `least_bytes`.
    pub async fn rate_of(
        &self,
        stage: &'static str,
        least_bytes: u64,
    ) -> Result<Option<f64>, StoreError> {
        self.read("stage_rate", move |connection| {
            let (bytes, seconds): (Option<f64>, Option<f64>) = connection.query_row(
                "SELECT total(bytes), total(seconds) FROM measurements \
                 WHERE stage = ?1 AND bytes >= ?2",
                rusqlite::params![stage, least_bytes.cast_signed()],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            Ok(bytes.zip(seconds).and_then(|(bytes, seconds)| {
                (bytes > 0.0 && seconds > 0.0).then_some(bytes / seconds)
            }))
        })
        .await
    }
}
