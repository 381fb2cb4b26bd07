//! Images on the local disk: found by what they are, written by one job at a time, never served
//! unless verified.
//!
//! ```text
//!             lookup
//!               |---- published and right ------------------------> Hit(Pin)
//!               |---- a job is fetching it ---> Follow: wait, then look again
//!               '---- nobody is ----> Lead: .lvp-KEY.partial --publish--> DIGEST.img + row
//!                                       '--- dropped: the partial file stays, to be resumed
//! ```
//!
//! - Invariant: a file named by a digest has that digest. It gets the name by rename, after its
//!   bytes were hashed and synced; a file that changed since (size, inode, modification time) is
//!   hashed again before it is served.
//! - Invariant: one flight per object. The second request waits for the first one's file.
//! - Invariant: what is pinned is neither evicted nor deleted.
//!
//! The index is in the database; files without a row and rows without a file are swept by
//! [`Cache::reconcile`].

mod evict;
mod flight;
mod home;
mod publish;
mod verify;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lvp_api::{CachedImage, ImageType, Sha256Digest};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex as AsyncMutex;

use crate::clock;
use crate::source::ObjectMeta;
use crate::store::{ImageRow, Store, StoreError};

pub use evict::{Swept, Usage};
pub use flight::{FlightState, Follower};
pub use publish::Lead;
pub use verify::hash_file;

use crate::lock::LockError;
use flight::Flights;
use home::Home;

/// Ending of a published image's file name.
const PUBLISHED: &str = ".img";
/// Beginning of an unfinished image's file name; hidden, so that libvirt's pool does not list it.
const PARTIAL_PREFIX: &str = ".lvp-";
/// Ending of an unfinished image's file name.
const PARTIAL_SUFFIX: &str = ".partial";

/// What the configuration says about the cache.
#[derive(Debug, Clone)]
pub struct CacheSettings {
    /// The directory.
    pub dir: PathBuf,
    /// Evict what was not used for so long.
    pub max_age: Duration,
    /// Largest sum of images.
    pub max_size_bytes: Option<u64>,
    /// Free space to leave in the file system.
    pub min_free_bytes: u64,
}

/// What went wrong in the cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// A file operation failed.
    #[error("Cannot {action} {}", path.display())]
    File {
        /// What was to be done.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The directory is not there, or not the cache.
    #[error(
        "The cache directory {} {why}: bring it back, or restart the daemon to begin with what is there",
        dir.display()
    )]
    Lost {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another process has the cache, or its lock cannot be had.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// The image does not fit.
    #[error(
        "The cache in {} has {available} bytes to give (after eviction, keeping cache.min_free_bytes \
         and what running jobs have reserved), the image needs {needed}: free space there or raise the limits",
        dir.display()
    )]
    NoRoom {
        /// The cache's directory.
        dir: PathBuf,
        /// What it can give.
        available: u64,
        /// What is needed.
        needed: u64,
    },
    /// The image is being used.
    #[error("Image {0} is in use by a job: wait for it, then delete the image again")]
    InUse(Sha256Digest),
    /// The index does not answer.
    #[error("The cache's index does not answer")]
    Index(#[from] StoreError),
}

impl CacheError {
    fn file(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the disk was full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::File { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            Self::Index(error) => error.is_full(),
            Self::InUse(_) | Self::Lost { .. } | Self::Locked(_) => false,
        }
    }

    /// Whether it may pass without a restart and without any change to what was asked for.
    pub fn may_heal(&self) -> bool {
        match self {
            Self::Lost { .. } | Self::Locked(_) => true,
            Self::Index(error) => error.may_heal(),
            _ => false,
        }
    }
}

/// The image cache. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: CacheSettings,
    home: Home,
    store: Store,
    pins: Mutex<HashMap<Sha256Digest, usize>>,
    flights: Flights,
    /// Bytes that running downloads will still write.
    reserved_bytes: Arc<AtomicU64>,
    /// Eviction and admission of new downloads take turns.
    room: AsyncMutex<()>,
    evicted_images: AtomicU64,
}

/// A published image that stays while this lives.
pub struct Pin {
    cache: Cache,
    digest: Sha256Digest,
    size_bytes: u64,
}

impl Pin {
    /// The image's file.
    pub fn path(&self) -> PathBuf {
        self.cache.image_path(&self.digest)
    }

    /// The image's digest.
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// The file's length.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.cache.pins();
        if let Some(count) = pins.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.digest);
            }
        }
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pin").field(&self.digest).finish()
    }
}

/// Where an image is to come from.
#[derive(Debug)]
pub enum Lookup {
    /// From the cache.
    Hit(Pin),
    /// From the source: this job fetches it for all.
    Lead(Box<Lead>),
    /// Another job is fetching it: wait, then look again.
    Follow(Follower),
}

impl Cache {
    /// Makes the directory if it is absent, and takes it for this process alone.
    pub fn open(settings: CacheSettings, store: Store) -> Result<Self, CacheError> {
        Ok(Self(Arc::new(Inner {
            home: Home::open(settings.dir.clone())?,
            settings,
            store,
            pins: Mutex::default(),
            flights: Flights::default(),
            reserved_bytes: Arc::default(),
            room: AsyncMutex::default(),
            evicted_images: AtomicU64::default(),
        })))
    }

    /// The cache's directory.
    pub fn dir(&self) -> &Path {
        self.0.home.dir()
    }

    /// Whether the directory is there, is still the cache, and can be written to.
    pub async fn probe(&self) -> Result<(), CacheError> {
        let cache = self.clone();
        let looked = tokio::task::spawn_blocking(move || cache.0.home.check());
        looked.await.unwrap_or_else(|error| {
            let error = io::Error::other(error);
            Err(CacheError::file("look at", self.dir(), error))
        })
    }

    /// Finds the image, or makes the caller the one who fetches it.
    pub async fn lookup(
        &self,
        object: &ObjectMeta,
        image_type: ImageType,
        sidecar: Option<Sha256Digest>,
    ) -> Result<Lookup, CacheError> {
        if let Some(pin) = self.find(object, sidecar).await? {
            return Ok(Lookup::Hit(pin));
        }
        let key = object_key(object, sidecar);
        let guard = match self.0.flights.enter(&key) {
            Err(follower) => return Ok(Lookup::Follow(follower)),
            Ok(guard) => guard,
        };
        // A flight may have landed between the look and the take-off.
        if let Some(pin) = self.find(object, sidecar).await? {
            return Ok(Lookup::Hit(pin));
        }
        Lead::new(self.clone(), guard, key, object, image_type, sidecar)
            .await
            .map(|lead| Lookup::Lead(Box::new(lead)))
    }

    /// Published images, the newest first.
    pub async fn list(&self, limit: u32, offset: u32) -> Result<Vec<CachedImage>, CacheError> {
        let rows = self.0.store.images(limit, offset).await?;
        let pins = self.pins();
        Ok(rows
            .into_iter()
            .map(|row| CachedImage {
                key: row.digest.to_string(),
                path: self.image_path(&row.digest).display().to_string(),
                size: row.size_bytes,
                checksum: row.digest.to_string(),
                in_use: pins.contains_key(&row.digest),
                mod_time: row.published_at,
                last_used: row.last_used_at,
                image_url: row.image_url,
            })
            .collect())
    }

    /// Deletes one image; false when there is none.
    pub async fn delete(&self, digest: Sha256Digest) -> Result<bool, CacheError> {
        let _turn = self.0.room.lock().await;
        self.probe().await?;
        if self.0.store.image(digest).await?.is_none() {
            return Ok(false);
        }
        self.remove(digest).await?;
        Ok(true)
    }

    /// Removes an image that nobody has pinned: first the row, so that nobody finds it, then the file.
    async fn remove(&self, digest: Sha256Digest) -> Result<(), CacheError> {
        // A pin taken from here on finds no row; one taken before is seen here.
        self.0.store.forget_image(digest).await?;
        if self.pins().contains_key(&digest) {
            let path = self.image_path(&digest);
            let row = verify::row_of(&path, digest)
                .map_err(|error| CacheError::file("look at the cached image", &path, error))?;
            self.0.store.refresh_image(row).await?;
            return Err(CacheError::InUse(digest));
        }
        let path = self.image_path(&digest);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(CacheError::file("remove the cached image", &path, error))
            }
            _ => Ok(()),
        }
    }

    /// The published image of this object, pinned, if it is there and right.
    async fn find(
        &self,
        object: &ObjectMeta,
        sidecar: Option<Sha256Digest>,
    ) -> Result<Option<Pin>, CacheError> {
        let digest = match (sidecar, &object.etag) {
            (Some(digest), _) => Some(digest),
            (None, Some(etag)) => {
                let url = object.url.to_string();
                self.0
                    .store
                    .object_digest(url, etag.clone(), object.size)
                    .await?
            }
            (None, None) => None,
        };
        let Some(digest) = digest else {
            return Ok(None);
        };
        // The pin comes before the look, so that no eviction comes between.
        let mut pin = self.pin(digest, 0);
        let Some(row) = self.0.store.image(digest).await? else {
            return Ok(None);
        };
        let Some(row) = self.still_right(row).await? else {
            return Ok(None);
        };
        self.0.store.touch_image(digest, clock::now_text()).await?;
        pin.size_bytes = row.size_bytes;
        Ok(Some(pin))
    }

    fn pin(&self, digest: Sha256Digest, size_bytes: u64) -> Pin {
        *self.pins().entry(digest).or_insert(0) += 1;
        Pin {
            cache: self.clone(),
            digest,
            size_bytes,
        }
    }

    fn pins(&self) -> MutexGuard<'_, HashMap<Sha256Digest, usize>> {
        // Counts that no panic can leave half-changed.
        self.0.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn image_path(&self, digest: &Sha256Digest) -> PathBuf {
        self.dir().join(format!("{digest}{PUBLISHED}"))
    }
}

/// Names one version of one object: what flights and partial files go by.
fn object_key(object: &ObjectMeta, sidecar: Option<Sha256Digest>) -> String {
    let mut hasher = Sha256::new();
    match sidecar {
        Some(digest) => hasher.update(digest.as_bytes()),
        None => hasher.update(object.url.to_string()),
    }
    for part in [
        object.etag.as_deref().unwrap_or(""),
        &object.size.to_string(),
    ] {
        hasher.update([0]);
        hasher.update(part);
    }
    let digest = Sha256Digest::new(hasher.finalize().into()).to_string();
    digest[..32].to_owned()
}

#[cfg(test)]
mod tests;
