//! Jobs: requests, states and progress.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::course::{Bound, Waiting};
use crate::digest::Checksum;
use crate::{VerifiedVolume, named};

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

/// How the image's bytes make up the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageType {
    /// QEMU's copy-on-write format, versions 2 and 3.
    #[default]
    Qcow2,
    /// The disk's bytes as they are.
    Raw,
    /// VMware's format: one file, sparse or stream-optimized.
    Vmdk,
    /// Microsoft's older format (`qemu-img` calls it vpc): fixed or dynamic.
    Vhd,
    /// Microsoft's newer format: fixed or dynamic.
    Vhdx,
    /// VirtualBox's format: static or dynamic.
    Vdi,
    /// Whichever of these the content is.
    Auto,
}

named!(ImageType, "image type", {
    Qcow2 => "qcow2",
    Raw => "raw",
    Vmdk => "vmdk",
    Vhd => "vhd",
    Vhdx => "vhdx",
    Vdi => "vdi",
    Auto => "auto",
});

/// What an image is verified against: the first of these that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verified {
    /// A signature of the image, or of a checksum file that names it, by a key that is trusted for it.
    Signature,
    /// The checksum that came with the request.
    Request,
    /// A checksum file of the image's own, such as `KEY.sha256`.
    Sidecar,
    /// The image's line in a checksum file of its directory, such as `SHA256SUMS`.
    Sums,
    /// Nothing: whatever the server sent was accepted.
    None,
}

named!(Verified, "verification", {
    Signature => "signature",
    Request => "request",
    Sidecar => "sidecar",
    Sums => "sums",
    None => "none",
});

/// Whether a volume is cloned, so that it shares its image's bytes with other volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cloning {
    /// If possible; otherwise the image is written.
    #[default]
    Auto,
    /// Never: the volume gets bytes of its own.
    Never,
    /// Always: the job fails if that is not possible.
    Require,
}

named!(Cloning, "way to clone", { Auto => "auto", Never => "never", Require => "require" });

impl Cloning {
    /// Whether it is the default.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// What is done to the guest's partition table on a volume that is larger than the image's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Expand {
    /// Nothing: the disk is the image's, byte for byte.
    #[default]
    None,
    /// The backup GPT is moved to the volume's end. Partitions stay as they are.
    Gpt,
}

named!(Expand, "way to expand", { None => "none", Gpt => "gpt" });

/// How a volume was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// It was cloned from the image's golden volume.
    Clone,
    /// It was written from the image in the cache.
    Copy,
    /// It was written in the pass that fetched the image.
    Stream,
}

named!(Method, "way of making a volume", { Clone => "clone", Copy => "copy", Stream => "stream" });

/// A format of signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SignatureFormat {
    /// OpenPGP.
    OpenPgp,
    /// minisign.
    Minisign,
}

named!(SignatureFormat, "form of signatures", { OpenPgp => "openpgp", Minisign => "minisign" });

/// The key by which an image was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Signer {
    /// The signature's format.
    pub format: SignatureFormat,
    /// The fingerprint of an OpenPGP certificate's primary key, or the id of a minisign key.
    pub fingerprint: String,
    /// The owner according to the key: a user id, or a comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint)?;
        match &self.name {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
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

/// What a running job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Looking up the object, the cache and the volume.
    Initializing,
    /// The image is being fetched, and hashed, cached, decoded and written in the same pass.
    Downloading,
    /// Only decoding and writing are left (or, on a cache hit, are all there is to do).
    Converting,
    /// Digest compared; syncing, writing the volume's head, publishing.
    Finalizing,
    /// A volume is being read and compared.
    Verifying,
}

named!(Stage, "stage", {
    Initializing => "initializing",
    Downloading => "downloading",
    Converting => "converting",
    Finalizing => "finalizing",
    Verifying => "verifying",
});

/// A job's progress. Every number is measured from bytes that were moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// What the job is doing.
    pub stage: Stage,
    /// The same as `overall_percent`, for clients of the 0.3 API.
    pub percent: f64,
    /// Part of this stage that is done, 0 to 100.
    pub stage_percent: f64,
    /// Part of the whole job that is done, 0 to 100; never goes back; 100 only when completed.
    pub overall_percent: f64,
    /// Bytes of this stage that have moved.
    pub bytes_processed: u64,
    /// Bytes that this stage will move.
    pub bytes_total: u64,
    /// Estimated seconds to the end of this stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_sec: Option<f64>,
    /// Estimated seconds to the end of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overall_eta_sec: Option<f64>,
    /// When this stage began, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage_start_time: Option<String>,
    /// When the job began to run, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_start_time: Option<String>,
}

/// Answer to `GET /api/v1/jobs/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobStatus {
    /// The job.
    #[schema(value_type = Uuid)]
    pub job_id: JobId,
    /// `provision`, `cache`, `golden` or `verify`.
    pub kind: JobKind,
    /// The job's state.
    pub status: JobState,
    /// Its progress; absent while pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What the job waits for, while it repeats something that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// What its time has gone to; absent for jobs of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
    /// Id of the trace that the job is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Why it failed, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The HTTP status for the failure (422 for a refused image, 503 for a dependency, ...).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<u16>,
    /// The kind of failure, one of the words in docs/troubleshooting.md.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// What to do about that kind of failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The request's correlation id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Whether the image was on the host, in the cache or as a golden volume; absent until that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_hit: Option<bool>,
    /// Path of the image in the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_path: Option<String>,
    /// The requested image, without credentials; empty for a job that verifies a volume.
    pub image_url: String,
    /// Its declared format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_type: Option<ImageType>,
    /// The requested size of the volume, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_size_bytes: Option<u64>,
    /// The volume that is written, or verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_name: Option<String>,
    /// Path of the volume's device or file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_path: Option<String>,
    /// SHA-256 of the image's bytes, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// What the image's bytes were verified against; absent until that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// Whether the volume was to be cloned, according to the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone: Option<Cloning>,
    /// What was to be done to the guest's partition table, if the request says it. What was done is in `notes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expand: Option<Expand>,
    /// How the volume was made; absent until that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// The signer of the image; absent until the signature was verified, and for images without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Signer>,
    /// What a verification found; absent until it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<VerifiedVolume>,
    /// What the job does if the pool that volumes share is full, according to the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_full: Option<WhenFull>,
    /// Notes for operators about how the job was done: why it did not run in one pass, how stale bytes were
    /// cleared, that a volume was left not ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// How often the job was started; more than once after a restart of the daemon.
    pub attempts: u32,
    /// When the request was accepted, RFC 3339.
    pub created_at: String,
    /// When anything here last changed, RFC 3339.
    pub updated_at: String,
}

/// Answer to `GET /api/v1/jobs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    /// The jobs, newest first.
    pub jobs: Vec<JobStatus>,
    /// How many `jobs` holds.
    pub count: usize,
    /// How many jobs match in total.
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

/// Name of a server-sent event on `GET /api/v1/events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedEvent {
    /// A job is new or has changed; the data is its [`JobStatus`].
    Job,
    /// The stream cannot continue from the client's last event: it should list the jobs, and follow from here.
    Reset,
}

named!(FeedEvent, "event of all jobs", { Job => "job", Reset => "reset" });

/// Name of a server-sent event on `GET /api/v1/jobs/{id}/events`; its data is a [`JobStatus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobEvent {
    /// Something changed.
    Progress,
    /// The job has ended; the stream ends after it.
    End,
}

named!(JobEvent, "event of a job", { Progress => "progress", End => "end" });
