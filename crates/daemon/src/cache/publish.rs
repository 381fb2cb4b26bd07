//! The leader's part: a partial file that can be resumed, and its publication.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lvp_api::{ImageType, Sha256Digest};

use super::flight::FlightGuard;
use super::{Cache, CacheError, PARTIAL_PREFIX, PARTIAL_SUFFIX, Pin, verify};
use crate::clock;
use crate::jobs::progress::Meter;
use crate::source::ObjectMeta;
use crate::store::{ImageRow, PartialRow};

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

/// Space that a running download will still take.
#[derive(Debug)]
struct Reservation {
    all: Arc<AtomicU64>,
    mine: u64,
}

impl Reservation {
    fn new(all: &Arc<AtomicU64>, bytes: u64) -> Self {
        all.fetch_add(bytes, Ordering::Relaxed);
        Self {
            all: Arc::clone(all),
            mine: bytes,
        }
    }

    /// So many bytes are written and show in the file system's own numbers from now on.
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
        // In turn with those who remove partial files: what is counted on here stays.
        let durable_bytes = cache.resumable(&file_name, object).await?;
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

    /// What is fetched.
    pub fn object(&self) -> &ObjectMeta {
        &self.object
    }

    /// The partial file's path.
    pub fn path(&self) -> PathBuf {
        self.cache.dir().join(&self.file_name)
    }

    /// Opens the partial file, cut to what is durable.
    pub fn open(&self) -> Result<File, CacheError> {
        let path = self.path();
        let failed = |action| move |error| CacheError::file(action, &path, error);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            // What is to be gone on with must be there: an empty file would read as zeros.
            .create(self.durable_bytes == 0)
            .truncate(false)
            .mode(0o640)
            .open(self.path())
            .map_err(failed.clone()("open the partial image"))?;
        file.set_len(self.durable_bytes)
            .map_err(failed("cut the partial image"))?;
        Ok(file)
    }

    /// Notes that the first `bytes` are on the disk: a later attempt goes on from there.
    pub async fn durable(&mut self, bytes: u64) -> Result<(), CacheError> {
        self.reservation
            .spent(bytes.saturating_sub(self.durable_bytes));
        self.durable_bytes = bytes;
        // Without an ETag nobody can tell whether it is still the same object.
        let Some(etag) = self.object.etag.clone() else {
            return Ok(());
        };
        let partial = PartialRow {
            file_name: self.file_name.clone(),
            image_url: self.object.url.to_string(),
            etag,
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
            Err(error) if error.may_heal() => {
                // What is not noted is fetched again after a restart; the download need not wait for it.
                let error = crate::jobs::error::chain(&error);
                tracing::debug!(
                    component = "cache",
                    error,
                    "A download's progress is not noted"
                );
                Ok(())
            }
            saved => Ok(saved?),
        }
    }

    /// Throws the partial file away: its bytes are the wrong ones, nobody may go on from them.
    pub async fn discard(&mut self) -> Result<(), CacheError> {
        self.durable_bytes = 0;
        self.cache
            .0
            .store
            .forget_partial(self.file_name.clone())
            .await?;
        remove_if_there(&self.path())
    }

    /// Publishes the partial file, whose bytes were just hashed: sync, rename, sync the
    /// directory. The digest must be the sidecar's, if there is one. The row follows
    /// ([`Published::record`]).
    pub async fn publish(self, file: File, digest: Sha256Digest) -> Result<Published, CacheError> {
        debug_assert!(self.sidecar.is_none_or(|expected| expected == digest));
        let (from, to) = (self.path(), self.cache.image_path(&digest));
        // Before the file has its name, so that nobody sweeps it.
        let mut pin = self.cache.pin(digest, 0);
        let mut row =
            tokio::task::spawn_blocking(move || rename_durably(&file, &from, &to, digest))
                .await
                .map_err(|error| {
                    CacheError::file("publish", self.cache.dir(), std::io::Error::other(error))
                })??;
        row.image_type = self.image_type;
        row.image_url = self.object.url.to_string();
        row.published_at = clock::now_text();
        row.last_used_at.clone_from(&row.published_at);
        pin.size_bytes = row.size_bytes;
        Ok(Published {
            lead: self,
            row,
            pin,
        })
    }
}

/// A published file that is not in the index yet. The flight goes on until it is.
#[derive(Debug)]
pub struct Published {
    lead: Lead,
    row: ImageRow,
    pin: Pin,
}

impl Published {
    /// Puts the file into the index; may be repeated when it fails.
    pub async fn record(&self) -> Result<(), CacheError> {
        let Lead {
            cache,
            object,
            file_name,
            ..
        } = &self.lead;
        let url = object.url.to_string();
        let recorded = cache.0.store.publish_image(
            self.row.clone(),
            url,
            object.etag.clone(),
            file_name.clone(),
        );
        Ok(recorded.await?)
    }

    /// Ends the flight.
    pub fn into_pin(self) -> Pin {
        self.pin
    }
}

impl Cache {
    /// How much of an earlier attempt can be used: what was durable then and is there now.
    async fn resumable(&self, file_name: &str, object: &ObjectMeta) -> Result<u64, CacheError> {
        let Some(row) = self.0.store.partial(file_name.to_owned()).await? else {
            return Ok(0);
        };
        let same = object.etag.as_ref() == Some(&row.etag) && object.size == row.size_bytes;
        let length = std::fs::metadata(self.dir().join(file_name)).map_or(0, |meta| meta.len());
        Ok(if same && length >= row.durable_bytes {
            row.durable_bytes
        } else {
            0
        })
    }
}

fn rename_durably(
    file: &File,
    from: &Path,
    to: &Path,
    digest: Sha256Digest,
) -> Result<ImageRow, CacheError> {
    file.sync_all()
        .map_err(|error| CacheError::file("sync the image", from, error))?;
    std::fs::rename(from, to).map_err(|error| match (error.kind(), from.parent()) {
        // Its directory was replaced under it, or somebody removed it: it has to be fetched again.
        (std::io::ErrorKind::NotFound, Some(dir)) => CacheError::Lost {
            dir: dir.to_owned(),
            why: "has lost the file of a download",
        },
        _ => CacheError::file("publish the image as", to, error),
    })?;
    sync_directory(to)?;
    verify::row_of(to, digest).map_err(|error| CacheError::file("look at the image", to, error))
}

/// Makes a rename in the file's directory durable.
fn sync_directory(file: &Path) -> Result<(), CacheError> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .map_err(|error| CacheError::file("sync the cache directory", directory, error))
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), CacheError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(CacheError::file("remove", path, error))
        }
        _ => Ok(()),
    }
}
