//! Volumes: where images are put.
//!
//! Two back ends, [`lvm`] (logical volumes) and [`dir`] (sparse files), behind [`Volumes`]. Both
//! keep the truth about a volume *on the volume's side*, not in the daemon's database: in LVM's
//! tags, or in a file beside the volume's. What every back end has to do is a suite of tests that
//! each of them passes (`tests/volumes/contract`); which one there is, is known to `backend` alone.
//!
//! ```text
//!            create(job)                          mark_ready(job, digest)
//! (absent) ------------> populating, created by job ------------> ready(digest)
//!    ^                     |   ^                                    |   ^
//!    '-- remove_created ---'   '------- mark_populating(job) -------'   |
//!                              ^   |                                    |
//!                   adopted ---'   '-- leave(job), nothing written -----'   (or to what it was)
//!                      ^
//! untagged -- adopt ---'   (somebody else's: only when it is said to be meant)
//! ```
//!
//! - Invariant: a volume says `populating` durably before its first byte changes, and `ready`
//!   only once its bytes are durable. A crash at any instant leaves it absent, populating or right.
//! - Invariant: only a volume that is populating *and* created by the very job that asks is ever
//!   removed. A second job that takes over an unfinished volume did not create it.
//! - Invariant: a volume that says `ready` says which job finished it, and which one ended last
//!   without writing it. By these the jobs tell whether a job of a database that may be an old copy
//!   was accepted after the volume had become ready (`jobs::standing`).
//! - Invariant: nothing is written to a volume that is in use, that belongs to somebody else, or
//!   that is not the device its name says ([`Volumes::mark_populating`] and [`Volumes::open`]).
//!
//! One job at a time works on one volume; the job queue sees to that, not this module.

use std::fmt::Debug;
use std::fs::File;
use std::path::PathBuf;

use async_trait::async_trait;
use lvp_api::{JobId, Sha256Digest, VolumeInfo, VolumeKind, VolumeName};

mod backend;
pub mod clones;
pub mod dir;
mod error;
pub mod lvm;
pub mod room;

pub use backend::{Place, at, open, place};
pub use clones::{Clones, Content, Golden, GoldenKey};
pub use error::{VolumeError, VolumeErrorKind};
pub use room::{Need, PoolUsage, Reservation};

/// An existing volume is reused when it has at least this share of the requested size.
const REUSE_PERCENT: u128 = 95;

/// What a volume says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeState {
    /// Nothing that this program wrote, or nothing that can be understood.
    Untagged,
    /// Somebody handed it over to this program, which has not written it yet.
    Adopted,
    /// A job is writing it, or was when it ended.
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
    /// The last job that ended without writing it since it is ready.
    pub last_ended: Option<JobId>,
    /// What it is made of, where that is known.
    pub kind: Option<VolumeKind>,
    /// What its bytes were when it became ready, where that was recorded.
    pub content: Option<Content>,
    /// What the back end needs to know it again.
    pub(crate) identity: Identity,
}

impl Volume {
    /// A volume of a back end that is not this crate's, known again by its name alone.
    pub fn new(name: VolumeName, path: PathBuf, size_bytes: u64, state: VolumeState) -> Self {
        Self {
            name,
            path,
            size_bytes,
            state,
            last_ended: None,
            kind: None,
            content: None,
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
        }
    }
}

/// Tells a volume from another that later has the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The LV's UUID.
    Lvm { uuid: String },
    /// The file itself, not its name.
    File(dir::FileIdentity),
    /// Nothing but the name.
    Name,
}

/// Room in the back end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// All of it.
    pub total_bytes: u64,
    /// What a new volume may take.
    pub free_bytes: u64,
    /// Sizes are rounded up to a multiple of this.
    pub unit_bytes: u64,
    /// Whether a volume takes room only as it is written, so that a larger one can be made.
    pub is_sparse: bool,
}

/// A volume that passed every check and is open for writing, for this process alone.
#[derive(Debug)]
pub struct OpenVolume {
    /// The path it was opened by.
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

/// What becomes of a volume that nobody has marked as this program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmarked {
    /// It is refused.
    Refuse,
    /// It is taken over: the request or the configuration says so.
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

/// A place that has volumes.
#[async_trait]
pub trait Volumes: Send + Sync + Debug {
    /// Its name in the configuration (`config::BackendKind`), where it has one.
    fn backend(&self) -> &'static str;

    /// Whether it is there, and how much room it has.
    async fn probe(&self) -> Result<Capacity, VolumeError>;

    /// One volume; None when there is none of that name.
    async fn lookup(&self, name: &VolumeName) -> Result<Option<Volume>, VolumeError>;

    /// All volumes, whoever made them, by name.
    async fn list(&self) -> Result<Vec<Volume>, VolumeError>;

    /// Makes a volume that is `populating` and created by `job` from its first instant on. Its
    /// size is rounded up to the back end's unit.
    ///
    /// Idempotent: one that `job` created and is populating, of that size, is returned. Any other
    /// volume of that name is [`VolumeErrorKind::AlreadyExists`].
    async fn create(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        job: JobId,
    ) -> Result<Volume, VolumeError>;

    /// Whether the volume may be written at all, whoever has it open and whatever its size is.
    async fn check_writable(&self, volume: &Volume, unmarked: Unmarked) -> Result<(), VolumeError>;

    /// Marks a volume that nobody has marked as this program's, and changes no byte of it. One that
    /// is this program's already stays as it is.
    async fn adopt(&self, name: &VolumeName) -> Result<Volume, VolumeError>;

    /// Says durably, before the first byte is written, that `job` is writing the volume.
    ///
    /// The rules of taking over apply here, and all checks of [`Volumes::open`]: a volume that is
    /// refused stays as it was. Idempotent.
    async fn mark_populating(
        &self,
        volume: &Volume,
        job: JobId,
        unmarked: Unmarked,
    ) -> Result<Volume, VolumeError>;

    /// For a job that ended and wrote nothing: the volume says again what it said `before`, and a
    /// ready one that this was the last job that ended on it. A volume that has changed otherwise
    /// since stays as it is.
    async fn leave(&self, before: &Volume, job: JobId) -> Result<(), VolumeError>;

    /// Says durably that the volume holds the image with this digest. Its bytes must be durable,
    /// and what [`Volumes::open`] returned closed. Idempotent, and durable when it is repeated.
    async fn mark_ready(
        &self,
        volume: &Volume,
        job: JobId,
        digest: &Sha256Digest,
    ) -> Result<(), VolumeError>;

    /// Opens a volume that [`Volumes::mark_populating`] or [`Volumes::create`] returned, after
    /// every check that it is the right one and that nobody else has it.
    async fn open(&self, volume: &Volume) -> Result<OpenVolume, VolumeError>;

    /// Rolls back [`Volumes::create`]: removes the volume only when it says itself that it is
    /// populating and that this job created it. What [`Volumes::open`] returned must be closed.
    async fn remove_created(&self, name: &VolumeName, job: JobId) -> Result<Removed, VolumeError>;

    /// Keeps room for what a job is going to take, until the reservation is dropped; refused as
    /// [`VolumeErrorKind::PoolFull`] or [`VolumeErrorKind::PoolUnsound`]. Places that share no room among their volumes keep none.
    async fn reserve(&self, _volume: &VolumeName, _need: Need) -> Result<Reservation, VolumeError> {
        Ok(Reservation::default())
    }

    /// Whether [`Volumes::reserve`] gives anything at all, by the last look.
    fn has_room(&self) -> Result<(), VolumeError> {
        Ok(())
    }

    /// The pool that volumes share, as the last look found it.
    fn pool(&self) -> Option<PoolUsage> {
        None
    }

    /// What this back end has to offer for volumes that share their content; else why it has nothing, in words
    /// for an operator.
    async fn clones(&self) -> Result<&dyn Clones, String> {
        Err(format!("The back end {} has no clones", self.backend()))
    }
}

/// Tells whether a running virtual machine uses a volume.
#[async_trait]
pub trait InUse: Send + Sync + Debug {
    /// The user of any of these paths, as an operator would name it (`domain web-01`). An error
    /// when it cannot be told: then the volume is not touched.
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

/// Whether an existing volume will do: at least 95 % of the request (a volume made by other rules
/// of rounding is no reason to fail), and never smaller than the image's disk.
pub fn fits(
    existing_bytes: u64,
    requested_bytes: u64,
    image_virtual_bytes: u64,
) -> Result<(), VolumeError> {
    if existing_bytes < image_virtual_bytes {
        return Err(VolumeError::too_small(
            existing_bytes,
            image_virtual_bytes,
            "the image's disk",
        ));
    }
    let enough = u128::from(existing_bytes) * 100 >= u128::from(requested_bytes) * REUSE_PERCENT;
    if !enough {
        return Err(VolumeError::too_small(
            existing_bytes,
            requested_bytes,
            "the request (95 % of it would do)",
        ));
    }
    Ok(())
}

/// Why a volume that nobody marked is refused, and what to do when it is meant.
fn how_to_adopt(name: &str) -> String {
    format!(
        "it does not say that this program may write it; if it may, hand it over with 'lvpctl \
         volumes adopt {name}', or send the request with adopt: true (lvpctl provision --adopt)"
    )
}

/// The next multiple of `unit`, or None past 2^64.
fn round_up(bytes: u64, unit: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn kind(result: Result<(), VolumeError>) -> Option<VolumeErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[test]
    fn a_volume_of_the_requested_size_or_more_is_reused() {
        for existing in [GIB, GIB + 1, 100 * GIB, u64::MAX] {
            assert_eq!(kind(fits(existing, GIB, GIB)), None, "{existing}");
        }
    }

    #[test]
    fn five_percent_less_than_the_request_will_do_and_a_byte_less_will_not() {
        assert_eq!(kind(fits(95, 100, 10)), None);
        let small = VolumeErrorKind::TooSmall {
            have_bytes: 94,
            want_bytes: 100,
        };
        assert_eq!(kind(fits(94, 100, 10)), Some(small));
        // 95 % of u64::MAX is no whole number; the sum must not overflow either.
        let limit = u64::MAX / 20 * 19 + 15;
        assert_eq!(kind(fits(limit, u64::MAX, 1)), None);
        assert!(kind(fits(limit - 1, u64::MAX, 1)).is_some());
    }

    #[test]
    fn the_image_must_fit_however_small_the_request_is() {
        let small = VolumeErrorKind::TooSmall {
            have_bytes: 96,
            want_bytes: 97,
        };
        assert_eq!(kind(fits(96, 1, 97)), Some(small));
        assert_eq!(kind(fits(96, 100, 96)), None);
    }

    #[test]
    fn the_error_names_both_sizes() {
        let text = fits(GIB, 2 * GIB, 1).unwrap_err().to_string();
        assert!(text.contains("1 GiB") && text.contains("2 GiB"), "{text}");
    }
}
