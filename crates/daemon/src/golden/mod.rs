//! Golden volumes: one for each image, from which volumes with that image are cloned.
//!
//! ```text
//!         find
//!           |---- sound -------------------------------> Held: stays while it is cloned
//!           |---- absent, or with a flaw
//!         enter
//!           |---- a job is making it ---> Follow: wait, then look again
//!           '---- nobody is ------------> make, write, seal --> Held
//! ```
//!
//! The back end decides which golden volumes exist and can be used ([`Golden::flaw`]). The database adds what
//! only the daemon knows: where the image came from, how many clones were made, and when the last one was.
//!
//! - Invariant: one flight per golden volume. The second job waits for the first one's.
//! - Invariant: what is held or being made is not removed.
//! - Invariant: no request is refused for lack of room while there is a golden volume that nobody holds.

pub mod content;
mod room;
mod settings;
mod verify;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use lvp_api::{JobId, Sha256Digest, Sha512Digest, VolumeName};
use tokio::sync::Mutex as AsyncMutex;

use crate::clock;
use crate::job::flight::{FlightGuard, Flights, Follower};
use crate::seats::{Seat, Seats};
use crate::store::{GoldenRow, Store, StoreError};
use crate::volume::{Clones, Content, Golden, GoldenKey, Volume, VolumeError, Volumes};

pub use room::Usage;
pub use settings::GoldenSettings;
pub use verify::{Basis, Disk, Needed};

/// An error of golden volumes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoldenError {
    /// The back end cannot clone.
    #[error("Volumes cannot be cloned here: {0}")]
    Unavailable(String),
    /// A job is making it or cloning it.
    #[error("Golden volume {0} is in use by a job: wait for it, then delete it again")]
    InUse(Sha256Digest),
    /// The back end failed.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The database failed.
    #[error("The database's records of golden volumes cannot be read or written")]
    Store(#[from] StoreError),
}

/// All golden volumes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shelf(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: GoldenSettings,
    volumes: Arc<dyn Volumes>,
    store: Store,
    seats: Arc<Seats<GoldenKey>>,
    flights: Flights,
    /// Serialises removals.
    turn: AsyncMutex<()>,
    dropped: AtomicU64,
}

/// A usable golden volume, which is not removed while this lives.
#[derive(Debug)]
pub struct Held {
    golden: Golden,
    _seat: Seat<GoldenKey>,
}

impl Held {
    /// The volume.
    pub fn golden(&self) -> &Golden {
        &self.golden
    }
}

/// A golden volume, and what is known about it.
#[derive(Debug)]
pub struct Entry {
    /// What the back end says.
    pub golden: Golden,
    /// What the database has.
    pub row: Option<GoldenRow>,
    /// Whether a job is making or cloning it.
    pub in_use: bool,
}

/// Where the image of a new golden volume came from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Without credentials.
    pub image_url: String,
    /// SHA-512 of its bytes, if that was compared.
    pub sha512: Option<Sha512Digest>,
}

impl Shelf {
    /// The golden volumes of this back end.
    pub fn new(settings: GoldenSettings, volumes: Arc<dyn Volumes>, store: Store) -> Self {
        Self(Arc::new(Inner {
            settings,
            volumes,
            store,
            seats: Arc::default(),
            flights: Flights::default(),
            turn: AsyncMutex::default(),
            dropped: AtomicU64::default(),
        }))
    }

    /// The back end's cloning, if it has any.
    async fn clones(&self) -> Result<&dyn Clones, GoldenError> {
        self.0
            .volumes
            .clones()
            .await
            .map_err(GoldenError::Unavailable)
    }

    /// The image's golden volume, if there is a usable one.
    pub async fn find(&self, key: &GoldenKey) -> Result<Option<Held>, GoldenError> {
        let clones = self.clones().await?;
        // Held before the lookup, so that no removal comes in between.
        let Some(seat) = self.0.seats.take(*key) else {
            return Ok(None);
        };
        let golden = clones.find_golden(key).await?;
        Ok(golden.and_then(|golden| self.held(golden, seat)))
    }

    /// The same, and the volume of the name that is to be its clone, in one look.
    pub async fn find_and(
        &self,
        key: &GoldenKey,
        name: &VolumeName,
    ) -> Result<Option<(Held, Option<Volume>)>, GoldenError> {
        let clones = self.clones().await?;
        let Some(seat) = self.0.seats.take(*key) else {
            return Ok(None);
        };
        let (golden, volume) = clones.find_golden_and(key, name).await?;
        let held = golden.and_then(|golden| self.held(golden, seat));
        Ok(held.map(|held| (held, volume)))
    }

    fn held(&self, golden: Golden, seat: Seat<GoldenKey>) -> Option<Held> {
        if let Some(flaw) = &golden.flaw {
            let name = &golden.volume.name;
            if !self.0.flights.contains(name.as_str()) {
                tracing::warn!(
                    component = "golden", volume = %name, flaw,
                    "A golden volume cannot be used; it will be made anew"
                );
            }
            return None;
        }
        Some(Held {
            golden,
            _seat: seat,
        })
    }

    /// Takes the lead in making an image's golden volume, or follows whoever has it.
    pub fn enter(&self, key: &GoldenKey) -> Result<FlightGuard, Follower> {
        self.0.flights.enter(key.volume_name().as_str())
    }

    /// Creates the golden volume, in place of one with a flaw. The caller has the lead.
    pub async fn make(
        &self,
        key: &GoldenKey,
        size_bytes: u64,
        job: JobId,
    ) -> Result<Volume, GoldenError> {
        let clones = self.clones().await?;
        {
            let _turn = self.0.turn.lock().await;
            if let Some(flawed) = clones.find_golden(key).await? {
                clones.remove_golden(&flawed).await?;
                self.0.store.forget_golden(*key).await?;
            }
        }
        self.with_room(|| clones.make_golden(key, size_bytes, job))
            .await
    }

    /// Marks the volume as finished, and holds it. The caller still has the lead.
    pub async fn seal(
        &self,
        volume: &Volume,
        key: &GoldenKey,
        job: JobId,
        content: &Content,
        origin: Origin,
    ) -> Result<Held, GoldenError> {
        let clones = self.clones().await?;
        // A golden volume that is being made is not removed, so the seat is free.
        let seat = self.0.seats.take(*key);
        let seat = seat.ok_or(GoldenError::InUse(key.digest))?;
        let golden = clones.seal(volume, key, job, content).await?;
        let now = clock::now_text();
        let row = GoldenRow {
            key: *key,
            image_url: origin.image_url,
            sha512: origin.sha512,
            clones: 0,
            made_at: now.clone(),
            last_used_at: now,
        };
        self.0.store.save_golden(row).await?;
        tracing::info!(
            component = "golden", volume = %golden.volume.name, job_id = %job,
            size_bytes = content.size_bytes, "Made a golden volume"
        );
        self.keep_bounds().await?;
        Ok(Held {
            golden,
            _seat: seat,
        })
    }

    /// Removes a golden volume that could not be finished. The caller still has the lead.
    pub async fn give_up(&self, volume: &Volume, job: JobId) {
        let removed = self.0.volumes.remove_created(&volume.name, job).await;
        if let Err(error) = removed {
            // `reconcile` tries again at the next interval.
            tracing::warn!(
                component = "golden", volume = %volume.name, job_id = %job,
                error = crate::error::chain(&error),
                "An unfinished golden volume cannot be removed"
            );
        }
    }

    /// The SHA-512 of an image that has a golden volume, if it is known.
    pub async fn sha512(&self, key: &GoldenKey) -> Result<Option<Sha512Digest>, GoldenError> {
        let row = self.0.store.golden(*key).await?;
        Ok(row.and_then(|row| row.sha512))
    }

    /// Records the SHA-512 that an image was found to have.
    pub async fn learned_sha512(
        &self,
        key: &GoldenKey,
        sha512: Sha512Digest,
    ) -> Result<(), GoldenError> {
        if let Some(row) = self.0.store.golden(*key).await? {
            let row = GoldenRow {
                sha512: Some(sha512),
                ..row
            };
            self.0.store.save_golden(row).await?;
        }
        Ok(())
    }

    /// Counts a clone.
    pub async fn cloned(&self, held: &Held) -> Result<(), GoldenError> {
        let now = clock::now_text();
        Ok(self.0.store.golden_cloned(held.golden.key, now).await?)
    }

    /// All golden volumes, the longest unused first; those without a row come before them.
    pub async fn list(&self) -> Result<Vec<Entry>, GoldenError> {
        let found = self.clones().await?.golden().await?;
        let rows = self.0.store.golden_by_use().await?;
        let mut entries: Vec<_> = found
            .into_iter()
            .map(|golden| {
                let row = rows.iter().position(|row| row.key == golden.key);
                let entry = Entry {
                    in_use: self.is_in_use(&golden.key),
                    row: row.map(|index| rows[index].clone()),
                    golden,
                };
                (row, entry)
            })
            .collect();
        entries.sort_by_key(|(row, _)| *row);
        Ok(entries.into_iter().map(|(_, entry)| entry).collect())
    }

    /// The digests of the images that had golden volumes at the last look.
    pub async fn digests(&self) -> Result<HashSet<String>, GoldenError> {
        let rows = self.0.store.golden_by_use().await?;
        Ok(rows.iter().map(|row| row.key.digest.to_string()).collect())
    }

    fn is_in_use(&self, key: &GoldenKey) -> bool {
        self.0.seats.has(key) || self.0.flights.contains(key.volume_name().as_str())
    }
}
