//! What a host says about an order, and about itself.

use lvp_api::{JobId, Sha256Digest, named};
use serde::{Deserialize, Serialize};

use crate::names::{GroupName, HostName, OrderId};
use crate::order::OrderKind;

/// How often a host says that it is there.
pub const HEARTBEAT_SECONDS: u64 = 15;

/// A host that has said nothing for so long is silent: four heartbeats.
pub const SILENT_SECONDS: u64 = 4 * HEARTBEAT_SECONDS;

/// Most digests in a host's record: 64 KiB of them.
pub const CACHED_MAX: usize = 1000;

/// How far a host has come with an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportState {
    /// It is recorded, and nothing has begun.
    Seen,
    /// It waits for its turn, or for something that prevents it from beginning.
    Waiting,
    /// Its jobs run.
    Running,
    /// The image is in the cache now.
    Cached,
    /// It was already as ordered.
    Existing,
    /// It is done.
    Done,
    /// At least one of its jobs has failed.
    Failed,
    /// The host may not follow it.
    Refused,
    /// The host's version does not know such orders.
    Unsupported,
    /// It was cancelled.
    Cancelled,
    /// Its deadline passed before it was done.
    Expired,
}

named!(ReportState, "state of a report", {
    Seen => "seen",
    Waiting => "waiting",
    Running => "running",
    Cached => "cached",
    Existing => "existing",
    Done => "done",
    Failed => "failed",
    Refused => "refused",
    Unsupported => "unsupported",
    Cancelled => "cancelled",
    Expired => "expired",
});

impl ReportState {
    /// Whether nothing comes after it.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Seen | Self::Waiting | Self::Running)
    }

    /// Whether the order is fulfilled.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Cached | Self::Existing | Self::Done)
    }
}

/// What a host says about an order: one value by order and host, which later ones replace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The order.
    pub order: OrderId,
    /// The revision that is meant.
    pub revision: u64,
    /// The host.
    pub host: HostName,
    /// How far it is.
    pub state: ReportState,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A failed job's type of error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The job that this is about: one that failed, or one that has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// How many jobs the order has here.
    pub jobs: u64,
    /// How many have ended.
    pub jobs_ended: u64,
    /// How many have failed.
    pub jobs_failed: u64,
    /// How often the jobs were started, the most of any.
    pub attempt: u32,
    /// Bytes that the jobs have processed.
    pub bytes: u64,
    /// Bytes that they will have processed, as far as is known.
    pub bytes_total: u64,
    /// Bytes per second since the report before.
    pub bytes_per_second: u64,
    /// The host's clock, in seconds since 1970.
    pub time: u64,
}

impl Report {
    /// A report in which nothing has happened yet.
    pub fn new(
        order: OrderId,
        revision: u64,
        host: HostName,
        state: ReportState,
        time: u64,
    ) -> Self {
        Self {
            order,
            revision,
            host,
            state,
            reason: None,
            error_type: None,
            remedy: None,
            job_id: None,
            jobs: 0,
            jobs_ended: 0,
            jobs_failed: 0,
            attempt: 0,
            bytes: 0,
            bytes_total: 0,
            bytes_per_second: 0,
            time,
        }
    }
}

/// What a host says about itself, every [`HEARTBEAT_SECONDS`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostReport {
    /// Its name.
    pub host: HostName,
    /// The daemon's version.
    pub version: String,
    /// Its groups.
    pub groups: Vec<GroupName>,
    /// The orders that it follows.
    pub allow: Vec<OrderKind>,
    /// Its clock, in seconds since 1970.
    pub time: u64,
    /// How many jobs can run at once.
    pub slots: u64,
    /// How many run.
    pub running: u64,
    /// Bytes in the cache.
    pub cache_bytes: u64,
    /// Free bytes of the cache's file system.
    pub free_bytes: u64,
    /// The images in the cache, the last used first.
    pub cached: Vec<Sha256Digest>,
    /// Whether there are more of them than are listed.
    pub has_more: bool,
}
