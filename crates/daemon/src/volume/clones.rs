//! Volumes that share their content: an image is written once, to a *golden* volume, and further volumes with
//! that image are clones, which take neither the space nor the time to write it.
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
//! - Invariant: a golden volume is created like any other volume, and is recognised as golden only after its
//!   bytes are verified and durable. One that is writable, active, of the wrong size or without all its tags is
//!   not golden ([`Golden::flaw`]), and nothing is cloned from it.
//! - Invariant: a clone is marked `populating` from its first instant, by the command that creates it.
//! - Invariant: at every instant of [`Clones::replace`], the volume's name belongs to the old volume or the new
//!   one, and what a crash leaves is distinguishable from other tools' volumes.
//! - Invariant: removing a golden volume changes none of its clones.
//!
//! Who may clone, and when a golden volume is removed, is decided elsewhere (`jobs`, `golden`).

use std::fmt::Debug;
use std::fs::File;

use async_trait::async_trait;
use lvp_api::{ImageType, JobId, Sha256Digest, VolumeName};

use super::{Made, Removed, Volume, VolumeError};

/// Prefix of the names of golden volumes, which no request may use.
pub const GOLDEN_PREFIX: &str = "lvp-golden-";

/// Prefix of the names of clones that wait to replace a volume, which no request may use.
pub const WAITING_PREFIX: &str = "lvp-new-";

/// Prefix of the names of volumes that a clone has replaced and that are being removed, which no request may
/// use.
pub const ASIDE_PREFIX: &str = "lvp-old-";

/// Whether a name is reserved for volumes that requests cannot name.
pub fn is_reserved(name: &VolumeName) -> bool {
    let prefixes = [GOLDEN_PREFIX, WAITING_PREFIX, ASIDE_PREFIX];
    prefixes
        .iter()
        .any(|prefix| name.as_str().starts_with(prefix))
}

/// What a golden volume holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GoldenKey {
    /// SHA-256 of the image as it is stored.
    pub digest: Sha256Digest,
    /// The format that it was read as. In another format, the same bytes are a different disk.
    pub image_type: ImageType,
}

impl GoldenKey {
    /// The golden volume's name: `lvp-golden-DIGEST-TYPE`.
    pub fn volume_name(&self) -> VolumeName {
        let name = format!("{GOLDEN_PREFIX}{}-{}", self.digest, self.image_type);
        name.parse()
            .expect("a digest and a word are characters that every volume's name may have")
    }

    /// The key in a golden volume's name; None for another name.
    pub fn of_name(name: &VolumeName) -> Option<Self> {
        let rest = name.as_str().strip_prefix(GOLDEN_PREFIX)?;
        let (digest, image_type) = rest.split_once('-')?;
        let key = Self {
            digest: digest.parse().ok()?,
            image_type: image_type.parse().ok()?,
        };
        // A digest in capital letters can be parsed, but is the name of another volume.
        (key.volume_name() == *name).then_some(key)
    }
}

/// The name of the clone with which a job replaces a volume: `lvp-new-JOB`.
pub fn waiting_name(job: JobId) -> VolumeName {
    let name = format!("{WAITING_PREFIX}{job}");
    name.parse()
        .expect("a UUID is characters that every volume's name may have")
}

/// The job whose clone has this name; None for another name.
pub fn waiting_job(name: &VolumeName) -> Option<JobId> {
    name.as_str().strip_prefix(WAITING_PREFIX)?.parse().ok()
}

/// What was written to a golden volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// The size of the image's disk. The rest of the volume reads as zeros.
    pub size_bytes: u64,
    /// The disk's digest (`golden::content`).
    pub digest: Sha256Digest,
}

/// A golden volume, as it was when it was looked up.
#[derive(Debug, Clone)]
pub struct Golden {
    /// What it holds, according to its mark.
    pub key: GoldenKey,
    /// What was written, once it is sealed.
    pub content: Option<Content>,
    /// The volume, under its own name.
    pub volume: Volume,
    /// The space that only this volume uses and that removing it would free, as far as the back end knows it.
    pub own_bytes: Option<u64>,
    /// Why nothing may be cloned from it, in words for an operator; None for a usable one.
    pub flaw: Option<String>,
}

/// A back end whose volumes can share content. `Volumes::list` includes neither golden volumes nor clones that
/// wait to replace a volume, but the other methods of `Volumes` accept their names.
#[async_trait]
pub trait Clones: Send + Sync + Debug {
    /// All golden volumes, including those with a flaw and unfinished ones.
    async fn golden(&self) -> Result<Vec<Golden>, VolumeError>;

    /// The golden volume of an image, with a flaw or without.
    async fn find_golden(&self, key: &GoldenKey) -> Result<Option<Golden>, VolumeError>;

    /// The same, and the volume that is to be cloned from it, found by one look.
    async fn find_golden_and(
        &self,
        key: &GoldenKey,
        name: &VolumeName,
    ) -> Result<(Option<Golden>, Option<Volume>), VolumeError>;

    /// Creates a golden volume under [`GoldenKey::volume_name`]: populating, created by `job`. It is opened,
    /// written and, if that fails, removed like any other volume. Idempotent, like `Volumes::create`.
    async fn make_golden(
        &self,
        key: &GoldenKey,
        size_bytes: u64,
        job: JobId,
    ) -> Result<Volume, VolumeError>;

    /// Marks the volume durably as holding the image: ready, read-only, inactive, with `content` recorded. Its
    /// bytes must be durable, and what `Volumes::open` returned must be closed. The part after the content may
    /// be cut off. Idempotent.
    async fn seal(
        &self,
        volume: &Volume,
        key: &GoldenKey,
        job: JobId,
        content: &Content,
    ) -> Result<Golden, VolumeError>;

    /// Opens a golden volume for reading, whether sealed or not yet. A sealed one may have several readers,
    /// also while it is cloned.
    async fn read_golden(&self, golden: &Volume) -> Result<File, VolumeError>;

    /// Creates a volume with the golden one's content and zeros after it: populating, created by `job`. If a
    /// volume with that name exists, the clone is called [`waiting_name`] and waits for [`Clones::replace`].
    /// What an earlier attempt of the same job left is created again.
    async fn clone_golden(
        &self,
        golden: &Golden,
        name: &VolumeName,
        size_bytes: u64,
        job: JobId,
    ) -> Result<Volume, VolumeError>;

    /// [`Clones::clone_golden`], and `Volumes::mark_ready` of the clone. A back end may do both together if the name is
    /// free: by the look in which the golden volume was found there was none of that name, and the job has made nothing.
    async fn clone_ready(
        &self,
        golden: &Golden,
        name: &VolumeName,
        size_bytes: u64,
        made: (JobId, &Made),
        is_free: bool,
    ) -> Result<Volume, VolumeError>;

    /// Opens a clone that `job` has made and not finished, to change some of its bytes: nobody else has it open, and
    /// what it holds stays. It must be closed before the volume is marked ready.
    async fn open_clone(&self, clone: &Volume, job: JobId) -> Result<File, VolumeError>;

    /// Whether a volume can be replaced by a clone instead of being written in place: it is of the same kind,
    /// and marked as this program's.
    fn is_replaceable(&self, volume: &Volume) -> bool;

    /// Fails if a volume that is to be replaced is in use: the checks of `Volumes::mark_populating`, without
    /// marking it.
    async fn check_unused(&self, volume: &Volume) -> Result<(), VolumeError>;

    /// Gives a clone that is marked ready the name of the volume that it was made for, and removes the old
    /// volume, which must not be in use. Idempotent.
    async fn replace(
        &self,
        old: &Volume,
        clone: &Volume,
        job: JobId,
    ) -> Result<Volume, VolumeError>;

    /// The jobs that have something under [`waiting_name`].
    async fn waiting(&self) -> Result<Vec<JobId>, VolumeError>;

    /// Removes what a job has under [`waiting_name`], whatever its mark, unless somebody has it open.
    async fn remove_waiting(&self, job: JobId) -> Result<Removed, VolumeError>;

    /// Removes a golden volume, with a flaw or without. Its clones are not affected.
    async fn remove_golden(&self, golden: &Golden) -> Result<Removed, VolumeError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_volumes_and_waiting_clones_are_known_by_their_names_and_nobody_else_is() {
        let key = GoldenKey {
            digest: Sha256Digest::new([0xab; 32]),
            image_type: ImageType::Qcow2,
        };
        let name = key.volume_name();
        assert_eq!(GoldenKey::of_name(&name), Some(key));
        let job = JobId::random();
        let waiting = waiting_name(job);
        assert_eq!(waiting_job(&waiting), Some(job));
        for (name, is_golden) in [(&name, true), (&waiting, false)] {
            assert!(is_reserved(name));
            assert_eq!(GoldenKey::of_name(name).is_some(), is_golden);
            assert_eq!(waiting_job(name).is_some(), !is_golden);
        }
        let capitals = format!("{GOLDEN_PREFIX}{}-qcow2", "AB".repeat(32));
        for other in ["vm", "lvp-golden-1-qcow2", "lvp-new-1", &capitals] {
            let other: VolumeName = other.parse().expect("a name");
            assert_eq!(GoldenKey::of_name(&other), None, "{other}");
            assert_eq!(waiting_job(&other), None, "{other}");
        }
    }
}
