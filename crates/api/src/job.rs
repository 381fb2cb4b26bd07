//! Jobs: ids, requests, kinds and states.

mod choices;
mod status;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::digest::Checksum;
use crate::named;

pub use choices::{
    Cloning, Expand, ImageType, Method, Priority, SignatureFormat, Signer, Verified,
};
pub use status::{FeedEvent, JobEvent, JobList, JobStatus, Progress, Stage};

/// Longest `correlation_id`, in characters.
pub const CORRELATION_ID_MAX: usize = 128;

/// Identifies a job permanently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub Uuid);

impl JobId {
    /// A new, random id (UUID version 4).
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for JobId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// The body that is sent to a webhook's receiver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WebhookEvent {
    /// `job.completed`, `job.failed` or `job.cancelled`.
    pub event: String,
    /// When it happened, RFC 3339.
    pub timestamp: String,
    /// The job as `GET /api/v1/jobs/{id}` answers.
    pub job: JobStatus,
}

/// Body of `POST /api/v1/jobs`: write this image to this volume.
///
/// Unknown fields are ignored, with a warning in the answer's `warnings`; a name that is nearly a known one is
/// refused. `null` counts as absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProvisionRequest {
    /// `s3://bucket/key`, or the object's URL at the configured endpoint.
    pub image_url: String,
    /// The volume's name, by LVM's rules.
    pub volume_name: String,
    /// The volume's size in GiB. Give this or `volume_size_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_size_gb: Option<u64>,
    /// The volume's size in bytes; rounded up to whole extents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_size_bytes: Option<u64>,
    /// Format of the image.
    #[serde(default)]
    pub image_type: ImageType,
    /// Digest that the image must have: `sha256:HEX` or `sha512:HEX`. Checksum files beside the image have to
    /// agree with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub checksum: Option<Checksum>,
    /// Free text that is repeated in the job's status, in logs and in traces; at most 128 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Whether an existing volume may be overwritten that is not marked as this program's. Without this, such a
    /// volume is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt: bool,
    /// Whether the volume is cloned from the image's golden volume: `auto` (if possible), `never`, or `require`
    /// (the job fails if it is not possible).
    #[serde(default, skip_serializing_if = "Cloning::is_usual")]
    pub clone: Cloning,
    /// What happens if the pool that volumes share is too full, or not sound: `refuse` (503), or `wait` (the job
    /// waits for room, without a slot, for at most `wait_seconds`).
    #[serde(default, skip_serializing_if = "WhenFull::is_usual")]
    pub when_full: WhenFull,
    /// How long the job waits for room, from its acceptance, in seconds: 1 to 604800 (7 days). 3600 unless it is
    /// given. Only with `when_full: wait`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_seconds: Option<u64>,
    /// What is done to the guest's partition table on a larger volume: `none`, or `gpt` (the backup GPT is moved to
    /// the volume's end). Without this, `volumes.expand` of the configuration decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expand: Option<Expand>,
    /// Which jobs begin first: `low`, `normal` (the default) or `high`. While all slots are taken, a job of high
    /// priority pauses the transfer of one of low priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
}

/// Answer to a request that became a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobAccepted {
    /// The job's id.
    #[schema(value_type = Uuid)]
    pub job_id: JobId,
    /// What of the request was left out, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Answer to a cancellation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CancelledJob {
    /// Always `cancelled`.
    pub status: String,
    /// The job that was cancelled.
    #[schema(value_type = Uuid)]
    pub job_id: JobId,
}

/// The state of a job. `completed`, `failed` and `cancelled` are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// In the queue.
    Pending,
    /// Running.
    Running,
    /// The volume is ready (or, for a cache job, the image is cached).
    Completed,
    /// The job failed; `error` says why.
    Failed,
    /// Cancelled by a request.
    Cancelled,
}

impl JobState {
    /// Whether the job has ended.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

// In the order of a job's life.
named!(JobState, "job state", {
    Pending => "pending",
    Running => "running",
    Completed => "completed",
    Failed => "failed",
    Cancelled => "cancelled",
});

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// Image to volume.
    Provision,
    /// Image to cache.
    Cache,
    /// Image to a golden volume.
    Golden,
    /// A volume is read, and compared with what was written to it.
    Verify,
}

named!(JobKind, "kind of job", {
    Provision => "provision",
    Cache => "cache",
    Golden => "golden",
    Verify => "verify",
});

/// What a request does that meets a full pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenFull {
    /// It is refused, or its job fails.
    #[default]
    Refuse,
    /// Its job waits for room.
    Wait,
}

named!(WhenFull, "answer to a full pool", { Refuse => "refuse", Wait => "wait" });

impl WhenFull {
    /// Whether this is the default, which requests need not send.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// How long a job waits for room unless its request says so.
pub const ROOM_WAIT_SECONDS: u64 = 3600;

/// The longest wait for room.
pub const ROOM_WAIT_SECONDS_MAX: u64 = 7 * 24 * 3600;
