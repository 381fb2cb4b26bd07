//! Jobs: what is asked for, what state it is in, how far it is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::digest::Checksum;
use crate::named;

/// Longest `correlation_id`, in characters.
pub const CORRELATION_ID_MAX: usize = 128;

/// Identifies a job for ever.
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

/// What an image's bytes were, or are going to be, verified against. The first that there is counts.
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
    /// Nothing: whatever the server sent was taken.
    None,
}

named!(Verified, "verification", {
    Signature => "signature",
    Request => "request",
    Sidecar => "sidecar",
    Sums => "sums",
    None => "none",
});

/// Whether a volume shares the bytes of its image with other volumes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cloning {
    /// Where it can be done; else the image is written.
    #[default]
    Auto,
    /// It is not: the volume gets bytes of its own.
    Never,
    /// It is, or the job fails.
    Require,
}

named!(Cloning, "way to clone", { Auto => "auto", Never => "never", Require => "require" });

impl Cloning {
    /// Whether it is what nobody has to say.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// How a volume's bytes came there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// They are shared with a golden volume of the image.
    Clone,
    /// They were written from the image in the cache.
    Copy,
    /// They were written in the pass that fetched the image.
    Stream,
}

named!(Method, "way of making a volume", { Clone => "clone", Copy => "copy", Stream => "stream" });

/// A form of signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SignatureFormat {
    /// OpenPGP.
    OpenPgp,
    /// minisign.
    Minisign,
}

named!(SignatureFormat, "form of signatures", { OpenPgp => "openpgp", Minisign => "minisign" });

/// Whose signature an image was verified by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Signer {
    /// The signature's form.
    pub format: SignatureFormat,
    /// Of an OpenPGP certificate the primary key's fingerprint, of a minisign key its id.
    pub fingerprint: String,
    /// What the key says of its owner: a user id, or a comment.
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

/// What webhooks' receivers are sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WebhookEvent {
    /// `job.completed`, `job.failed` or `job.cancelled`.
    pub event: String,
    /// When it happened, RFC 3339.
    pub timestamp: String,
    /// The job as `GET /api/v1/jobs/{id}` answers.
    pub job: JobStatus,
}

/// Body of `POST /api/v1/jobs`: put this image on this volume.
///
/// Fields that are not known are left out and told in the answer's `warnings`; a name that is nearly a known one is
/// refused. `null` is as good as no field.
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
    /// What the image's bytes must be: `sha256:HEX` or `sha512:HEX`. Checksum files beside the image
    /// have to agree with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub checksum: Option<Checksum>,
    /// Free text that comes back on the job, in logs and in traces; at most 128 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Whether the volume may be one that is there already and says nothing of this program. Its
    /// content is lost. Without this such a volume is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt: bool,
    /// Whether the volume is to share the image's bytes with other volumes of it: `auto` where that can be done,
    /// `never`, or `require`, by which the job fails where it cannot.
    #[serde(default, skip_serializing_if = "Cloning::is_usual")]
    pub clone: Cloning,
}

/// Answer to a request that made a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobAccepted {
    /// The job to ask about.
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
    /// At work.
    Running,
    /// The volume is ready (or, for a cache job, the image is cached).
    Completed,
    /// It did not work; `error` says why.
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
}

named!(JobKind, "kind of job", { Provision => "provision", Cache => "cache", Golden => "golden" });

/// What a running job is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Looking up the object, the cache and the volume.
    Initializing,
    /// Bytes come from the source; on the way they are digested, cached, decoded and written.
    Downloading,
    /// Only decoding and writing are left (or, with a cache hit, are all there is).
    Converting,
    /// Digest compared; syncing, writing the volume's head, publishing.
    Finalizing,
}

named!(Stage, "stage", {
    Initializing => "initializing",
    Downloading => "downloading",
    Converting => "converting",
    Finalizing => "finalizing",
});

/// How far a job is. Every number comes from bytes that moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// What the job is busy with.
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
    /// `provision`, `cache` or `golden`.
    pub kind: JobKind,
    /// The job's state.
    pub status: JobState,
    /// How far it is; absent while pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Why it failed, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The HTTP status that fits the failure (422 for a refused image, 503 for a dependency, ...).
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
    /// The requested image, without credentials.
    pub image_url: String,
    /// Its declared format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_type: Option<ImageType>,
    /// The size of the volume that was asked for, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_size_bytes: Option<u64>,
    /// The volume that is written.
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
    /// Whether the volume was to be cloned, as the request says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone: Option<Cloning>,
    /// How the volume's bytes came there; absent until that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Whose signature the image has; absent until that was verified, and for images without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Signer>,
    /// What an operator may want to know of how it was done: why it did not run in one pass, how
    /// stale bytes were cleared, that a volume was left not ready.
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
    /// How many there are in all that match.
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
    /// What the follower has cannot be gone on from: it should list the jobs, and follow from here.
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
