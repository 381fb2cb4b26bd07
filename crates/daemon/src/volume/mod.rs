//! Volumes: where images are written to.
//!
//! Two back ends, [`lvm`] (logical volumes) and [`dir`] (sparse files), behind [`Volumes`]. Both
//! keep the state of a volume *with the volume*, not in the daemon's database: in LVM's tags, or in a file
//! beside the volume's. Every back end passes the same suite of tests (`tests/volumes/contract`); only
//! `backend` knows which one is configured.
//!
//! ```text
//!            create(job)                          mark_ready(job, made)
//! (absent) ------------> populating, created by job ------------> ready(digest)
//!    ^                     |   ^                                    |   ^
//!    '-- remove_created ---'   '------- mark_populating(job) -------'   |
//!                              ^   |                                    |
//!                   adopted ---'   '-- leave(job), nothing written -----'   (or to what it was)
//!                      ^
//! untagged -- adopt ---'   (somebody else's: only when it is said to be meant)
//! ```
//!
//! - Invariant: a volume is marked `populating` durably before its first byte changes, and `ready` only once
//!   its bytes are durable. A crash at any instant leaves it absent, populating or correct.
//! - Invariant: only a volume that is populating *and* was created by the job that asks is ever removed. A
//!   second job that takes over an unfinished volume did not create it.
//! - Invariant: a volume's `ready` mark includes the job that finished it, and the one that ended last without
//!   writing it. By these, a job from a database that may be an old copy is checked to have been accepted after
//!   the volume had become ready (`jobs::standing`).
//! - Invariant: nothing is written to a volume that is in use, that belongs to somebody else, or whose path
//!   leads to another device ([`Volumes::mark_populating`] and [`Volumes::open`]).
//!
//! Only one job at a time works on a volume; the job queue ensures that, not this module.

use std::fmt::Debug;
use std::fs::File;
use std::path::PathBuf;

use async_trait::async_trait;
use lvp_api::{Expand, JobId, Sha256Digest, Signer, VolumeInfo, VolumeKind, VolumeName};

mod backend;
pub mod clones;
pub mod dir;
mod error;
mod fit;
pub mod lvm;
pub mod room;

pub use backend::{Place, at, open, place};
pub use clones::{Clones, Content, Golden, GoldenKey};
pub use error::{VolumeError, VolumeErrorKind};
pub use fit::fits;
pub use room::{Need, PoolUsage, Reservation};

/// The state of a volume, according to its own mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeState {
    /// No mark of this program, or none that can be understood.
    Untagged,
    /// Somebody handed it over to this program, which has not written it yet.
    Adopted,
    /// A job is writing it, or was writing it when the job or the daemon ended.
    Populating {
        /// The job.
        job: JobId,
        /// Whether that job also created the volume, so that it may remove it.
        created: bool,
    },
    /// It holds an image, verified and durable.
    Ready {
        /// The job that wrote it.
        job: Option<JobId>,
        /// SHA-256 of the image's bytes.
        digest: Sha256Digest,
    },
}

/// A volume as it was when it was looked up.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    /// The block device or file.
    pub path: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// What it says of itself.
    pub state: VolumeState,
    /// The last job that ended without writing it since it became ready.
    pub last_ended: Option<JobId>,
    /// What it is made of, if that is known.
    pub kind: Option<VolumeKind>,
    /// Its content when it became ready, if that was recorded.
    pub content: Option<Content>,
    /// Whether its backup GPT was moved to its end when it became ready.
    pub expanded: bool,
    /// Whose signature its image had, if that was verified.
    pub signer: Option<Signer>,
    /// What the back end needs to recognise it.
    pub(crate) identity: Identity,
}

impl Volume {
    /// A volume of a back end outside this crate, recognised by its name only.
    pub fn new(name: VolumeName, path: PathBuf, size_bytes: u64, state: VolumeState) -> Self {
        Self {
            name,
            path,
            size_bytes,
            state,
            last_ended: None,
            kind: None,
            content: None,
            expanded: false,
            signer: None,
            identity: Identity::Name,
        }
    }

    /// The volume as clients see it.
    pub fn info(self) -> VolumeInfo {
        let (state, job_id, image_digest) = match self.state {
            VolumeState::Untagged => ("untagged", None, None),
            VolumeState::Adopted => ("adopted", None, None),
            VolumeState::Populating { job, .. } => ("populating", Some(job), None),
            VolumeState::Ready { job, digest } => ("ready", job, Some(digest)),
        };
        VolumeInfo {
            name: self.name,
            path: self.path.display().to_string(),
            size_bytes: self.size_bytes,
            state: state.to_owned(),
            image_digest: image_digest.map(|digest| digest.to_string()),
            job_id: job_id.map(|job| job.to_string()),
            kind: self.kind,
            expanded: self.expanded.then_some(Expand::Gpt),
            signer: self.signer,
        }
    }
}

/// What a volume says of itself from when it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// SHA-256 of the image's bytes.
    pub digest: Sha256Digest,
    /// Whether its backup GPT was moved to its end.
    pub expanded: bool,
    /// Whose signature the image had, if that was verified.
    pub signer: Option<Signer>,
}

impl From<Sha256Digest> for Made {
    fn from(digest: Sha256Digest) -> Self {
        Self {
            digest,
            expanded: false,
            signer: None,
        }
    }
}

/// Distinguishes a volume from another that has the same name later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The LV's UUID.
    Lvm { uuid: String },
    /// The file itself, not its name.
    File(dir::FileIdentity),
    /// Nothing but the name.
    Name,
}

/// Space in the back end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// All of it.
    pub total_bytes: u64,
    /// Space that a new volume may use.
    pub free_bytes: u64,
    /// Sizes are rounded up to a multiple of this.
    pub unit_bytes: u64,
    /// Whether a volume uses space only as it is written, so that one larger than the free space can be
    /// created.
    pub is_sparse: bool,
}

/// A volume that passed every check and is open for writing, exclusively for this process.
#[derive(Debug)]
pub struct OpenVolume {
    /// The path by which it was opened.
    pub path: PathBuf,
    /// Readable and writable. A block device is claimed exclusively (`O_EXCL`), a file is locked,
    /// for as long as this is open.
    pub file: File,
    /// Whether every byte is known to read as zero, so that holes of the image need no work.
    pub known_zero: bool,
    /// Its size.
    pub size_bytes: u64,
    /// Whether it is a block device.
    pub is_block_device: bool,
}

/// What to do with a volume that is not marked as this program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmarked {
    /// It is refused.
    Refuse,
    /// It is taken over, because the request or the configuration says so.
    Adopt,
}

/// What [`Volumes::remove_created`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// The volume is gone.
    Removed,
    /// There was none.
    Absent,
    /// It stays: the job did not create it, or it is ready.
    Kept,
}

/// A back end: a place that holds volumes.
#[async_trait]
pub trait Volumes: Send + Sync + Debug {
    /// Its name in the configuration (`config::BackendKind`), if it has one.
    fn backend(&self) -> &'static str;

    /// Fails if it is unavailable; returns how much space it has.
    async fn probe(&self) -> Result<Capacity, VolumeError>;

    /// One volume; None if there is none with that name.
    async fn lookup(&self, name: &VolumeName) -> Result<Option<Volume>, VolumeError>;

    /// All volumes, whoever made them, sorted by name.
    async fn list(&self) -> Result<Vec<Volume>, VolumeError>;

    /// Creates a volume that is marked `populating` and created by `job` from its first instant. Its size is
    /// rounded up to the back end's unit.
    ///
    /// Idempotent: a volume with that size that `job` created and is populating is returned. Any other volume
    /// with that name is [`VolumeErrorKind::AlreadyExists`].
    async fn create(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        job: JobId,
    ) -> Result<Volume, VolumeError>;

    /// Fails if the volume may not be written at all, regardless of who has it open and of its size.
    async fn check_writable(&self, volume: &Volume, unmarked: Unmarked) -> Result<(), VolumeError>;

    /// Marks an unmarked volume as this program's, and changes no byte of it. A volume that is already this
    /// program's stays as it is.
    async fn adopt(&self, name: &VolumeName) -> Result<Volume, VolumeError>;

    /// Marks durably, before the first byte is written, that `job` is writing the volume.
    ///
    /// The rules for taking over volumes apply, and all checks of [`Volumes::open`]: a volume that is refused
    /// stays as it was. Idempotent.
    async fn mark_populating(
        &self,
        volume: &Volume,
        job: JobId,
        unmarked: Unmarked,
    ) -> Result<Volume, VolumeError>;

    /// For a job that ended without writing anything: restores the mark that the volume had `before`, and adds
    /// to a ready volume's mark that this job was the last that ended on it. A volume that has otherwise
    /// changed since stays as it is.
    async fn leave(&self, before: &Volume, job: JobId) -> Result<(), VolumeError>;

    /// Marks the volume durably as holding this image. Its bytes must be durable, and what
    /// [`Volumes::open`] returned must be closed. Idempotent, and durable when it is repeated.
    async fn mark_ready(&self, volume: &Volume, job: JobId, made: &Made)
    -> Result<(), VolumeError>;

    /// Opens a volume that [`Volumes::mark_populating`] or [`Volumes::create`] returned, after checking that it
    /// is the right one and that nobody else has it open.
    async fn open(&self, volume: &Volume) -> Result<OpenVolume, VolumeError>;

    /// Opens a volume to read what it holds. Fails if somebody has it open; it is not kept from being opened afterwards.
    async fn open_to_read(&self, volume: &Volume) -> Result<File, VolumeError>;

    /// Rolls back [`Volumes::create`]: removes the volume only if its own mark says that it is populating and
    /// that this job created it. What [`Volumes::open`] returned must be closed.
    async fn remove_created(&self, name: &VolumeName, job: JobId) -> Result<Removed, VolumeError>;

    /// The devices, or the directories, that volumes are on. Back ends that do not know return none.
    async fn places(&self) -> Result<Vec<PathBuf>, VolumeError> {
        Ok(Vec::new())
    }

    /// Reserves room for what a job is going to write, until the reservation is dropped; refused as
    /// [`VolumeErrorKind::PoolFull`] or [`VolumeErrorKind::PoolUnsound`]. Back ends without a shared pool
    /// reserve nothing.
    async fn reserve(&self, _volume: &VolumeName, _need: Need) -> Result<Reservation, VolumeError> {
        Ok(Reservation::default())
    }

    /// Fails if, as of the last look, [`Volumes::reserve`] would refuse any request.
    fn has_room(&self) -> Result<(), VolumeError> {
        Ok(())
    }

    /// The pool that volumes share, as of the last look.
    fn pool(&self) -> Option<PoolUsage> {
        None
    }

    /// The back end's cloning; an error says in words for an operator why it cannot clone.
    async fn clones(&self) -> Result<&dyn Clones, String> {
        Err(format!(
            "the back end {} does not support clones",
            self.backend()
        ))
    }
}

/// Finds running virtual machines that use a volume.
#[async_trait]
pub trait InUse: Send + Sync + Debug {
    /// The user of any of these paths, as an operator would name it (`domain web-01`). If it cannot be
    /// determined, that is an error, and the volume is not touched.
    async fn user_of(&self, paths: &[PathBuf]) -> Result<Option<String>, VolumeError>;
}

/// For hosts without libvirt (`libvirt.enabled: false`): no domain uses anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLibvirt;

#[async_trait]
impl InUse for NoLibvirt {
    async fn user_of(&self, _paths: &[PathBuf]) -> Result<Option<String>, VolumeError> {
        Ok(None)
    }
}

/// Why an unmarked volume is refused, and what to do if it is the right one.
fn how_to_adopt(name: &str) -> String {
    format!(
        "it is not marked as this program's; if it may be overwritten, hand it over with 'lvpctl \
         volumes adopt {name}', or send the request with adopt: true (lvpctl provision --adopt)"
    )
}

/// The next multiple of `unit`, or None past 2^64.
fn round_up(bytes: u64, unit: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(unit)
}
