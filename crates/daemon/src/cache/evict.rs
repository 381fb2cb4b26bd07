//! Eviction to make room, and removal of what no longer belongs.

use std::collections::HashSet;
use std::fs::File;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::files::Files;
use super::unpacked::is_disk_key;
use super::{Cache, CacheError, PARTIAL_PREFIX, PARTIAL_SUFFIX, PUBLISHED, file_name};
use crate::clock;
use crate::store::{ImageRow, UnpackedRow};

/// A partial download that no job has continued for this long is no longer resumed.
const PARTIAL_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// What a sweep removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Images that were too old, or removed to make room.
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
    /// The bytes that they, their unpacked copies and unfinished downloads take.
    pub size_bytes: u64,
    /// Unpacked copies.
    pub unpacked: u64,
    /// The bytes that they take.
    pub unpacked_bytes: u64,
}

/// One unfinished download's file.
struct Partial {
    name: String,
    size_bytes: u64,
    /// Whether a flight is writing it.
    is_written: bool,
}

/// What can be removed to make room.
enum Candidate {
    Image(ImageRow),
    Copy(UnpackedRow),
}

impl Cache {
    /// How many images are published, and the bytes that they, their copies and unfinished downloads take.
    pub async fn usage(&self) -> Result<Usage, CacheError> {
        let rows = self.0.store.images_by_use().await?;
        let partials = self.partials().await?;
        let published: u64 = rows.iter().map(|row| row.stamp.size_bytes).sum();
        let unfinished: u64 = partials.iter().map(|partial| partial.size_bytes).sum();
        let unpacked = self.0.store.unpacked_by_use().await?;
        let unpacked_bytes = unpacked.iter().map(|(row, _)| row.used_bytes).sum();
        Ok(Usage {
            images: rows.len() as u64,
            size_bytes: published
                .saturating_add(unfinished)
                .saturating_add(unpacked_bytes),
            unpacked: unpacked.len() as u64,
            unpacked_bytes,
        })
    }

    /// How many images were evicted since the start.
    pub fn evicted_images(&self) -> u64 {
        self.0.evicted_images.load(Ordering::Relaxed)
    }

    /// Free bytes in the cache's file system.
    pub async fn free_bytes(&self) -> Result<u64, CacheError> {
        self.0.disk.run(Files::free_bytes).await
    }

    /// Evicts the longest unused images, each after its unpacked copies, until `needed` more bytes fit within all
    /// limits. If they could not fit even then, this is an error and nothing is evicted. The caller holds the lock `room`.
    pub(super) async fn make_room(&self, needed: u64) -> Result<(), CacheError> {
        let rows = self.0.store.images_by_use().await?;
        let partials = self.partials().await?;
        let unpacked = self.0.store.unpacked_by_use().await?;
        let mut used = sum(rows.iter().map(|row| row.stamp.size_bytes))
            + sum(unpacked.iter().map(|(row, _)| row.used_bytes))
            + sum(partials.iter().map(|partial| partial.size_bytes));
        let idle_images = rows.iter().filter(|row| !self.0.pins.has(&row.digest));
        let idle_partials = partials.iter().filter(|partial| !partial.is_written);
        let idle_copies = unpacked
            .iter()
            .filter(|(row, _)| !self.0.pins.has(&row.digest));
        let evictable = sum(idle_images.map(|row| row.stamp.size_bytes))
            + sum(idle_copies.map(|(row, _)| row.used_bytes))
            + sum(idle_partials.map(|partial| partial.size_bytes));
        let refused = |room| self.no_room(room, needed);
        let at_most = self.room(used - evictable, evictable).await?;
        if needed > 0 && at_most < i128::from(needed) {
            return Err(refused(at_most));
        }
        let mut candidates = candidates(rows, &unpacked).into_iter();
        loop {
            let room = self.room(used, 0).await?;
            if room >= i128::from(needed) {
                return Ok(());
            }
            let Some(candidate) = candidates.next() else {
                // Unfinished downloads that no job is continuing go last, as each saves a part of a download.
                match self.drop_idle_partials().await? {
                    0 => return Err(refused(room)),
                    dropped => used -= i128::from(dropped),
                }
                continue;
            };
            let row = match candidate {
                Candidate::Image(row) => row,
                Candidate::Copy(row) => {
                    if self.remove_unpacked(&row).await? {
                        used -= i128::from(row.used_bytes);
                    }
                    continue;
                }
            };
            match self.remove(row.digest).await {
                Ok(()) => {
                    self.0.evicted_images.fetch_add(1, Ordering::Relaxed);
                    used -= i128::from(row.stamp.size_bytes);
                    tracing::info!(
                        component = "cache", digest = %row.digest,
                        size_bytes = row.stamp.size_bytes,
                        "Evicted an image to make room"
                    );
                }
                Err(CacheError::InUse(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn no_room(&self, room: i128, needed: u64) -> CacheError {
        CacheError::NoRoom {
            dir: self.dir().to_owned(),
            available: u64::try_from(room.max(0)).unwrap_or(u64::MAX),
            needed,
        }
    }

    /// A file for unpacking an image of this size, and how large it may become: what fits beside the images
    /// within all limits. Unused images are evicted for as much as the packed image takes. The file has no
    /// name, and disappears when it is closed.
    pub async fn scratch(&self, packed_bytes: u64) -> Result<(File, u64), CacheError> {
        let _turn = self.0.room.lock().await;
        self.make_room(packed_bytes).await?;
        let used = i128::from(self.usage().await?.size_bytes);
        let room = u64::try_from(self.room(used, 0).await?.max(0)).unwrap_or(u64::MAX);
        let file = self.0.disk.run(Files::unnamed).await?;
        Ok((file, room))
    }

    /// How many more bytes fit beside `used` bytes, after `freed` bytes that are on the disk now are freed.
    /// Negative if the cache is already too full.
    pub(super) async fn room(&self, used: i128, freed: i128) -> Result<i128, CacheError> {
        let settings = &self.0.settings;
        let reserved = i128::from(self.0.reserved_bytes.load(Ordering::Relaxed));
        let by_disk =
            i128::from(self.free_bytes().await?) + freed - i128::from(settings.min_free_bytes);
        let by_limit = settings
            .max_size_bytes
            .map_or(i128::MAX, |limit| i128::from(limit) - used);
        Ok(by_disk.min(by_limit) - reserved)
    }

    async fn partials(&self) -> Result<Vec<Partial>, CacheError> {
        let is_partial = |name: &str| partial_key(name).is_some();
        let found = self.0.disk.run(move |files| files.sizes(is_partial));
        let partials = found.await?.into_iter().filter_map(|(name, size_bytes)| {
            let key = partial_key(&name)?;
            let is_written = self.0.flights.contains(key);
            // All that a copy in the making will take is reserved until it is published.
            (!is_written || !is_disk_key(key)).then_some(Partial {
                is_written,
                name,
                size_bytes,
            })
        });
        Ok(partials.collect())
    }

    /// Removes the partial files that no flight is writing; returns how many bytes they had.
    async fn drop_idle_partials(&self) -> Result<u64, CacheError> {
        let mut dropped = 0;
        for partial in self.partials().await? {
            if partial.is_written {
                continue;
            }
            let name = partial.name;
            self.0.store.forget_partial(name.clone()).await?;
            let file = name.clone();
            self.0.disk.run(move |files| files.remove(&file)).await?;
            dropped += partial.size_bytes;
            tracing::info!(
                component = "cache",
                file = name,
                "Dropped an unfinished download to make room"
            );
        }
        Ok(dropped)
    }

    /// Evicts what is too old, then makes files and index agree again. Runs at the start and every
    /// `cache.eviction_interval`.
    pub async fn reconcile(&self) -> Result<Swept, CacheError> {
        let _turn = self.0.room.lock().await;
        // In a directory that is not the cache, every file would appear to be missing.
        self.probe().await?;
        let names: HashSet<String> = self.names().await?.into_iter().collect();
        let mut swept = Swept::default();
        let oldest = clock::text(clock::now() - self.0.settings.max_age);
        let mut known = HashSet::new();
        for row in self.0.store.images_by_use().await? {
            if !names.contains(&file_name(&row.digest)) {
                self.0.store.forget_image(row.digest).await?;
                swept.rows += 1;
            } else if row.last_used_at < oldest {
                match self.remove(row.digest).await {
                    Ok(()) => {
                        self.0.evicted_images.fetch_add(1, Ordering::Relaxed);
                        swept.images += 1;
                    }
                    Err(CacheError::InUse(_)) => {
                        known.insert(file_name(&row.digest));
                    }
                    Err(error) => return Err(error),
                }
            } else {
                known.insert(file_name(&row.digest));
            }
        }
        let names = self.names().await?.into_iter().collect();
        let (files, rows) = self.reconcile_unpacked(&names).await?;
        swept.rows += rows;
        self.make_room(0).await.or_else(|error| match error {
            // All remaining images are in use: nothing more can be evicted now.
            CacheError::NoRoom { .. } => Ok(()),
            error => Err(error),
        })?;
        let given_up = clock::text(clock::now() - PARTIAL_MAX_AGE);
        self.0.store.forget_partials_before(given_up).await?;
        swept.files = files + self.sweep_files(&known).await?;
        Ok(swept)
    }

    /// Removes the cache's files that have no row: those left by a crash between rename and row, and downloads
    /// that were given up. Files with other names are not the cache's, and stay.
    async fn sweep_files(&self, known: &HashSet<String>) -> Result<usize, CacheError> {
        let mut removed = 0;
        for name in self.names().await? {
            let orphan = if let Some(key) = partial_key(&name) {
                !self.0.flights.contains(key) && self.0.store.partial(name.clone()).await?.is_none()
            } else if let Some(digest) = published_digest(&name) {
                // Publishing holds the lock `room` from the file to its row.
                !known.contains(&name)
                    && !self.0.pins.has(&digest)
                    && self.0.store.image(digest).await?.is_none()
            } else {
                false
            };
            if orphan {
                let file = name.clone();
                self.0.disk.run(move |files| files.remove(&file)).await?;
                removed += 1;
                tracing::info!(
                    component = "cache",
                    file = name,
                    "Removed a file that is not in the cache's index"
                );
            }
        }
        Ok(removed)
    }

    async fn names(&self) -> Result<Vec<String>, CacheError> {
        self.0.disk.run(Files::names).await
    }
}

/// Images in their order, each after its copies.
fn candidates(images: Vec<ImageRow>, copies: &[(UnpackedRow, String)]) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for image in images {
        let own = copies
            .iter()
            .filter(|(copy, _)| copy.digest == image.digest);
        candidates.extend(own.map(|(copy, _)| Candidate::Copy(copy.clone())));
        candidates.push(Candidate::Image(image));
    }
    candidates
}

fn sum(sizes: impl Iterator<Item = u64>) -> i128 {
    sizes.map(i128::from).sum()
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
