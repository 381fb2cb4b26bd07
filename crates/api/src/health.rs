//! Health and readiness.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::named;

/// Whether the daemon would start another job at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// There is a free job slot.
    Healthy,
    /// Every job slot is taken; further jobs wait in the queue.
    Degraded,
}

named!(HealthStatus, "health", { Healthy => "healthy", Degraded => "degraded" });

/// Answer to `GET /health`, `/healthz` and `/livez`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `healthy` or `degraded`.
    pub status: HealthStatus,
    /// Now, RFC 3339 in UTC.
    pub timestamp: String,
    /// The daemon's version, with a leading `v`.
    pub version: String,
    /// How long the daemon has been running, as `3h14m52s`.
    pub uptime: String,
}

/// What the last probe of one dependency found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DependencyState {
    /// Whether the probe succeeded.
    pub up: bool,
    /// Since when it is so, RFC 3339; absent before the first probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// What the probe found wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Answer to `GET /readyz`: 200 if `ready`, otherwise 503.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether every dependency is up and the daemon accepts jobs.
    pub ready: bool,
    /// The dependencies by name: `minio`, `lvm`, `libvirt`, `storage`.
    pub dependencies: BTreeMap<String, DependencyState>,
}
