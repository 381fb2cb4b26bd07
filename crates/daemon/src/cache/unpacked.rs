//! Unpacked copies: the disk of a cached image as a sparse file beside it, from which a volume is copied at the
//! disk's speed, without decoding anything.
//!
//! ```text
//! enter_unpacking --lead--> begin (room) --> .lvp-DIGEST-TYPE.disk.partial --publish--> .lvp-DIGEST-TYPE.disk + row
//!        '-- follow                             '--- dropped, or a crash: swept like any partial file
//! ```
//!
//! - Invariant: a copy belongs to an image that is in the index, and goes before it or with it.
//! - Invariant: a file gets its name by rename, after its bytes were made from bytes with the image's digest and were
//!   synced. One that has changed since, by its stamp, is removed and never read: it costs less to make it again than
//!   to find out whether it is right.
//! - Invariant: nothing removes a copy while a job has its image pinned.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use lvp_api::{ImageType, Sha256Digest};

use super::publish::Reservation;
use super::{Cache, CacheError, PARTIAL_PREFIX, PARTIAL_SUFFIX, Pin};
use crate::clock;
use crate::config::UnpackedUse;
use crate::job::flight::{FlightGuard, Follower};
use crate::stamp::FileStamp;
use crate::store::UnpackedRow;

/// Ending of a copy's file name.
const DISK: &str = ".disk";

/// With `cache.unpacked: auto`, a copy makes room for another one only if no job has used its image for this long.
/// Otherwise images that are used in turn would remove each other's copies.
const IDLE: Duration = Duration::from_secs(3600);

/// An unpacked copy, as it was verified. It stays while its image is pinned.
#[derive(Debug)]
pub struct UnpackedDisk {
    file: File,
    path: PathBuf,
    row: UnpackedRow,
}

impl UnpackedDisk {
    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its path, for display.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// The space that it takes, which is about the disk's data.
    pub fn used_bytes(&self) -> u64 {
        self.row.used_bytes
    }

    /// Whether nobody has written to it since it was verified. Blocks.
    pub fn is_unchanged(&self) -> std::io::Result<bool> {
        Ok(FileStamp::of(&self.file)? == self.row.stamp)
    }
}

/// The right to make a copy, and the room for it. Its image must stay pinned.
#[derive(Debug)]
pub struct Unpacking {
    cache: Cache,
    digest: Sha256Digest,
    image_type: ImageType,
    _guard: FlightGuard,
    _reservation: Reservation,
}

impl Cache {
    /// What the configuration says about unpacked copies.
    pub fn unpacked_use(&self) -> UnpackedUse {
        self.0.settings.unpacked
    }

    /// The unpacked copy of a pinned image, if there is one; one that has changed is removed.
    pub async fn unpacked(
        &self,
        pin: &Pin,
        image_type: ImageType,
    ) -> Result<Option<UnpackedDisk>, CacheError> {
        if self.unpacked_use() == UnpackedUse::Never {
            return Ok(None);
        }
        let digest = pin.digest();
        let Some(row) = self.0.store.unpacked(digest, image_type).await? else {
            return Ok(None);
        };
        let name = disk_name(&digest, image_type);
        let path = self.dir().join(&name);
        let read = name.clone();
        let found = self.0.disk.run(move |files| files.read(&read)).await?;
        let why = match found {
            Some((file, stamp)) if stamp == row.stamp => {
                return Ok(Some(UnpackedDisk { file, path, row }));
            }
            Some(_) => "has changed on the disk",
            None => "is missing on the disk",
        };
        tracing::warn!(
            component = "cache", path = %path.display(),
            "The unpacked copy of an image {why}; it is not used, and will be made again when it is worth it"
        );
        self.0.store.forget_unpacked(digest, image_type).await?;
        self.0.disk.run(move |files| files.remove(&name)).await?;
        Ok(None)
    }

    /// Takes the lead in unpacking a pinned image, or follows whoever has it.
    pub fn enter_unpacking(
        &self,
        pin: &Pin,
        image_type: ImageType,
    ) -> Result<FlightGuard, Follower> {
        self.0.flights.enter(&disk_key(&pin.digest(), image_type))
    }

    /// Counts a volume that is copied from an image; returns how many there were with it.
    pub async fn count_copy(&self, pin: &Pin) -> Result<u64, CacheError> {
        Ok(self.0.store.count_copy(pin.digest()).await?)
    }

    /// Finds room for a copy of a pinned image that takes so many bytes, as `cache.unpacked` says.
    pub async fn begin_unpacking(
        &self,
        pin: &Pin,
        image_type: ImageType,
        guard: FlightGuard,
        bytes: u64,
    ) -> Result<Unpacking, CacheError> {
        let _turn = self.0.room.lock().await;
        match self.unpacked_use() {
            UnpackedUse::Always => self.make_room(bytes).await?,
            _ => self.make_room_of_idle(bytes).await?,
        }
        Ok(Unpacking {
            digest: pin.digest(),
            image_type,
            _guard: guard,
            _reservation: Reservation::new(&self.0.reserved_bytes, bytes),
            cache: self.clone(),
        })
    }

    /// Makes room without removing an image, or a copy whose image is in use these days.
    async fn make_room_of_idle(&self, needed: u64) -> Result<(), CacheError> {
        let oldest = clock::text(clock::now() - IDLE);
        let mut idle = self.0.store.unpacked_by_use().await?;
        idle.retain(|(row, used_at)| *used_at < oldest && !self.0.pins.has(&row.digest));
        let freed = idle.iter().map(|(row, _)| i128::from(row.used_bytes)).sum();
        let used = i128::from(self.usage().await?.size_bytes);
        let at_most = self.room(used - freed, freed).await?;
        if at_most < i128::from(needed) {
            return Err(self.no_room(at_most, needed));
        }
        let mut idle = idle.into_iter();
        loop {
            let used = i128::from(self.usage().await?.size_bytes);
            let room = self.room(used, 0).await?;
            if room >= i128::from(needed) {
                return Ok(());
            }
            let Some((row, _)) = idle.next() else {
                return Err(self.no_room(room, needed));
            };
            self.remove_unpacked(&row).await?;
        }
    }

    /// Removes a copy whose image nobody has pinned; false if somebody has. The caller holds the lock `room`.
    pub(super) async fn remove_unpacked(&self, row: &UnpackedRow) -> Result<bool, CacheError> {
        let Some(_closed) = self.0.pins.close(row.digest) else {
            return Ok(false);
        };
        let (digest, image_type) = (row.digest, row.image_type);
        self.0.store.forget_unpacked(digest, image_type).await?;
        let name = disk_name(&digest, image_type);
        self.0.disk.run(move |files| files.remove(&name)).await?;
        tracing::info!(
            component = "cache", %digest, size_bytes = row.used_bytes,
            "Removed the unpacked copy of an image"
        );
        Ok(true)
    }

    /// Removes copies that are no longer wanted, and makes files and rows agree; returns how many files and rows it
    /// removed. The caller holds the lock `room`.
    pub(super) async fn reconcile_unpacked(
        &self,
        names: &HashSet<String>,
    ) -> Result<(usize, usize), CacheError> {
        let (mut files, mut rows) = (0, 0);
        let mut known = HashSet::new();
        for (row, _) in self.0.store.unpacked_by_use().await? {
            let name = disk_name(&row.digest, row.image_type);
            if !names.contains(&name) {
                self.0
                    .store
                    .forget_unpacked(row.digest, row.image_type)
                    .await?;
                rows += 1;
            } else if self.unpacked_use() == UnpackedUse::Never
                && self.remove_unpacked(&row).await?
            {
                files += 1;
            } else {
                known.insert(name);
            }
        }
        for name in names.iter().filter(|name| is_disk(name)) {
            // Publishing holds the lock `room` from the file to its row.
            if !known.contains(name) {
                let file = name.clone();
                self.0.disk.run(move |files| files.remove(&file)).await?;
                files += 1;
            }
        }
        Ok((files, rows))
    }
}

impl Unpacking {
    /// The copy's unfinished file, for display.
    pub fn path(&self) -> PathBuf {
        self.cache.dir().join(self.partial())
    }

    fn partial(&self) -> String {
        let key = disk_key(&self.digest, self.image_type);
        format!("{PARTIAL_PREFIX}{key}{PARTIAL_SUFFIX}")
    }

    /// The file to unpack to, which is empty.
    pub async fn open(&self) -> Result<File, CacheError> {
        let name = self.partial();
        let disk = &self.cache.0.disk;
        disk.run(move |files| files.partial(&name, 0)).await
    }

    /// Publishes the file, which has the disk's bytes: sync, rename, sync the directory, and the row.
    pub async fn publish(self, file: File) -> Result<UnpackedDisk, CacheError> {
        let cache = &self.cache;
        let _turn = cache.0.room.lock().await;
        let (from, name) = (self.partial(), disk_name(&self.digest, self.image_type));
        let path = cache.dir().join(&name);
        let published = cache.0.disk.run(move |files| {
            let stamp = files.publish((&file, false), &from, &name)?;
            let used_bytes = files.used_bytes(&file, &name)?;
            Ok((file, stamp, used_bytes))
        });
        let (file, stamp, used_bytes) = published.await?;
        let row = UnpackedRow {
            digest: self.digest,
            image_type: self.image_type,
            used_bytes,
            stamp,
        };
        cache.0.store.save_unpacked(row.clone()).await?;
        Ok(UnpackedDisk { file, path, row })
    }

    /// Removes the unfinished file.
    pub async fn give_up(self) -> Result<(), CacheError> {
        let name = self.partial();
        let disk = &self.cache.0.disk;
        disk.run(move |files| files.remove(&name)).await
    }
}

/// The key of a copy's flight and partial file.
fn disk_key(digest: &Sha256Digest, image_type: ImageType) -> String {
    format!("{digest}-{image_type}{DISK}")
}

/// Name of a copy's file; hidden, so that libvirt's pool does not list it.
fn disk_name(digest: &Sha256Digest, image_type: ImageType) -> String {
    format!("{PARTIAL_PREFIX}{}", disk_key(digest, image_type))
}

/// Whether this is the name of a copy's file, of this image or of any.
fn is_disk(name: &str) -> bool {
    let key = name
        .strip_prefix(PARTIAL_PREFIX)
        .and_then(|rest| rest.strip_suffix(DISK));
    let parts = key.and_then(|key| key.split_once('-'));
    parts.is_some_and(|(digest, image_type)| {
        digest.parse::<Sha256Digest>().is_ok() && image_type.parse::<ImageType>().is_ok()
    })
}

/// Whether this is the name of a copy's file of this image.
pub(super) fn is_disk_of(name: &str, digest: &Sha256Digest) -> bool {
    is_disk(name) && name.starts_with(&format!("{PARTIAL_PREFIX}{digest}-"))
}

/// Whether a partial file's key is that of a copy that is being made.
pub(super) fn is_disk_key(key: &str) -> bool {
    key.ends_with(DISK)
}
