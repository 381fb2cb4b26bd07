//! Volumes that share their content: an image is written once, to a *golden* volume, and every further
//! volume of it is a clone that costs neither its bytes nor the time to write them.
//!
//! ```text
//!           make(key, job)                 seal(job, content)
//! (absent) ---------------> populating ------------------------> golden: ready, read-only, inactive
//!    ^                          |                                   |
//!    '----- remove_created -----'                clone(name, job)   '--> volume: populating, created by job
//!    ^                                                                     |   mark_ready, or replace(old)
//!    '------------------------------- remove_golden                        '--> volume: ready
//! ```
//!
//! - Invariant: a golden volume is made as every volume is, armed: it can be taken for one only after its
//!   bytes were verified and durable. What is missing, writable, active, of another size or without all its
//!   tags is not golden ([`Golden::flaw`]) and nothing is cloned from it.
//! - Invariant: a clone says `populating` from its first instant, by the command that makes it.
//! - Invariant: a volume's name names the old volume or the new one at every instant of
//!   [`Clones::replace`], and what is left by a crash is told from a volume of somebody else.
//! - Invariant: removing a golden volume changes none of its clones.
//!
//! Who may clone, and when a golden volume has to go, is not decided here (`jobs`).

use std::fmt::Debug;

use async_trait::async_trait;
use lvp_api::{ImageType, JobId, Sha256Digest, VolumeName};

use super::{Removed, Volume, VolumeError};

/// What golden volumes' names begin with. No request may use such a name.
pub const GOLDEN_PREFIX: &str = "lvp-golden-";

/// What a golden volume holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GoldenKey {
    /// SHA-256 of the image as it is stored.
    pub digest: Sha256Digest,
    /// The format it was read as. The same bytes are another disk in another format.
    pub image_type: ImageType,
}

/// What was written to a golden volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// The size of the image's disk. What is behind it reads as zeros.
    pub size_bytes: u64,
    /// SHA-256 of the disk's bytes.
    pub digest: Sha256Digest,
}

/// A golden volume, as it was when it was looked up.
#[derive(Debug, Clone)]
pub struct Golden {
    /// What it holds, as it says itself.
    pub key: GoldenKey,
    /// What was written, once it is sealed.
    pub content: Option<Content>,
    /// The volume, under its own name.
    pub volume: Volume,
    /// What it alone holds: what removing it would give back, as far as the back end can tell.
    pub own_bytes: Option<u64>,
    /// Why nothing may be cloned from it, in words for an operator; None for a sound one.
    pub flaw: Option<String>,
}

/// A back end whose volumes can share content.
#[async_trait]
pub trait Clones: Send + Sync + Debug {
    /// All golden volumes of the place, those with a flaw too.
    async fn golden(&self) -> Result<Vec<Golden>, VolumeError>;

    /// The one for an image, with a flaw or without.
    async fn find_golden(&self, key: &GoldenKey) -> Result<Option<Golden>, VolumeError>;

    /// Makes the volume that is to be golden: populating, created by `job`, to be opened, written and, when that
    /// fails, removed as every volume is. Idempotent, as `Volumes::create` is.
    async fn make_golden(
        &self,
        key: &GoldenKey,
        size_bytes: u64,
        job: JobId,
    ) -> Result<Volume, VolumeError>;

    /// Says durably that the volume holds the image: ready, read-only, inactive, with `content` recorded. Its
    /// bytes must be durable, and what `Volumes::open` returned closed. Idempotent.
    async fn seal(
        &self,
        volume: &Volume,
        key: &GoldenKey,
        job: JobId,
        content: &Content,
    ) -> Result<Golden, VolumeError>;

    /// Makes a volume with the golden one's content and zeros behind it: populating, created by `job`. Where
    /// there is a volume of that name, the clone waits under a name of its own for [`Clones::replace`].
    /// Idempotent for the same job.
    async fn clone_golden(
        &self,
        golden: &Golden,
        name: &VolumeName,
        size_bytes: u64,
        job: JobId,
    ) -> Result<Volume, VolumeError>;

    /// Whether a volume can be replaced by a clone, rather than be written in place: it is of the same kind.
    fn is_replaceable(&self, volume: &Volume) -> bool;

    /// Gives a ready clone the name of the volume that it was made for, and removes the old one, which must be
    /// free of users as `Volumes::mark_populating` has it. Idempotent.
    async fn replace(
        &self,
        old: &Volume,
        clone: &Volume,
        job: JobId,
    ) -> Result<Volume, VolumeError>;

    /// Removes a golden volume, sound or not. Its clones stay as they are.
    async fn remove_golden(&self, golden: &Golden) -> Result<Removed, VolumeError>;
}
