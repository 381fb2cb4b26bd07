//! Volumes: their names and how they are listed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::job::{Expand, Signer};
use crate::named;

/// Longest name of a volume. LVM refuses longer ones (`NAME_LEN` 128 with its final NUL, lvm2's
/// `lib/metadata/metadata-exported.h`).
pub const VOLUME_NAME_MAX: usize = 127;

/// Prefixes that LVM reserves (`lvm(8)`, "VALID NAMES").
const RESERVED_PREFIXES: [&str; 2] = ["snapshot", "pvmove"];

/// Parts of names that LVM reserves for internal volumes (`lvm(8)`, "VALID NAMES").
const RESERVED_PARTS: [&str; 15] = [
    "_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_wcorig", "_iorig", "_mimage", "_mlog",
    "_pmspare", "_rimage", "_rmeta", "_tdata", "_tmeta", "_vdata",
];

/// The remaining reserved parts; together with [`RESERVED_PARTS`] they are lvm2's own list.
const RESERVED_PARTS_MORE: [&str; 3] = ["_vorigin", "_imeta", "_vpool"];

/// The name of a volume: a valid name of a logical volume, and so also a valid file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(String);

/// Why a text cannot name a volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseVolumeNameError {
    /// No characters at all.
    #[error("The volume name is empty: use 1 to {VOLUME_NAME_MAX} characters")]
    Empty,
    /// Too many characters.
    #[error("The volume name has {0} characters: LVM allows at most {VOLUME_NAME_MAX}")]
    TooLong(usize),
    /// A character outside LVM's set.
    #[error("The volume name {0:?} has {1:?}: only a-z A-Z 0-9 + _ . - are allowed")]
    BadCharacter(String, char),
    /// `.`, `..`, or a leading hyphen.
    #[error("The volume name {0:?} is not allowed: it must not be '.' or '..' or begin with '-'")]
    BadForm(String),
    /// A name that LVM keeps for itself.
    #[error("The volume name {0:?} is reserved by LVM ({1:?}): choose another name")]
    Reserved(String, &'static str),
}

impl VolumeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolumeName {
    type Err = ParseVolumeNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name.is_empty() {
            return Err(ParseVolumeNameError::Empty);
        }
        let shown = || name.chars().take(VOLUME_NAME_MAX).collect::<String>();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
        if let Some(bad) = name.chars().find(|c| !allowed(*c)) {
            return Err(ParseVolumeNameError::BadCharacter(shown(), bad));
        }
        if name.len() > VOLUME_NAME_MAX {
            return Err(ParseVolumeNameError::TooLong(name.len()));
        }
        if name == "." || name == ".." || name.starts_with('-') {
            return Err(ParseVolumeNameError::BadForm(shown()));
        }
        let prefix = RESERVED_PREFIXES
            .iter()
            .find(|prefix| name.starts_with(**prefix));
        let mut parts = RESERVED_PARTS.iter().chain(&RESERVED_PARTS_MORE);
        if let Some(reserved) = prefix.or_else(|| parts.find(|part| name.contains(**part))) {
            return Err(ParseVolumeNameError::Reserved(shown(), reserved));
        }
        Ok(Self(name.to_owned()))
    }
}

impl TryFrom<String> for VolumeName {
    type Error = ParseVolumeNameError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl From<VolumeName> for String {
    fn from(name: VolumeName) -> Self {
        name.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One volume of the back end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeInfo {
    /// The volume's name.
    #[schema(value_type = String)]
    pub name: VolumeName,
    /// Path of the block device or file.
    pub path: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// `ready`, `populating`, `adopted` for a volume that was handed over and not written yet, or `untagged`
    /// for one that is not marked as this program's.
    pub state: String,
    /// SHA-256 of the image that a ready volume was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// The job that wrote it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// What it is made of; absent if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<VolumeKind>,
    /// What was done to the guest's partition table when the volume was made; absent if nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expanded: Option<Expand>,
    /// The signer of its image, if the image was verified by a signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Signer>,
}

/// What a volume is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VolumeKind {
    /// A file with bytes of its own.
    File,
    /// A logical volume with extents of its own.
    Linear,
    /// A thin logical volume that shares nothing.
    Thin,
    /// A volume that shares the bytes of its image, `image_digest`, with other volumes.
    Clone,
}

named!(VolumeKind, "kind of volume", {
    File => "file",
    Linear => "linear",
    Thin => "thin",
    Clone => "clone",
});

/// Answer to `GET /api/v1/volumes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeList {
    /// The volumes, by name.
    pub volumes: Vec<VolumeInfo>,
    /// How many there are.
    pub count: usize,
}

/// Answer to `PUT /api/v1/volumes/upload-content`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UploadedContent {
    /// Always `uploaded`.
    pub status: String,
    /// The storage volume.
    pub volume_name: String,
    /// Its pool.
    pub pool_name: String,
    /// How many bytes were written.
    pub size_bytes: u64,
    /// The storage volume, by the Go program's name for it.
    #[serde(default)]
    pub volume: String,
    /// Its pool, likewise.
    #[serde(default)]
    pub pool: String,
    /// How many bytes were written, likewise.
    #[serde(default)]
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lvm_s_own_charset_is_accepted() {
        let longest = "v".repeat(127);
        for name in ["vm-01", "a", "A+b_c.d-9", ".hidden", "_x", longest.as_str()] {
            assert_eq!(
                name.parse::<VolumeName>().map(|n| n.to_string()),
                Ok(name.to_owned())
            );
        }
    }

    #[test]
    fn names_that_would_escape_or_confuse_lvm_are_refused() {
        let too_long = "v".repeat(128);
        for name in [
            "",
            ".",
            "..",
            "-L1G",
            "a/b",
            "../x",
            "a b",
            "a\0",
            "a\n",
            "é",
            "snapshot0",
            "pvmove1",
            "x_tdata",
            "x_mlog2",
            "x_rimage_0",
            "x_vorigin",
            too_long.as_str(),
        ] {
            assert!(name.parse::<VolumeName>().is_err(), "{name:?}");
        }
    }
}
