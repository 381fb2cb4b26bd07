//! Images on the local disk: found by content, written by one job at a time, never served unverified.
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
//!   bytes were hashed and synced; a file that changed since (size, inode, modification or change
//!   time) is hashed again before it is served.
//! - Invariant: what a job gets does not depend on what is cached. On a hit, the object had this digest when it
//!   was read, and has the same size and validator now; a `.sha256` object only says what the object should be,
//!   not what it is.
//! - Invariant: one flight per object. The second request waits for the first one's file.
//! - Invariant: what is pinned is neither evicted nor deleted; a refused removal changes nothing. Removal and
//!   publication exclude each other.
//! - Invariant: nothing is created, read or forgotten while the directory is not the one from the start.
//!
//! An image that is copied again and again may have an unpacked copy beside it ([`unpacked`]).
//!
//! The index is in the database; files without a row and rows without a file are swept by
//! [`Cache::reconcile`].

mod error;
mod evict;
mod files;
mod home;
mod pin;
mod publish;
mod settings;
mod unpacked;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use lvp_api::{CachedImage, ImageType, Sha256Digest};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex as AsyncMutex;

use crate::clock;
use crate::config::UnpackedUse;
use crate::job::flight::{FlightGuard, Flights, Follower};
use crate::source::ObjectMeta;
use crate::store::{ImageRow, Store};

pub use error::CacheError;
pub use evict::{Swept, Usage};
pub use pin::Pin;
pub use publish::{Lead, Published};
pub use unpacked::{UnpackedDisk, Unpacking};
pub use verify::{each_block, hash_file};

use crate::seats::{Closed, Seats};
use files::{Disk, Files};

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
    /// Images that were not used for this long are evicted.
    pub max_age: Duration,
    /// Most bytes of all images together.
    pub max_size_bytes: Option<u64>,
    /// Bytes to leave free in the file system.
    pub min_free_bytes: u64,
    /// When unpacked copies are made.
    pub unpacked: UnpackedUse,
}

/// The image cache. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: CacheSettings,
    disk: Disk,
    store: Store,
    pins: Arc<Seats<Sha256Digest>>,
    flights: Flights,
    /// Who looks an object up to fetch it, by its identity.
    lookers: Flights,
    /// Bytes that running downloads will still write.
    reserved_bytes: Arc<AtomicU64>,
    /// Held by removal, publication and admission of new downloads, which exclude each other.
    room: AsyncMutex<()>,
    evicted_images: AtomicU64,
}

/// Where an image is to come from.
#[derive(Debug)]
pub enum Lookup {
    /// From the cache.
    Hit(Pin),
    /// From the source: this job fetches it for all jobs.
    Lead(Box<Lead>),
    /// Another job is fetching it: wait, then look again.
    Follow(Follower),
}

/// How a job looks an object up.
#[derive(Debug)]
pub enum Looking {
    /// It is probably on this host.
    Known,
    /// It will probably be fetched, by this job. No other job is told so for as long as this is held; those that look
    /// it up meanwhile wait until it shows that it has the lead.
    First(FlightGuard),
    /// Another job will probably fetch it: wait until it has the lead.
    After(Follower),
}

/// What a job would find now.
#[derive(Debug)]
pub enum Peek {
    /// The image.
    Hit(Pin),
    /// Another job is fetching it.
    Fetching,
    /// Nothing.
    Miss,
}

impl Cache {
    /// Creates the directory if it is absent, and locks it for this process.
    pub fn open(settings: CacheSettings, store: Store) -> Result<Self, CacheError> {
        Ok(Self(Arc::new(Inner {
            disk: Disk::open(&settings.dir)?,
            settings,
            store,
            pins: Arc::default(),
            flights: Flights::default(),
            lookers: Flights::default(),
            reserved_bytes: Arc::default(),
            room: AsyncMutex::default(),
            evicted_images: AtomicU64::default(),
        })))
    }

    /// The cache's directory.
    pub fn dir(&self) -> &Path {
        self.0.disk.dir()
    }

    /// Fails unless the directory exists, is still the cache, and can be written to.
    pub async fn probe(&self) -> Result<(), CacheError> {
        self.0.disk.run(Files::check).await
    }

    /// What a job of this object would find now. Starts nothing.
    pub async fn peek(
        &self,
        object: &ObjectMeta,
        sidecar: Option<Sha256Digest>,
    ) -> Result<Peek, CacheError> {
        let is_fetched = self.0.flights.contains(&object_key(object, sidecar));
        Ok(match self.find_unused(object, sidecar).await? {
            Some(pin) => Peek::Hit(pin),
            None if is_fetched => Peek::Fetching,
            None => Peek::Miss,
        })
    }

    /// How a job is to look up the object with this identity. `has_other` says that it may be on this host elsewhere
    /// than in the cache.
    pub async fn look(&self, identity: &str, has_other: bool) -> Result<Looking, CacheError> {
        let store = &self.0.store;
        let has = match store.object(identity.to_owned()).await? {
            Some(known) => has_other || store.image(known.digest).await?.is_some(),
            None => false,
        };
        if has {
            return Ok(Looking::Known);
        }
        Ok(match self.0.lookers.enter(identity) {
            Ok(guard) => Looking::First(guard),
            Err(first) => Looking::After(first),
        })
    }

    /// How many bytes stay free in the file system.
    pub fn min_free_bytes(&self) -> u64 {
        self.0.settings.min_free_bytes
    }

    /// Most bytes of all images together, if there is a limit.
    pub fn max_size_bytes(&self) -> Option<u64> {
        self.0.settings.max_size_bytes
    }

    /// Finds the image, or makes the caller its leader or a follower.
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
        // Another job may have published it between the look and the entry.
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
        let copies = self.0.store.unpacked_by_use().await?;
        let pins = &self.0.pins;
        Ok(rows
            .into_iter()
            .map(|row| CachedImage {
                key: row.digest.to_string(),
                path: self.image_path(&row.digest).display().to_string(),
                size: row.stamp.size_bytes,
                checksum: row.digest.to_string(),
                in_use: pins.has(&row.digest),
                golden: false,
                unpacked_bytes: copies
                    .iter()
                    .filter(|(copy, _)| copy.digest == row.digest)
                    .map(|(copy, _)| copy.used_bytes)
                    .sum(),
                mod_time: row.published_at,
                last_used: row.last_used_at,
                image_url: row.image_url,
            })
            .collect())
    }

    /// How many images are published.
    pub async fn count(&self) -> Result<u64, CacheError> {
        Ok(self.0.store.count_images().await?)
    }

    /// Deletes one image; false if there is none.
    pub async fn delete(&self, digest: Sha256Digest) -> Result<bool, CacheError> {
        let _turn = self.0.room.lock().await;
        self.probe().await?;
        if self.0.store.image(digest).await?.is_none() {
            return Ok(false);
        }
        self.remove(digest).await?;
        Ok(true)
    }

    /// Removes an image that nobody has pinned: first the row, then the file. The caller holds the lock `room`.
    async fn remove(&self, digest: Sha256Digest) -> Result<(), CacheError> {
        self.0.disk.run(Files::find).await?;
        // Nobody can pin it from here on, and nothing has changed yet.
        let Some(closed) = self.0.pins.close(digest) else {
            return Err(CacheError::InUse(digest));
        };
        self.0.store.forget_image(digest).await?;
        self.remove_closed(closed).await
    }

    /// Removes the files of an image that nobody has pinned, and allows pinning again afterwards.
    async fn remove_closed(&self, closed: Closed<Sha256Digest>) -> Result<(), CacheError> {
        let digest = *closed.of();
        let removed = move |files: &Files| {
            let removed = files
                .remove_all(|name| unpacked::is_disk_of(name, &digest))
                .and_then(|()| files.remove(&file_name(&digest)));
            drop(closed);
            removed
        };
        self.0.disk.run(removed).await
    }

    /// The published image of this object, pinned, if it exists and is intact.
    async fn find(
        &self,
        object: &ObjectMeta,
        sidecar: Option<Sha256Digest>,
    ) -> Result<Option<Pin>, CacheError> {
        let found = self.find_unused(object, sidecar).await?;
        if let Some(pin) = &found {
            let store = &self.0.store;
            store.touch_image(pin.digest(), clock::now_text()).await?;
        }
        Ok(found)
    }

    /// The same, without counting as a use.
    async fn find_unused(
        &self,
        object: &ObjectMeta,
        sidecar: Option<Sha256Digest>,
    ) -> Result<Option<Pin>, CacheError> {
        self.0.disk.run(Files::find).await?;
        let Some(digest) = self.known_digest(object, sidecar).await? else {
            return Ok(None);
        };
        let found = self.pinned(digest).await?;
        Ok(found
            .map(|(pin, _)| pin)
            .filter(|pin| pin.size_bytes() == object.size))
    }

    /// A published image by its digest, pinned, and what is recorded of it; if it exists and is intact.
    pub async fn pin(&self, digest: Sha256Digest) -> Result<Option<(Pin, ImageRow)>, CacheError> {
        self.0.disk.run(Files::find).await?;
        self.pinned(digest).await
    }

    async fn pinned(&self, digest: Sha256Digest) -> Result<Option<(Pin, ImageRow)>, CacheError> {
        // Pinned before the lookup, so that no removal comes in between.
        let Some(seat) = self.0.pins.take(digest) else {
            return Ok(None);
        };
        let Some(row) = self.0.store.image(digest).await? else {
            return Ok(None);
        };
        let Some((row, file)) = self.still_right(row).await? else {
            return Ok(None);
        };
        let path = self.image_path(&digest);
        let pin = Pin::new(seat, path, file, row.stamp);
        Ok(Some((pin, row)))
    }

    /// The digest that this version of the object had when it was read. None if it was not read, if nothing in
    /// the server's answer shows that it is the same version, or if the digest is not the one that it should
    /// have: then the object has to be read.
    pub async fn known_digest(
        &self,
        object: &ObjectMeta,
        sidecar: Option<Sha256Digest>,
    ) -> Result<Option<Sha256Digest>, CacheError> {
        // With a sidecar that gives the same digest, a weak validator is enough.
        let validator = match sidecar {
            Some(_) => object.validator(),
            None => object.strong_validator(),
        };
        let identity = object.identity().to_owned();
        let (Some(validator), Some(known)) = (validator, self.0.store.object(identity).await?)
        else {
            return Ok(None);
        };
        let same = known.validator == validator && known.size_bytes == object.size;
        let wanted = sidecar.is_none_or(|expected| expected == known.digest);
        Ok((same && wanted).then_some(known.digest))
    }

    fn image_path(&self, digest: &Sha256Digest) -> PathBuf {
        self.dir().join(file_name(digest))
    }
}

/// Name of a published image's file.
fn file_name(digest: &Sha256Digest) -> String {
    format!("{digest}{PUBLISHED}")
}

/// The key of flights and partial files: one version of one object, with the digest that it should have.
fn object_key(object: &ObjectMeta, sidecar: Option<Sha256Digest>) -> String {
    let mut hasher = Sha256::new();
    for part in [
        object.identity(),
        object.validator().unwrap_or(""),
        &object.size.to_string(),
        &sidecar.map(|digest| digest.to_string()).unwrap_or_default(),
    ] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digest = Sha256Digest::new(hasher.finalize().into()).to_string();
    digest[..32].to_owned()
}

#[cfg(test)]
mod tests;
