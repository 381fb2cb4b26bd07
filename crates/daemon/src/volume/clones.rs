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
use std::fs::File;

use async_trait::async_trait;
use lvp_api::{ImageType, JobId, Sha256Digest, VolumeName};

use super::{Removed, Volume, VolumeError};

/// What golden volumes' names begin with. No request may use such a name.
pub const GOLDEN_PREFIX: &str = "lvp-golden-";

/// What the names of clones begin with that wait to replace a volume. No request may use such a name.
pub const WAITING_PREFIX: &str = "lvp-new-";

/// What the names of volumes begin with that a clone has replaced and that are going. No request may use such a name.
pub const ASIDE_PREFIX: &str = "lvp-old-";

/// Whether a name is kept for volumes that no request asks for by name.
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
    /// The format it was read as. The same bytes are another disk in another format.
    pub image_type: ImageType,
}

impl GoldenKey {
    /// The golden volume's name: `lvp-golden-DIGEST-TYPE`.
    pub fn volume_name(&self) -> VolumeName {
        let name = format!("{GOLDEN_PREFIX}{}-{}", self.digest, self.image_type);
        name.parse()
            .expect("a digest and a word are characters that every volume's name may have")
    }

    /// What a golden volume of this name holds; None for another name.
    pub fn of_name(name: &VolumeName) -> Option<Self> {
        let rest = name.as_str().strip_prefix(GOLDEN_PREFIX)?;
        let (digest, image_type) = rest.split_once('-')?;
        let key = Self {
            digest: digest.parse().ok()?,
            image_type: image_type.parse().ok()?,
        };
        // A digest in capital letters is read, and names another volume.
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
    /// The size of the image's disk. What is behind it reads as zeros.
    pub size_bytes: u64,
    /// The disk's digest (`golden::content`).
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

/// A back end whose volumes can share content. Neither its golden volumes nor the clones that wait to replace
/// a volume are in `Volumes::list`; by their own names `Volumes` knows them.
#[async_trait]
pub trait Clones: Send + Sync + Debug {
    /// All golden volumes of the place, those with a flaw and unfinished ones too.
    async fn golden(&self) -> Result<Vec<Golden>, VolumeError>;

    /// The one for an image, with a flaw or without.
    async fn find_golden(&self, key: &GoldenKey) -> Result<Option<Golden>, VolumeError>;

    /// The same, and in the same look the volume that is to be cloned from it.
    async fn find_golden_and(
        &self,
        key: &GoldenKey,
        name: &VolumeName,
    ) -> Result<(Option<Golden>, Option<Volume>), VolumeError>;

    /// Makes the volume that is to be golden, under [`GoldenKey::volume_name`]: populating, created by `job`, to
    /// be opened, written and, when that fails, removed as every volume is. Idempotent, as `Volumes::create` is.
    async fn make_golden(
        &self,
        key: &GoldenKey,
        size_bytes: u64,
        job: JobId,
    ) -> Result<Volume, VolumeError>;

    /// Says durably that the volume holds the image: ready, read-only, inactive, with `content` recorded. Its
    /// bytes must be durable, and what `Volumes::open` returned closed. What is behind the content may be cut
    /// off. Idempotent.
    async fn seal(
        &self,
        volume: &Volume,
        key: &GoldenKey,
        job: JobId,
        content: &Content,
    ) -> Result<Golden, VolumeError>;

    /// Opens a golden volume to read its bytes, sealed or not yet. A sealed one may be read by several at once,
    /// and while it is cloned.
    async fn read_golden(&self, golden: &Volume) -> Result<File, VolumeError>;

    /// Makes a volume with the golden one's content and zeros behind it: populating, created by `job`. Where
    /// there is a volume of that name, the clone has [`waiting_name`] and waits for [`Clones::replace`].
    /// What the same job has left of an earlier attempt is made anew.
    async fn clone_golden(
        &self,
        golden: &Golden,
        name: &VolumeName,
        size_bytes: u64,
        job: JobId,
    ) -> Result<Volume, VolumeError>;

    /// Whether a volume can be replaced by a clone, rather than be written in place: it is of the same kind, and
    /// this program's by its own word.
    fn is_replaceable(&self, volume: &Volume) -> bool;

    /// Whether nobody uses a volume that is to be replaced: what `Volumes::mark_populating` asks, without the mark.
    async fn check_unused(&self, volume: &Volume) -> Result<(), VolumeError>;

    /// Gives a clone that `Volumes::mark_ready` was told of the name of the volume that it was made for, and
    /// removes the old one, which must be free of users. Idempotent.
    async fn replace(
        &self,
        old: &Volume,
        clone: &Volume,
        job: JobId,
    ) -> Result<Volume, VolumeError>;

    /// The jobs of which there is something under [`waiting_name`].
    async fn waiting(&self) -> Result<Vec<JobId>, VolumeError>;

    /// Removes what a job has under [`waiting_name`], whatever it says of itself, unless somebody has it open.
    async fn remove_waiting(&self, job: JobId) -> Result<Removed, VolumeError>;

    /// Removes a golden volume, sound or not. Its clones stay as they are.
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
