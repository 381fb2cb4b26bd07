//! The settings of a source, and of its range requests.

use std::path::PathBuf;
use std::time::Duration;

use super::Trust;
use crate::config::{self, Addressing};
use crate::secret::Secret;
use crate::web;

/// What the configuration says about object storage, and about the signatures that its images need.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// `http(s)://HOST:PORT`; `None` when only `allowed_hosts` are used.
    pub endpoint: Option<String>,
    /// How its buckets are addressed.
    pub addressing: Addressing,
    /// `None` for anonymous requests.
    pub access_key: Option<String>,
    /// The key that signs.
    pub secret_key: Option<Secret>,
    /// Token of temporary credentials.
    pub session_token: Option<Secret>,
    /// Region in the signature.
    pub region: String,
    /// PEM file of further certificate authorities, beside the system's.
    pub ca_cert: Option<PathBuf>,
    /// Hosts (`host` or `host:port`) besides the endpoint that image URLs may name.
    pub allowed_hosts: Vec<String>,
    /// Waits before the retries of one request or range; as many retries as there are waits.
    pub retry_backoff: Vec<Duration>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// Longest silence of a server.
    pub idle_timeout: Duration,
    /// Ranges of one object that are read in parallel.
    pub parallel_ranges: usize,
    /// Limit of the rate of all reads together.
    pub max_read_bytes_per_sec: Option<u64>,
    /// Whose signatures images need.
    pub trust: Trust,
}

impl From<&config::Config> for SourceSettings {
    fn from(config: &config::Config) -> Self {
        let minio = &config.minio;
        Self {
            endpoint: minio.endpoint.clone(),
            addressing: minio.addressing,
            access_key: minio.access_key.clone(),
            secret_key: minio.secret_key.clone(),
            session_token: minio.session_token.clone(),
            region: minio.region.clone(),
            ca_cert: minio.ca_cert.clone(),
            allowed_hosts: minio.allowed_hosts.clone(),
            retry_backoff: minio.retry_backoff.clone(),
            connect_timeout: web::CONNECT_TIMEOUT,
            idle_timeout: minio.idle_timeout,
            parallel_ranges: minio.parallel_ranges,
            max_read_bytes_per_sec: minio.max_read_bytes_per_sec,
            trust: Trust::from(&config.trust),
        }
    }
}

/// How [`Source::read_ranges`](super::Source::read_ranges) divides an object into requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeOptions {
    /// Bytes per request.
    pub range_bytes: u64,
    /// Requests in flight at the same time.
    pub in_flight: usize,
}

impl Default for RangeOptions {
    fn default() -> Self {
        Self {
            range_bytes: 4 << 20,
            in_flight: 4,
        }
    }
}
