//! Making room, and sweeping what no longer belongs.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::publish::remove_if_there;
use super::{Cache, CacheError, PARTIAL_PREFIX, PARTIAL_SUFFIX, PUBLISHED};
use crate::clock;

/// A partial download that nobody went on with for so long is not resumed any more.
const PARTIAL_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// What a sweep took away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Images that were too old or in the way.
    pub images: usize,
    /// Files without a row, and downloads that were given up.
    pub files: usize,
    /// Rows without a file.
    pub rows: usize,
}

/// What the cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Published images.
    pub images: u64,
    /// The bytes that they take.
    pub size_bytes: u64,
}

impl Cache {
    /// How many images are published, and the bytes that they take.
    pub async fn usage(&self) -> Result<Usage, CacheError> {
        let rows = self.0.store.images_by_use().await?;
        Ok(Usage {
            images: rows.len() as u64,
            size_bytes: rows.iter().map(|row| row.size_bytes).sum(),
        })
    }

    /// How many images were evicted since the start.
    pub fn evicted_images(&self) -> u64 {
        self.0.evicted_images.load(Ordering::Relaxed)
    }

    /// Free bytes in the cache's file system.
    pub fn free_bytes(&self) -> Result<u64, CacheError> {
        let stat = rustix::fs::statvfs(self.dir()).map_err(|error| {
            CacheError::file("look at the file system of", self.dir(), error.into())
        })?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Evicts the longest unused images until `needed` more bytes fit under all limits. The
    /// caller holds the turn.
    pub(super) async fn make_room(&self, needed: u64) -> Result<(), CacheError> {
        let reserved = self.0.reserved_bytes.load(Ordering::Relaxed);
        let rows = self.0.store.images_by_use().await?;
        let mut used: u64 = rows.iter().map(|row| row.size_bytes).sum();
        let mut candidates = rows.into_iter();
        loop {
            let by_disk = self
                .free_bytes()?
                .saturating_sub(self.0.settings.min_free_bytes)
                .saturating_sub(reserved);
            let by_limit = self.0.settings.max_size_bytes.map_or(u64::MAX, |limit| {
                limit.saturating_sub(used).saturating_sub(reserved)
            });
            let available = by_disk.min(by_limit);
            if available >= needed {
                return Ok(());
            }
            let Some(row) = candidates.next() else {
                // The last to go, as each saves a download: what nobody is going on with now.
                if self.drop_idle_partials().await? > 0 {
                    continue;
                }
                return Err(CacheError::NoRoom {
                    dir: self.dir().to_owned(),
                    available,
                    needed,
                });
            };
            match self.remove(row.digest).await {
                Ok(()) => {
                    self.0.evicted_images.fetch_add(1, Ordering::Relaxed);
                    used -= row.size_bytes;
                    tracing::info!(
                        component = "cache", digest = %row.digest, size_bytes = row.size_bytes,
                        "Evicted an image to make room"
                    );
                }
                Err(CacheError::InUse(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes the partial files that no flight is writing; returns how many there were.
    async fn drop_idle_partials(&self) -> Result<usize, CacheError> {
        let failed = |error| CacheError::file("list the cache directory", self.dir(), error);
        let mut removed = 0;
        for entry in std::fs::read_dir(self.dir()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let idle = partial_key(name).is_some_and(|key| !self.0.flights.contains(key));
            if idle {
                self.0.store.forget_partial(name.to_owned()).await?;
                remove_if_there(&entry.path())?;
                removed += 1;
                tracing::info!(
                    component = "cache",
                    file = name,
                    "Dropped an unfinished download to make room"
                );
            }
        }
        Ok(removed)
    }

    /// Evicts what is too old, then brings files and index back together. Runs at start and
    /// every `cache.eviction_interval`.
    pub async fn reconcile(&self) -> Result<Swept, CacheError> {
        let _turn = self.0.room.lock().await;
        // In a directory that is not the cache every file would seem to be missing.
        self.probe().await?;
        let mut swept = Swept::default();
        let oldest = clock::text(clock::now() - self.0.settings.max_age);
        let mut known = HashSet::new();
        for row in self.0.store.images_by_use().await? {
            let path = self.image_path(&row.digest);
            if !path.exists() {
                self.0.store.forget_image(row.digest).await?;
                swept.rows += 1;
            } else if row.last_used_at < oldest {
                match self.remove(row.digest).await {
                    Ok(()) => {
                        self.0.evicted_images.fetch_add(1, Ordering::Relaxed);
                        swept.images += 1;
                    }
                    Err(CacheError::InUse(_)) => {
                        known.insert(format!("{}{PUBLISHED}", row.digest));
                    }
                    Err(error) => return Err(error),
                }
            } else {
                known.insert(format!("{}{PUBLISHED}", row.digest));
            }
        }
        self.make_room(0).await.or_else(|error| match error {
            // All that is left is in use: there is nothing more to do about it now.
            CacheError::NoRoom { .. } => Ok(()),
            error => Err(error),
        })?;
        let given_up = clock::text(clock::now() - PARTIAL_MAX_AGE);
        self.0.store.forget_partials_before(given_up).await?;
        swept.files = self.sweep_files(&known).await?;
        Ok(swept)
    }

    /// Removes files of ours that no row knows: the rest of a crash between rename and row, and
    /// downloads that were given up. Files with other names are not ours and stay.
    async fn sweep_files(&self, known: &HashSet<String>) -> Result<usize, CacheError> {
        let failed = |error| CacheError::file("list the cache directory", self.dir(), error);
        let mut removed = 0;
        for entry in std::fs::read_dir(self.dir()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let orphan = if let Some(key) = partial_key(name) {
                !self.0.flights.contains(key)
                    && self.0.store.partial(name.to_owned()).await?.is_none()
            } else if let Some(digest) = published_digest(name) {
                // A flight publishes its file before its row; the pin is there before both.
                !known.contains(name)
                    && !self.pins().contains_key(&digest)
                    && self.0.store.image(digest).await?.is_none()
                    && self.0.flights.is_empty()
            } else {
                false
            };
            if orphan {
                remove_if_there(&entry.path())?;
                removed += 1;
                tracing::info!(
                    component = "cache",
                    file = name,
                    "Removed a file without an owner"
                );
            }
        }
        Ok(removed)
    }
}

fn partial_key(name: &str) -> Option<&str> {
    name.strip_prefix(PARTIAL_PREFIX)?
        .strip_suffix(PARTIAL_SUFFIX)
}

fn published_digest(name: &str) -> Option<lvp_api::Sha256Digest> {
    let digest = name.strip_suffix(PUBLISHED)?;
    digest
        .parse()
        .ok()
        .filter(|_| digest.bytes().all(|b| !b.is_ascii_uppercase()))
}
