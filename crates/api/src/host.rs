//! The daemon and its host: what `GET /api/v1/host`, `/history` and `/doctor` answer.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::health::Readiness;
use crate::named;

/// Answer to `GET /api/v1/host`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostStatus {
    /// The daemon's version, with a leading `v`.
    pub version: String,
    /// When it was started, RFC 3339.
    pub started_at: String,
    /// For how many seconds it has been running.
    pub uptime_sec: u64,
    /// The dependencies, as `GET /readyz` answers.
    pub readiness: Readiness,
    /// Places for jobs.
    pub jobs: HostJobs,
    /// The cache; absent while it cannot be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<HostCache>,
    /// Room for volumes; absent before it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<HostVolumes>,
    /// Its part in a fleet; absent if it follows no orders (`fleet.url`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<HostFleet>,
    /// The daemon's own certificates.
    pub certificates: Vec<CertificateEnd>,
    /// Where traces are looked at: a URL in which `{trace_id}` is to be replaced (`ui.trace_url`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_url: Option<String>,
}

/// Places for jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostJobs {
    /// How many run.
    pub running: usize,
    /// How many can run at the same time.
    pub max_running: usize,
    /// How many may wait.
    pub max_pending: usize,
}

/// The cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostCache {
    /// Its images.
    pub images: u64,
    /// Bytes that these and unfinished downloads take.
    pub size_bytes: u64,
    /// The most that they may take, if there is a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Free space in its file system.
    pub free_bytes: u64,
}

/// Room for volumes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostVolumes {
    /// `lvm` or `dir`.
    pub backend: String,
    /// All room.
    pub total_bytes: u64,
    /// Room for new volumes.
    pub free_bytes: u64,
    /// The thin pool, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<HostPool>,
}

/// A thin pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostPool {
    /// Its name.
    pub name: String,
    /// How much of its data is used, 0 to 100; absent while that cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_percent: Option<f64>,
    /// How much of its metadata is used, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_percent: Option<f64>,
    /// Why no job is given room in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flaw: Option<String>,
}

/// A host's part in a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostFleet {
    /// What this host is called there.
    pub host: String,
    /// Whether it is connected to the broker.
    pub connected: bool,
}

/// When a certificate ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateEnd {
    /// `server` or `client_ca`.
    pub name: String,
    /// The end of its validity, RFC 3339; of several, the first.
    pub not_after: String,
}

/// Answer to `GET /api/v1/history`: what jobs did in each of some intervals. A job counts where it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// When the first interval began, RFC 3339.
    pub from: String,
    /// How long an interval is.
    pub interval_sec: u64,
    /// Jobs that completed in each.
    pub completed: Vec<u64>,
    /// Jobs that failed in each.
    pub failed: Vec<u64>,
    /// Jobs that were cancelled in each.
    pub cancelled: Vec<u64>,
    /// Bytes that these jobs fetched.
    pub fetched_bytes: Vec<u64>,
    /// Bytes that they wrote to volumes.
    pub written_bytes: Vec<u64>,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// It works, but should be improved, or will fail at some time.
    Warn,
    /// It does not work.
    Fail,
}

named!(CheckStatus, "result of a check", { Ok => "ok", Warn => "warn", Fail => "fail" });

/// Answer to `GET /api/v1/doctor`: what `libvirt-volume-provisioner doctor` would report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoctorReport {
    /// When the checks ended, RFC 3339.
    pub checked_at: String,
    /// The worst result of all.
    pub status: CheckStatus,
    /// Every finding.
    pub checks: Vec<DoctorCheck>,
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoctorCheck {
    /// Which check; docs/doctor.md lists them.
    pub check: String,
    /// How it ended.
    pub status: CheckStatus,
    /// What was seen.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}
