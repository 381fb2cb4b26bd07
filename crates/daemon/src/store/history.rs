//! What jobs did over time, counted from their rows.

use std::time::Duration;

use lvp_api::{History, JobState};
use time::OffsetDateTime;

use super::rows::parsed;
use super::{Store, StoreError};
use crate::clock;

impl Store {
    /// What jobs did in so many intervals from a time on.
    pub async fn history(
        &self,
        from: OffsetDateTime,
        interval: Duration,
        intervals: u32,
    ) -> Result<History, StoreError> {
        let interval_sec = interval.as_secs().max(1);
        self.read("history", move |connection| {
            let none = vec![0; usize::try_from(intervals).unwrap_or_default()];
            let mut history = History {
                from: clock::text(from),
                interval_sec,
                completed: none.clone(),
                failed: none.clone(),
                cancelled: none.clone(),
                fetched_bytes: none.clone(),
                written_bytes: none,
            };
            let mut statement = connection.prepare_cached(
                "SELECT CAST((unixepoch(finished_at) - ?2) / ?3 AS INTEGER) AS place, state, \
                 count(*) AS jobs, total(fetched_bytes) AS fetched, total(written_bytes) AS written \
                 FROM jobs WHERE finished_at >= ?1 GROUP BY place, state",
            )?;
            let from_sec = from.unix_timestamp();
            let mut rows =
                statement.query((&history.from, from_sec, interval_sec.cast_signed()))?;
            while let Some(row) = rows.next()? {
                let place = row.get::<_, i64>("place")?;
                // A job that ended just now, or in the future of a clock that was set back, counts as the last.
                let last = history.completed.len().saturating_sub(1);
                let place = usize::try_from(place).unwrap_or(0).min(last);
                let jobs = row.get::<_, i64>("jobs")?.cast_unsigned();
                let counts = match parsed(row, "state")? {
                    JobState::Completed => &mut history.completed,
                    JobState::Failed => &mut history.failed,
                    JobState::Cancelled => &mut history.cancelled,
                    JobState::Pending | JobState::Running => continue,
                };
                counts[place] += jobs;
                history.fetched_bytes[place] += bytes(row.get("fetched")?);
                history.written_bytes[place] += bytes(row.get("written")?);
            }
            Ok(history)
        })
        .await
    }
}

/// SQLite's `total` is a float, so that it cannot overflow.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion saturates, and sums of bytes are not negative"
)]
fn bytes(total: f64) -> u64 {
    total as u64
}
