//! Plans: what a request would do.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::named;

/// Whether the image is already on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheState {
    /// It is: nothing is fetched.
    Hit,
    /// It is not: the whole image is fetched.
    Miss,
    /// Another job is fetching it, and this one would wait for that.
    Fetching,
}

named!(CacheState, "state of the cache", { Hit => "hit", Miss => "miss", Fetching => "fetching" });

/// Answer to `POST /api/v1/plan`: what the same request would do as a job now. Nothing is reserved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Whether the job could be done now; if not, `problems` says why.
    pub fits: bool,
    /// The problems: because of each of them, the job would fail or the request would be refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// What should be known beforehand, for example that an existing volume's content would be lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The image, without credentials.
    pub image_url: String,
    /// Its format: `qcow2`, `raw`, `raw in gzip`, ...; absent if it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Length of the object in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_bytes: Option<u64>,
    /// The SHA-256 from the request or a checksum file; absent if neither has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_digest: Option<String>,
    /// Size of the guest's disk in bytes; absent for compressed raw images, where it is not known beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_bytes: Option<u64>,
    /// Whether the image is in the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheState>,
    /// How the volume would be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<crate::Method>,
    /// What would be done to the guest's partition table: `gpt` if the image has a GPT, and the volume is larger than
    /// its disk; absent if nothing would be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expand: Option<crate::Expand>,
    /// Bytes that would be fetched from the store.
    pub bytes_to_fetch: u64,
    /// Bytes of data that would be written to the volume, without zeros; absent if `virtual_bytes` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_to_write: Option<u64>,
    /// The priority that the job would have.
    #[serde(default)]
    pub priority: crate::Priority,
    /// How many waiting jobs would begin before it.
    #[serde(default)]
    pub jobs_ahead: usize,
    /// The volume.
    pub volume_name: String,
    /// The requested size, in bytes.
    pub volume_bytes: u64,
    /// The volume that would be overwritten; absent if a new one would be created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overwrites: Option<crate::VolumeInfo>,
    /// Seconds that the job would take at the rates measured on this host, without waiting in the queue; absent
    /// before the first measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_seconds: Option<f64>,
}
