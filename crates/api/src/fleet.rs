//! The fleet as one of its hosts sees it: what `GET /api/v1/fleet` answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer to `GET /api/v1/fleet`: this host's part in the fleet, and the orders that it remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetStatus {
    /// What this host is called in the fleet (`fleet.host`).
    pub host: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// The kinds of orders that it follows.
    pub allow: Vec<String>,
    /// Whether it is connected to the broker. Orders that it has are followed without.
    pub connected: bool,
    /// How many orders it remembers.
    pub total: u64,
    /// These, the last received first.
    pub orders: Vec<FleetOrder>,
    /// The request's offset.
    pub offset: u32,
    /// The request's limit.
    pub limit: u32,
    /// The offset of the next part, if this one ends before `limit` because of its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_offset: Option<u32>,
    /// Query parameters that were ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One order on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetOrder {
    /// Its name.
    pub id: String,
    /// The last revision that arrived.
    pub revision: u64,
    /// How far this host is with it, as docs/fleet.md has it.
    pub state: String,
    /// Whether nothing is to be done any more.
    pub ended: bool,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A failed job's type of error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// What it asks for; absent if this release cannot read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asks: Option<FleetAsks>,
    /// The name in `fleet.trust` of the key that signed it.
    pub signer: String,
    /// When it arrived, RFC 3339.
    pub received_at: String,
    /// Whether the broker has the last word about it.
    pub reported: bool,
    /// The job that failed, or one that has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// How many jobs it has here.
    pub jobs: u64,
    /// How many of them have ended.
    pub jobs_ended: u64,
    /// How many have failed.
    pub jobs_failed: u64,
    /// Bytes that they have processed.
    pub bytes: u64,
    /// Bytes that they will have processed, as far as is known.
    pub bytes_total: u64,
    /// Bytes per second since the report before.
    pub bytes_per_second: u64,
}

/// What an order asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetAsks {
    /// `prewarm`, `provision` or `evict`.
    pub kind: String,
    /// `follow` or `cancel`.
    pub action: String,
    /// `all`, `group:NAME` or `host:NAME`.
    pub target: String,
    /// Where the image is; an order to evict may not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_url: Option<String>,
    /// SHA-256 of the image.
    pub image_digest: String,
    /// How many volumes it makes here.
    pub volumes: u64,
    /// Most hosts that work at once, if they take turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts_at_once: Option<u32>,
    /// Most bytes per second that each host fetches, if there is a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_sec: Option<u64>,
    /// When hosts stop following it, RFC 3339.
    pub deadline: String,
    /// Who issued it, in their own words.
    pub issuer: String,
}
