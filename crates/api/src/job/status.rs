//! How a job is: its progress, its status, and the events that tell of them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Cloning, Expand, ImageType, JobId, JobKind, JobState, Method, Priority, Signer, Verified,
    WhenFull,
};
use crate::course::{Bound, Waiting};
use crate::{VerifiedVolume, named};

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
    /// Which jobs begin first; `normal` for jobs of earlier releases.
    #[serde(default)]
    pub priority: Priority,
    /// What the job waits for, while it repeats something that failed or is paused for a job of high priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// What its time has gone to; absent for jobs of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
    /// Requests that it has sent for its image to the object store and mirrors of it, those included that failed
    /// and those for checksum files; 0 for jobs of earlier releases.
    #[serde(default)]
    pub requests: u64,
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
