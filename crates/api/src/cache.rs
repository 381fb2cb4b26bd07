//! The image cache: what it holds and how it is filled.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::digest::Checksum;
use crate::job::{ImageType, Priority};

/// Body of `POST /api/v1/cache/fetch`, which fetches an image into the cache without a volume, and of `POST
/// /api/v1/golden`, which makes the image's golden volume in advance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheFetchRequest {
    /// `s3://bucket/key`, or the object's URL at the configured endpoint.
    pub image_url: String,
    /// Format of the image; checked before it is cached.
    #[serde(default)]
    pub image_type: ImageType,
    /// Digest that the image must have: `sha256:HEX` or `sha512:HEX`. Checksum files beside the image have to
    /// agree with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub checksum: Option<Checksum>,
    /// Free text that is repeated in the job's status, in logs and in traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Which jobs begin first: `low` (the default of these jobs), `normal` or `high`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
}

/// One image in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CachedImage {
    /// The entry's name in `DELETE /api/v1/cache/images/{key}`: its SHA-256.
    pub key: String,
    /// Path of the cached file.
    pub path: String,
    /// Size of the file in bytes.
    pub size: u64,
    /// SHA-256 of the file's bytes.
    pub checksum: String,
    /// When the file was published, RFC 3339.
    pub mod_time: String,
    /// When a job last used it, RFC 3339.
    pub last_used: String,
    /// Where it came from.
    pub image_url: String,
    /// Whether a job is using it now, so that it can be neither deleted nor evicted.
    pub in_use: bool,
    /// Whether it has a golden volume, from which volumes are cloned.
    #[serde(default)]
    pub golden: bool,
    /// Bytes that its unpacked copies take beside it (`cache.unpacked`); 0 if it has none.
    #[serde(default)]
    pub unpacked_bytes: u64,
}

/// An image in object storage, as `GET /api/v1/images` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoredImage {
    /// Its URL in requests.
    pub image_url: String,
    /// Its length in bytes.
    pub size: u64,
    /// When it was written, RFC 3339, according to the store.
    pub last_modified: String,
    /// Whether there is an object with its digest beside it (`KEY.sha256`).
    pub has_digest: bool,
    /// Whether some version of it is in the cache.
    pub is_cached: bool,
}

/// Answer to `GET /api/v1/images`: one folder of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoredImages {
    /// What was listed: `s3://BUCKET/` and the beginning of a key.
    pub prefix: String,
    /// Deeper folders, as prefixes to list.
    pub folders: Vec<String>,
    /// The objects, without those that hold digests and signatures.
    pub images: Vec<StoredImage>,
    /// What to send as `after` for the next page, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// What of the request was left out, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Answer to `GET /api/v1/cache/images`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CachedImages {
    /// The images, newest first.
    pub images: Vec<CachedImage>,
    /// How many images there are in total, as in the Go program.
    pub count: u64,
    /// The same.
    #[serde(default)]
    pub total: u64,
    /// How many were skipped.
    pub offset: u32,
    /// How many were asked for at most.
    pub limit: u32,
    /// The next part's `offset`, when the list ends before `limit` because of its size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_offset: Option<u32>,
    /// What of the request was left out, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Answer to `DELETE /api/v1/cache/images/{key}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletedImage {
    /// Always `deleted`.
    pub status: String,
    /// The entry that was deleted.
    pub key: String,
}
