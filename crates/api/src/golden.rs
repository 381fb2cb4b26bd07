//! Golden volumes: an image that is written once, for volumes to be cloned from.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::job::{ImageType, Priority};

/// One golden volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GoldenVolume {
    /// SHA-256 of the image: the key in `DELETE /api/v1/golden/{key}`.
    pub key: String,
    /// The format that the image was read as.
    pub image_type: ImageType,
    /// Where the image came from; empty if that is not known.
    pub image_url: String,
    /// Path of the file or device.
    pub path: String,
    /// Size of the image's disk in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Bytes that it uses, including those that clones share; absent if the back end does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_bytes: Option<u64>,
    /// Digest of the disk: SHA-256 over the SHA-256s of its blocks of 1 MiB (the last may be shorter).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_digest: Option<String>,
    /// How many volumes were cloned from it.
    pub clones: u64,
    /// When it was made, or first seen, RFC 3339; absent until it is finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_at: Option<String>,
    /// When a volume was last cloned from it, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<String>,
    /// Whether a job is making or cloning it now.
    pub in_use: bool,
    /// Why nothing is cloned from it; the next job for its image makes it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flaw: Option<String>,
}

/// Answer to `GET /api/v1/golden`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GoldenVolumes {
    /// The golden volumes, the last used first.
    pub volumes: Vec<GoldenVolume>,
    /// How many there are.
    pub count: usize,
    /// Why volumes cannot be cloned on this host; absent if they can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
}

/// A part of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ByteRange {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// Body of `POST /api/v1/verifications`: read this volume as a job, and compare it with what was written to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyRequest {
    /// The volume's name; a golden volume is called `lvp-golden-KEY-TYPE`.
    pub volume_name: String,
    /// Free text that is repeated in the job's status, in logs and in traces; at most 128 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Which jobs begin first: `low`, `normal` (the default) or `high`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
}

/// Answer to `POST /api/v1/volumes/{name}/verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifiedVolume {
    /// The volume.
    #[schema(value_type = String)]
    pub name: crate::VolumeName,
    /// Whether it holds the image's disk, which on a clone is followed by zeros. What is after the disk of a volume that
    /// was written is not compared.
    pub matches: bool,
    /// SHA-256 of the image.
    pub image_digest: String,
    /// Size of the image's disk in bytes.
    pub disk_bytes: u64,
    /// Digest of the image's disk, as in the list of golden volumes.
    pub expected_digest: String,
    /// Digest that it has now.
    pub found_digest: String,
    /// The first 16 parts in which the volume differs from its image's golden volume or from its image, if either was
    /// read, or from zeros after the disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<ByteRange>,
    /// Whether there are more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_more: bool,
}
