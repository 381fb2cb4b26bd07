//! The course of a job: what it waits for, what bounded it, when its stages ran, how fast its bytes moved, and
//! what was logged about it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::job::JobId;
use crate::named;

/// What a job waits for when it repeats something that failed, or is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitsFor {
    /// The server that has the image.
    ObjectStore,
    /// The daemon's database or its cache.
    Storage,
    /// Its slot, which a job of high priority has: its transfer is paused.
    Slot,
}

named!(WaitsFor, "cause of a wait", {
    ObjectStore => "object_store",
    Storage => "storage",
    Slot => "slot",
});

impl WaitsFor {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::ObjectStore => "the object store",
            Self::Storage => "the daemon's database and cache",
            Self::Slot => "its slot, which a job of high priority has",
        }
    }
}

/// Something failed, and the job repeats it; or the job is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Waiting {
    /// What it waits for.
    #[serde(rename = "for")]
    pub on: WaitsFor,
    /// When that failed first, or when the job was paused, RFC 3339.
    pub since: String,
    /// How many attempts have failed; 0 while the job is paused.
    pub attempt: u32,
    /// Why the last of them failed, in the other side's words where it gave any.
    pub reason: String,
}

/// What a job's time went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// Waiting for the server of the image, and for its bytes.
    Network,
    /// Decoding, unpacking and hashing.
    Cpu,
    /// Waiting for disks: the volume's, the cache's, the database's; and for LVM.
    Device,
    /// Waiting because of a configured limit of the rate.
    Limit,
    /// Waiting for a free place, or for another job that fetches the same image.
    Queue,
    /// Held back in favour of other users of the same disks or network (`volumes.yield`).
    Guests,
}

// What is stored has the causes in this order: a new one comes last.
named!(Cause, "cause", {
    Network => "network",
    Cpu => "cpu",
    Device => "device",
    Limit => "limit",
    Queue => "queue",
    Guests => "guests",
});

impl Cause {
    /// Continues the sentence "The job was bounded by ...".
    pub const fn text(self) -> &'static str {
        match self {
            Self::Network => "the network: it waited for the object store and its bytes",
            Self::Cpu => "the CPU: it waited for decoding and hashing",
            Self::Device => "a device: it waited for the volume's or the cache's disk, or for LVM",
            Self::Limit => "a configured limit of the rate",
            Self::Queue => {
                "the queue: it waited for a free place, or for another job that fetched the same image"
            }
            Self::Guests => {
                "the guests: it was held back because others use the same disks (volumes.yield)"
            }
        }
    }

    /// What makes such a job faster.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Network => {
                "Fetch the image in advance (lvpctl cache fetch), compress it, or look at the way to the object \
                 store: its own load, proxies, minio.parallel_ranges"
            }
            Self::Cpu => {
                "Use an image that is cheaper to decode (zstd instead of zlib or xz, or none), or give the host \
                 more cores"
            }
            Self::Device => {
                "Look at the load and the health of the disks of the volumes and of the cache; clones \
                 (volumes.clone) write next to nothing"
            }
            Self::Limit => {
                "Raise minio.max_read_bytes_per_sec or volumes.max_write_bytes_per_sec, if guests and the network \
                 can bear it"
            }
            Self::Queue => {
                "Raise libvirt.max_concurrent if devices and network have room, or spread the requests over time \
                 and hosts"
            }
            Self::Guests => {
                "Nothing is wrong: guests came first. Import when they are quiet, put the cache and the volumes \
                 on faster disks, or raise volumes.yield_floor_bytes_per_sec (volumes.yield: off gives the job \
                 its full speed at the guests' expense)"
            }
        }
    }
}

/// What a job's time went to, from its acceptance on: percentages that add up to 100.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Bound {
    /// What took the most.
    pub by: Cause,
    /// Share of `network`.
    pub network: f64,
    /// Share of `cpu`.
    pub cpu: f64,
    /// Share of `device`.
    pub device: f64,
    /// Share of `limit`.
    pub limit: f64,
    /// Share of `queue`.
    pub queue: f64,
    /// Share of `guests`.
    #[serde(default)]
    pub guests: f64,
}

impl Bound {
    /// A share.
    pub fn share(&self, cause: Cause) -> f64 {
        match cause {
            Cause::Network => self.network,
            Cause::Cpu => self.cpu,
            Cause::Device => self.device,
            Cause::Limit => self.limit,
            Cause::Queue => self.queue,
            Cause::Guests => self.guests,
        }
    }
}

/// A part of a job's work on its time line. Several run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// It waited for a free place, or for another job that fetched the same image.
    Queued,
    /// It looked up the object, the cache and the volume.
    Initializing,
    /// Bytes of the image were fetched.
    Downloading,
    /// Bytes were decoded and written.
    Converting,
    /// Syncing, writing the volume's head, publishing; or cloning.
    Finalizing,
    /// It repeated something that had failed.
    Waiting,
}

named!(Lane, "part of a time line", {
    Queued => "queued",
    Initializing => "initializing",
    Downloading => "downloading",
    Converting => "converting",
    Finalizing => "finalizing",
    Waiting => "waiting",
});

/// When a part of the work ran, in seconds after the job's acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LaneTime {
    /// The part.
    pub stage: Lane,
    /// When it began.
    pub begin_sec: f64,
    /// When it ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_sec: Option<f64>,
}

/// Bytes that were moved in each of some intervals of the same length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rates {
    /// When the first interval began, in seconds after the job's acceptance.
    pub from_sec: f64,
    /// How long an interval is. It doubles whenever there would be too many of them.
    pub interval_sec: f64,
    /// Bytes fetched in each.
    pub downloaded: Vec<u64>,
    /// Bytes of the disk that were decoded, or found to be zero, in each.
    pub decoded: Vec<u64>,
    /// Bytes written to the volume in each.
    pub written: Vec<u64>,
}

/// Answer to `GET /api/v1/jobs/{id}/timeline`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Timeline {
    /// The job.
    #[schema(value_type = Uuid)]
    pub job_id: JobId,
    /// When it was accepted, RFC 3339; all seconds count from here.
    pub created_at: String,
    /// When the parts of its work ran.
    pub stages: Vec<LaneTime>,
    /// How fast bytes moved, since its last start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<Rates>,
    /// What its time went to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
    /// The same as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<String>,
    /// Requests that it has sent for its image to the object store and mirrors of it; 0 for jobs of earlier releases.
    #[serde(default)]
    pub requests: u64,
    /// What would make such a job faster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// A line that was logged about a job. Its texts are printable and of limited length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Its number, which only grows; numbers that are missing were cut.
    pub number: u64,
    /// When it was logged, RFC 3339.
    pub time: String,
    /// `error`, `warn` or `info`.
    pub level: String,
    /// The part of the daemon.
    pub component: String,
    /// The message, with its fields in parentheses.
    pub text: String,
}

/// Answer to `GET /api/v1/jobs/{id}/log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobLog {
    /// The job.
    #[schema(value_type = Uuid)]
    pub job_id: JobId,
    /// The lines, the oldest first.
    pub lines: Vec<LogLine>,
    /// How many lines in the middle were cut, because there is room for the first and the last only.
    pub cut: u64,
}
