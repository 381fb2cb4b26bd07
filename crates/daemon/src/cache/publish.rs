//! The leader's part: a partial file that can be resumed, and its publication.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lvp_api::{ImageType, Sha256Digest};

use super::{Cache, CacheError, PARTIAL_PREFIX, PARTIAL_SUFFIX, Pin, file_name};
use crate::clock;
use crate::job::flight::FlightGuard;
use crate::job::meter::Meter;
use crate::seats::Seat;
use crate::source::ObjectMeta;
use crate::store::{ImageRow, ObjectRow, PartialRow};

/// The right to fetch one object into the cache. Dropping it ends the flight; what is durable of
/// the partial file stays for the next leader.
#[derive(Debug)]
pub struct Lead {
    cache: Cache,
    guard: FlightGuard,
    file_name: String,
    object: ObjectMeta,
    image_type: ImageType,
    sidecar: Option<Sha256Digest>,
    durable_bytes: u64,
    reservation: Reservation,
}

/// Space that a running download, or an image that is being unpacked, still needs.
#[derive(Debug)]
pub(super) struct Reservation {
    all: Arc<AtomicU64>,
    mine: u64,
}

impl Reservation {
    pub(super) fn new(all: &Arc<AtomicU64>, bytes: u64) -> Self {
        all.fetch_add(bytes, Ordering::Relaxed);
        Self {
            all: Arc::clone(all),
            mine: bytes,
        }
    }

    /// Releases bytes that were written, and that the file system now counts as used.
    fn spent(&mut self, bytes: u64) {
        let bytes = bytes.min(self.mine);
        self.mine -= bytes;
        self.all.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.all.fetch_sub(self.mine, Ordering::Relaxed);
    }
}

impl Lead {
    pub(super) async fn new(
        cache: Cache,
        guard: FlightGuard,
        key: String,
        object: &ObjectMeta,
        image_type: ImageType,
        sidecar: Option<Sha256Digest>,
    ) -> Result<Self, CacheError> {
        let file_name = format!("{PARTIAL_PREFIX}{key}{PARTIAL_SUFFIX}");
        let turn = cache.0.room.lock().await;
        // Under the lock, so that the partial file is not removed meanwhile.
        let durable_bytes = cache.resumable(&file_name, object).await?;
        if durable_bytes == 0 {
            // A partial file that cannot be continued only takes up space.
            let name = file_name.clone();
            cache.0.disk.run(move |files| files.remove(&name)).await?;
        }
        let missing = object.size - durable_bytes;
        cache.make_room(missing).await?;
        let reservation = Reservation::new(&cache.0.reserved_bytes, missing);
        drop(turn);
        Ok(Self {
            cache,
            guard,
            file_name,
            object: object.clone(),
            image_type,
            sidecar,
            durable_bytes,
            reservation,
        })
    }

    /// Shows followers the leader's counters.
    pub fn show(&self, meter: Arc<Meter>) {
        self.guard.show(meter);
    }

    /// How many of the object's first bytes are in the partial file already.
    pub fn durable_bytes(&self) -> u64 {
        self.durable_bytes
    }

    /// Whether the object may be joined from several answers: its versions can be told apart, or its digest is
    /// known.
    pub fn can_be_joined(&self) -> bool {
        self.object.strong_validator().is_some() || self.sidecar.is_some()
    }

    /// What is fetched.
    pub fn object(&self) -> &ObjectMeta {
        &self.object
    }

    /// The partial file's path.
    pub fn path(&self) -> PathBuf {
        self.cache.dir().join(&self.file_name)
    }

    /// Opens the partial file, truncated to what is durable, or creates a new one if nothing is.
    pub async fn open(&self) -> Result<File, CacheError> {
        let (name, durable_bytes) = (self.file_name.clone(), self.durable_bytes);
        let disk = &self.cache.0.disk;
        disk.run(move |files| files.partial(&name, durable_bytes))
            .await
    }

    /// Records that the first `bytes` are on the disk: a later attempt continues from there.
    pub async fn durable(&mut self, bytes: u64) -> Result<(), CacheError> {
        self.reservation
            .spent(bytes.saturating_sub(self.durable_bytes));
        self.durable_bytes = bytes;
        // Without a strong validator, it is unknown later whether the object is still the same.
        let Some(etag) = self.object.strong_validator() else {
            return Ok(());
        };
        let partial = PartialRow {
            file_name: self.file_name.clone(),
            image_url: self.object.url.to_string(),
            etag: etag.to_owned(),
            size_bytes: self.object.size,
            durable_bytes: bytes,
        };
        match self
            .cache
            .0
            .store
            .save_partial(partial, clock::now_text())
            .await
        {
            Err(error) if error.is_recoverable() => {
                // Without the record, more is fetched again after a restart; the download need not wait for it.
                let error = crate::error::chain(&error);
                tracing::debug!(
                    component = "cache",
                    error,
                    "The progress of a download was not recorded"
                );
                Ok(())
            }
            saved => Ok(saved?),
        }
    }

    /// The whole object is on the disk, and about to be published. A crash until then costs what came after the last
    /// record ([`durable`](Self::durable)).
    pub fn has_all(&mut self) {
        self.reservation.spent(u64::MAX);
        self.durable_bytes = self.object.size;
    }

    /// Discards the partial file: its bytes are wrong, and must not be continued from.
    pub async fn discard(&mut self) -> Result<(), CacheError> {
        self.durable_bytes = 0;
        self.cache
            .0
            .store
            .forget_partial(self.file_name.clone())
            .await?;
        self.remove_partial().await
    }

    /// Begins with the first byte, whatever is there.
    pub async fn begin_anew(&mut self) -> Result<(), CacheError> {
        if self.durable_bytes == 0 {
            return Ok(());
        }
        self.discard().await?;
        self.reservation.spent(u64::MAX);
        let cache = self.cache.clone();
        let turn = cache.0.room.lock().await;
        cache.make_room(self.object.size).await?;
        self.reservation = Reservation::new(&cache.0.reserved_bytes, self.object.size);
        drop(turn);
        Ok(())
    }

    async fn remove_partial(&self) -> Result<(), CacheError> {
        let name = self.file_name.clone();
        self.cache
            .0
            .disk
            .run(move |files| files.remove(&name))
            .await
    }

    /// Publishes the partial file, whose bytes were just hashed: sync, rename, sync the
    /// directory. The digest must be the sidecar's, if there is one. An image that already exists is kept, so
    /// that its readers continue with the same file. The row follows ([`Published::record`]).
    pub async fn publish(self, file: File, digest: Sha256Digest) -> Result<Published, CacheError> {
        debug_assert!(self.sidecar.is_none_or(|expected| expected == digest));
        let cache = self.cache.clone();
        // So that the same image is not removed meanwhile.
        let _turn = cache.0.room.lock().await;
        // A removal holds the lock, or its caller has gone and the removal is still running.
        let seat = (cache.0.pins.take(digest)).ok_or(CacheError::InUse(digest))?;
        let known = match cache.0.store.image(digest).await? {
            Some(row) => cache.still_right(row).await?,
            None => None,
        };
        let now = clock::now_text();
        let (row, file) = match known {
            Some((row, known)) => {
                self.remove_partial().await?;
                (row, known)
            }
            None => {
                let from = self.file_name.clone();
                let is_synced = self.durable_bytes == self.object.size;
                let published = cache.0.disk.run(move |files| {
                    let stamp = files.publish((&file, is_synced), &from, &file_name(&digest))?;
                    Ok((stamp, file))
                });
                let (stamp, file) = published.await?;
                let row = ImageRow {
                    digest,
                    image_type: self.image_type,
                    stamp,
                    image_url: String::new(),
                    published_at: now.clone(),
                    last_used_at: now.clone(),
                };
                (row, file)
            }
        };
        let row = ImageRow {
            image_type: self.image_type,
            image_url: self.object.url.to_string(),
            last_used_at: now,
            ..row
        };
        let object = self.object.validator().map(|validator| ObjectRow {
            identity: self.object.identity().to_owned(),
            validator: validator.to_owned(),
            size_bytes: self.object.size,
            digest,
        });
        Ok(Published {
            row,
            object,
            seat,
            file,
            lead: self,
        })
    }
}

/// A published file that is not in the index yet. The flight continues until it is; the seat prevents the file
/// from being swept.
#[derive(Debug)]
pub struct Published {
    lead: Lead,
    row: ImageRow,
    object: Option<ObjectRow>,
    seat: Seat<Sha256Digest>,
    file: File,
}

impl Published {
    /// Adds the file to the index; may be repeated if it fails.
    pub async fn record(&self) -> Result<(), CacheError> {
        let store = &self.lead.cache.0.store;
        let partial = self.lead.file_name.clone();
        let recorded = store.publish_image(self.row.clone(), self.object.clone(), partial);
        Ok(recorded.await?)
    }

    /// Ends the flight.
    pub fn into_pin(self) -> Pin {
        let path = self.lead.cache.image_path(&self.row.digest);
        Pin::new(self.seat, path, self.file, self.row.stamp)
    }
}

impl Cache {
    /// How much of an earlier attempt can be used: what was durable then and is there now.
    async fn resumable(&self, file_name: &str, object: &ObjectMeta) -> Result<u64, CacheError> {
        let Some(row) = self.0.store.partial(file_name.to_owned()).await? else {
            return Ok(0);
        };
        let same =
            object.strong_validator() == Some(row.etag.as_str()) && object.size == row.size_bytes;
        let name = file_name.to_owned();
        let length = self.0.disk.run(move |files| files.length(&name)).await?;
        Ok(if same && length >= row.durable_bytes {
            row.durable_bytes
        } else {
            0
        })
    }
}
