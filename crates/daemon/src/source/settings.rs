//! The settings of a source, and of its range requests.

use std::path::PathBuf;
use std::time::Duration;

use super::{Lender, Trust};
use crate::config::{self, Addressing, CredentialSource, EndpointPath};
use crate::secret::{Secret, SecretUrl};
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
    /// Who lends credentials, in place of the keys.
    pub lender: Option<Lender>,
    /// What becomes of the endpoint's path on the way to the server.
    pub endpoint_path: EndpointPath,
    /// A proxy for all requests.
    pub proxy: Option<SecretUrl>,
    /// Hosts, domains and networks that are reached without it.
    pub no_proxy: Vec<String>,
    /// URLs of caches that are asked before the endpoint is.
    pub mirrors: Vec<String>,
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
            lender: lender(minio),
            endpoint_path: minio.endpoint_path,
            proxy: minio.proxy.clone(),
            no_proxy: minio.no_proxy.clone(),
            mirrors: minio.mirrors.clone(),
            region: minio.region.clone(),
            ca_cert: minio.ca_cert.clone(),
            allowed_hosts: minio.allowed_hosts.clone(),
            retry_backoff: minio.retry_backoff.clone(),
            connect_timeout: web::CONNECT_TIMEOUT,
            idle_timeout: minio.idle_timeout,
            parallel_ranges: minio.parallel_ranges,
            max_read_bytes_per_sec: minio.max_read_bytes_per_sec.at_most(),
            trust: Trust::from(&config.trust),
        }
    }
}

/// How [`Source::read_ranges`](super::Source::read_ranges) divides an object into requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeOptions {
    /// Bytes per request.
    pub range_bytes: u64,
    /// Requests in flight at the same time, or the most if they are measured.
    pub in_flight: usize,
    /// Whether size and number follow what is measured of the server. The size above is not used then.
    pub is_measured: bool,
}

impl Default for RangeOptions {
    fn default() -> Self {
        Self {
            range_bytes: 4 << 20,
            in_flight: 4,
            is_measured: false,
        }
    }
}

/// Who lends credentials according to the configuration, which has been checked.
fn lender(minio: &config::Minio) -> Option<Lender> {
    match minio.credentials {
        CredentialSource::Keys => None,
        CredentialSource::WebIdentity => Some(Lender::WebIdentity {
            role_arn: minio.role_arn.clone().unwrap_or_default(),
            token_file: minio.web_identity_token_file.clone().unwrap_or_default(),
            // MinIO, Ceph and SeaweedFS have their token service at the same place.
            sts_endpoint: (minio.sts_endpoint.clone())
                .or_else(|| minio.endpoint.clone())
                .unwrap_or_default(),
        }),
        CredentialSource::Container => Some(Lender::Container {
            uri: minio.container_credentials.clone().unwrap_or_default(),
            token_file: minio.container_token_file.clone(),
        }),
        CredentialSource::Instance => Some(Lender::Instance {
            metadata_endpoint: minio.metadata_endpoint.clone(),
        }),
    }
}
