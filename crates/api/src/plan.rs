//! What a request would do, before it is one.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::named;

/// Whether the image is on the host already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheState {
    /// It is: no byte is fetched.
    Hit,
    /// It is not: all of it is fetched.
    Miss,
    /// Another job is fetching it, which this one would wait for.
    Fetching,
}

named!(CacheState, "state of the cache", { Hit => "hit", Miss => "miss", Fetching => "fetching" });

/// Answer to `POST /api/v1/plan`: what the same request would do as a job now. Nothing is reserved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Whether the job could be done as things are; `problems` says what is in its way.
    pub fits: bool,
    /// Why not: each would fail the job, or refuse the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// What somebody may want to know beforehand, that an existing volume's content is lost for one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The image, without credentials.
    pub image_url: String,
    /// What its content is: `qcow2`, `raw`, `raw in gzip`, ...; absent when it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Length of the object in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_bytes: Option<u64>,
    /// The SHA-256 that the request or a checksum file says; absent when nobody says one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_digest: Option<String>,
    /// Size of the guest's disk in bytes; absent for compressed raw images, which do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_bytes: Option<u64>,
    /// Whether the image is in the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheState>,
    /// How the volume's bytes would come there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<crate::Method>,
    /// Bytes that would come from the store.
    pub bytes_to_fetch: u64,
    /// Bytes of data that would be written to the volume, beside zeros; absent as `virtual_bytes` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_to_write: Option<u64>,
    /// The volume.
    pub volume_name: String,
    /// The size that was asked for, in bytes.
    pub volume_bytes: u64,
    /// The volume that would be overwritten; absent when a new one would be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overwrites: Option<crate::VolumeInfo>,
    /// Seconds that it would take at the rates that were measured on this host, without a wait in the queue;
    /// absent while nothing was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_seconds: Option<f64>,
}
