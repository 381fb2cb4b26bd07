//! Bounds, removal, and what is swept.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use lvp_api::{JobId, Sha256Digest};

use super::{Entry, GoldenError, Shelf};
use crate::clock;
use crate::error::chain;
use crate::store::GoldenRow;
use crate::volume::{GoldenKey, VolumeError, VolumeErrorKind, VolumeState};

/// What golden volumes take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Sound ones.
    pub volumes: u64,
    /// Those that are not used, unfinished ones that a job is making left out.
    pub flawed: u64,
    /// What they take, as far as the back end can tell.
    pub bytes: u64,
}

impl Shelf {
    /// Does `work` again for every golden volume that had to go because there was no room for it.
    pub async fn with_room<T, F: Future<Output = Result<T, VolumeError>>>(
        &self,
        mut work: impl FnMut() -> F,
    ) -> Result<T, GoldenError> {
        loop {
            let error = match work().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let is_full =
                matches!(error.kind(), VolumeErrorKind::NoSpace { .. }) || error.is_full();
            if !is_full
                || !self.may_suffice(&error).await?
                || !self.drop_oldest("to make room").await?
            {
                return Err(error.into());
            }
        }
    }

    /// Whether there would be room if all golden volumes went that nobody has. Without this, a request for more than
    /// the host has would cost it every one of them, and fail all the same.
    async fn may_suffice(&self, full: &VolumeError) -> Result<bool, GoldenError> {
        let VolumeErrorKind::NoSpace {
            free_bytes,
            want_bytes,
        } = full.kind()
        else {
            return Ok(true);
        };
        if self.clones().await.is_err() {
            return Ok(false);
        }
        let entries = self.list().await?;
        let unused = entries.iter().filter(|entry| !entry.in_use);
        // What shares extents with clones frees less than this.
        let most: u64 = unused.map(bytes_of).sum();
        Ok(free_bytes.saturating_add(most) >= want_bytes)
    }

    /// Removes the longest unused golden volume that nobody has; false when there is none.
    pub async fn drop_oldest(&self, why: &str) -> Result<bool, GoldenError> {
        if self.clones().await.is_err() {
            return Ok(false);
        }
        let _turn = self.0.turn.lock().await;
        for entry in self.list().await? {
            match self.remove_entry(&entry).await {
                Ok(()) => {
                    self.say_dropped(&entry.golden.key, why);
                    return Ok(true);
                }
                Err(GoldenError::InUse(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Removes the golden volumes of an image; false when there are none.
    pub async fn remove(&self, digest: Sha256Digest) -> Result<bool, GoldenError> {
        let _turn = self.0.turn.lock().await;
        let mut entries = self.list().await?;
        entries.retain(|entry| entry.golden.key.digest == digest);
        if entries.iter().any(|entry| entry.in_use) {
            return Err(GoldenError::InUse(digest));
        }
        for entry in &entries {
            self.remove_entry(entry).await?;
        }
        Ok(!entries.is_empty())
    }

    /// How many golden volumes were dropped for age or room since the start.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Removes one that nobody has: first the row, then the volume. The caller has the turn.
    async fn remove_entry(&self, entry: &Entry) -> Result<(), GoldenError> {
        let key = entry.golden.key;
        let in_use = GoldenError::InUse(key.digest);
        if self.0.flights.contains(key.volume_name().as_str()) {
            return Err(in_use);
        }
        let Some(_closed) = self.0.seats.close(key) else {
            return Err(in_use);
        };
        self.0.store.forget_golden(key).await?;
        self.clones().await?.remove_golden(&entry.golden).await?;
        Ok(())
    }

    fn say_dropped(&self, key: &GoldenKey, why: &str) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
        tracing::info!(
            component = "golden", digest = %key.digest, image_type = %key.image_type,
            "Dropped a golden volume {why}"
        );
    }

    /// Drops the longest unused ones until what is left is within the bounds of count and bytes.
    pub(super) async fn keep_bounds(&self) -> Result<(), GoldenError> {
        let _turn = self.0.turn.lock().await;
        let entries = self.list().await?;
        let settings = &self.0.settings;
        let mut count = entries.len();
        let mut bytes: u64 = entries.iter().map(bytes_of).sum();
        for entry in &entries {
            let fits = settings.max_bytes.is_none_or(|limit| bytes <= limit);
            if fits && count <= settings.max_count {
                break;
            }
            match self.remove_entry(entry).await {
                Ok(()) => {
                    count -= 1;
                    bytes -= bytes_of(entry);
                    self.say_dropped(
                        &entry.golden.key,
                        "to keep to golden.max_count and golden.max_bytes",
                    );
                }
                Err(GoldenError::InUse(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What there is.
    pub async fn usage(&self) -> Result<Usage, GoldenError> {
        if self.clones().await.is_err() {
            return Ok(Usage::default());
        }
        let mut usage = Usage::default();
        for entry in self.list().await? {
            usage.bytes += bytes_of(&entry);
            match (&entry.golden.flaw, entry.in_use) {
                (None, _) => usage.volumes += 1,
                (Some(_), false) => usage.flawed += 1,
                (Some(_), true) => {}
            }
        }
        Ok(usage)
    }

    /// Brings golden volumes and what is known of them together, and removes what is too old, what no unfinished
    /// job will finish, and clones that wait for nobody. Runs at start and every `cache.eviction_interval`.
    pub async fn reconcile(&self, may_age: bool) -> Result<usize, GoldenError> {
        let Ok(clones) = self.clones().await else {
            return Ok(0);
        };
        let mut swept = 0;
        // The order of the looks matters, as jobs go on meanwhile: no clone of a job that has just begun.
        let waiting = clones.waiting().await?;
        let unfinished = self.0.store.unfinished_jobs().await?;
        let unfinished: HashSet<JobId> = unfinished.iter().map(|job| job.id).collect();
        for job in waiting {
            if unfinished.contains(&job) {
                continue;
            }
            match clones.remove_waiting(job).await {
                Ok(_) => {
                    swept += 1;
                    tracing::warn!(
                        component = "golden", job_id = %job,
                        "Removed a clone that an ended job had not put in its volume's place"
                    );
                }
                Err(error) => tracing::error!(
                    component = "golden", job_id = %job, error = chain(&error),
                    "A clone that an ended job had not put in its volume's place cannot be removed"
                ),
            }
        }
        {
            let _turn = self.0.turn.lock().await;
            let now = clock::now_text();
            let oldest = clock::text(clock::now() - self.0.settings.max_age);
            let rows = self.0.store.golden_by_use().await?;
            let entries = self.list().await?;
            self.match_rows(rows, &entries, &now).await?;
            for entry in &entries {
                let why = match (entry.golden.volume.state, &entry.row) {
                    (VolumeState::Populating { job, .. }, _) if !unfinished.contains(&job) => {
                        "that an ended job had not finished"
                    }
                    (VolumeState::Populating { .. }, _) => continue,
                    (_, Some(row)) if may_age && row.last_used_at < oldest => {
                        "that was not used for golden.max_age"
                    }
                    _ => continue,
                };
                match self.remove_entry(entry).await {
                    Ok(()) => {
                        swept += 1;
                        self.say_dropped(&entry.golden.key, why);
                    }
                    Err(GoldenError::InUse(_)) => {}
                    Err(error) => tracing::error!(
                        component = "golden", volume = %entry.golden.volume.name, error = chain(&error),
                        "A golden volume cannot be removed"
                    ),
                }
            }
        }
        self.keep_bounds().await?;
        Ok(swept)
    }

    /// Rows follow volumes: a sound volume without a row gets one, a row without a volume goes.
    async fn match_rows(
        &self,
        rows: Vec<GoldenRow>,
        entries: &[Entry],
        now: &str,
    ) -> Result<(), GoldenError> {
        let store = &self.0.store;
        for row in rows {
            if !entries.iter().any(|entry| entry.golden.key == row.key) {
                store.forget_golden(row.key).await?;
                tracing::warn!(
                    component = "golden", digest = %row.key.digest,
                    "A golden volume is gone: somebody removed it"
                );
            }
        }
        for entry in entries {
            match (&entry.golden.flaw, &entry.row) {
                (Some(flaw), _) if !entry.in_use => tracing::warn!(
                    component = "golden", volume = %entry.golden.volume.name, flaw,
                    "A golden volume is not used; it will be made anew"
                ),
                (None, None) => {
                    let row = GoldenRow {
                        key: entry.golden.key,
                        image_url: String::new(),
                        sha512: None,
                        clones: 0,
                        made_at: now.to_owned(),
                        last_used_at: now.to_owned(),
                    };
                    store.save_golden(row).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn bytes_of(entry: &Entry) -> u64 {
    entry.golden.own_bytes.unwrap_or(0)
}
