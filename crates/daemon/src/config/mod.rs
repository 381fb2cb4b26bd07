//! Configuration: a YAML file, overridden by the environment, overridden by flags.
//!
//! Loading has two steps. [`Settings::load`] resolves every key of [`keys::KEYS`] to a text and its
//! origin; [`Config::from_settings`] turns the texts into values. An unknown key, a value of the
//! wrong form and a combination that cannot work are errors that name the key.

mod assemble;
mod check;
pub mod endpoints;
mod file;
mod fleet;
mod given;
mod ignored;
mod key;
pub mod keys;
mod kind;
mod load;
mod logging;
mod paths;
pub mod reference;
mod setting;
mod theirs;
mod thin;
mod traces;
mod trim;
mod trust;
mod value;
pub mod windows;
mod words;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use lvp_api::Expand;
use url::Url;

pub use fleet::Fleet;
pub use load::{ConfigError, Settings};
pub use logging::Logging;
pub use paths::check_with_cache;
pub use setting::{Origin, Setting};
pub use thin::ThinPool;
pub use traces::Tracing;
pub use trust::{Trust, web_name};
pub use value::{LogSampling, ReadRate};
pub use words::{
    Addressing, BackendKind, CloneUse, Compression, CredentialSource, EndpointPath, LogFormat,
    LogOutput, OtlpProtocol, SandboxUse, SignaturePolicy, StaleData, TraceExporter, TraceSampler,
    UnpackedUse, YieldUse,
};

use crate::secret::{Secret, SecretUrl};
use windows::Windows;

/// The file that is read unless `--config` names another.
pub const DEFAULT_PATH: &str = "/etc/libvirt-volume-provisioner/config.yaml";

/// The daemon's configuration, typed.
#[derive(Debug, Clone)]
pub struct Config {
    /// Listening and state.
    pub server: Server,
    /// Where images come from.
    pub minio: Minio,
    /// libvirt, and, as in the Go program, the limits of jobs.
    pub libvirt: Libvirt,
    /// Logical volumes.
    pub lvm: Lvm,
    /// Where volumes are, and what happens to older data.
    pub volumes: Volumes,
    /// Cached images.
    pub cache: Cache,
    /// How images are read.
    pub image: Image,
    /// Golden volumes.
    pub golden: Golden,
    /// Whose signatures images need.
    pub trust: Trust,
    /// Queue and history.
    pub jobs: Jobs,
    /// Who is notified when jobs end.
    pub webhooks: Webhooks,
    /// Orders to many hosts, if this one is to follow any.
    pub fleet: Option<Fleet>,
    /// What scrapers read.
    pub metrics: Metrics,
    /// The web page.
    pub ui: Ui,
    /// Traces.
    pub tracing: Tracing,
    /// Log lines.
    pub logging: Logging,
}

/// Section `server`.
#[derive(Debug, Clone)]
pub struct Server {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port to listen on.
    pub port: u16,
    /// The database.
    pub db_path: PathBuf,
    /// The server's certificate and its key; plain HTTP without.
    pub tls: Option<Tls>,
    /// File with tokens.
    pub api_tokens_file: Option<PathBuf>,
    /// Whether health needs no credential.
    pub open_health: bool,
    /// Whether metrics need no credential.
    pub open_metrics: bool,
    /// Connections from one address.
    pub max_connections_per_address: usize,
    /// How long SIGTERM waits for running jobs.
    pub shutdown_grace: Duration,
}

/// The files of TLS, all PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The server's certificate and its chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// CA of client certificates.
    pub client_ca: Option<PathBuf>,
}

/// Section `minio`.
#[derive(Debug, Clone)]
pub struct Minio {
    /// URL of the S3 server.
    pub endpoint: Option<String>,
    /// Access key.
    pub access_key: Option<String>,
    /// Secret key.
    pub secret_key: Option<Secret>,
    /// Token of temporary credentials.
    pub session_token: Option<Secret>,
    /// Region to sign for.
    pub region: String,
    /// CA of the server.
    pub ca_cert: Option<PathBuf>,
    /// Where credentials come from.
    pub credentials: CredentialSource,
    /// Role, for credentials by a token.
    pub role_arn: Option<String>,
    /// File with that token.
    pub web_identity_token_file: Option<PathBuf>,
    /// URL of the token service.
    pub sts_endpoint: Option<String>,
    /// Path or URL of a container's agent.
    pub container_credentials: Option<String>,
    /// File with the token for that agent.
    pub container_token_file: Option<PathBuf>,
    /// URL of a virtual machine's metadata service.
    pub metadata_endpoint: String,
    /// What becomes of the endpoint's path.
    pub endpoint_path: EndpointPath,
    /// Proxy for requests.
    pub proxy: Option<SecretUrl>,
    /// Hosts that are reached without it.
    pub no_proxy: Vec<String>,
    /// Caches of the endpoint's objects.
    pub mirrors: Vec<String>,
    /// How buckets are addressed.
    pub addressing: Addressing,
    /// Other hosts that image URLs may name.
    pub allowed_hosts: Vec<String>,
    /// Waits before repeats, as many as there are repeats.
    pub retry_backoff: Vec<Duration>,
    /// How long the server may send nothing.
    pub idle_timeout: Duration,
    /// Ranges at once.
    pub parallel_ranges: usize,
    /// Limit of all downloads together.
    pub max_read_bytes_per_sec: ReadRate,
}

/// Section `libvirt`.
#[derive(Debug, Clone)]
pub struct Libvirt {
    /// Whether libvirt is used at all.
    pub enabled: bool,
    /// Connection URI.
    pub uri: String,
    /// Pool whose directory is the cache.
    pub pool: String,
    /// How many jobs run at once.
    pub max_concurrent: usize,
    /// Time limit of a job.
    pub job_timeout: Duration,
}

/// Section `lvm`.
#[derive(Debug, Clone)]
pub struct Lvm {
    /// Volume group.
    pub volume_group: String,
    /// Thin pool of new volumes; linear without.
    pub pool: Option<ThinPool>,
    /// Waits before repeats, as many as there are repeats.
    pub retry_backoff: Vec<Duration>,
}

/// Section `volumes`: which back end is used, and what applies to every back end.
#[derive(Debug, Clone)]
pub struct Volumes {
    /// Where volumes are.
    pub backend: Backend,
    /// Whether volumes that are not marked may be rewritten.
    pub adopt_untagged: bool,
    /// What happens to data after the image's end.
    pub stale_data: StaleData,
    /// Whether they are cloned.
    pub clone: CloneUse,
    /// What is done to guests' partition tables, where requests do not say.
    pub expand: Expand,
    /// Bandwidth limit for one job's writes.
    pub max_write_bytes_per_sec: Option<u64>,
    /// Whether jobs step aside for others.
    pub yields: YieldUse,
    /// The rate that they keep.
    pub yield_floor_bytes_per_sec: u64,
    /// When they do not step aside.
    pub windows: Windows,
}

/// A back end, with what it needs of this section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// Logical volumes.
    Lvm,
    /// Files in this directory.
    Dir(PathBuf),
}

impl Backend {
    /// The kind of back end.
    pub fn kind(&self) -> BackendKind {
        match self {
            Self::Lvm => BackendKind::Lvm,
            Self::Dir(_) => BackendKind::Dir,
        }
    }
}

/// Section `cache`.
#[derive(Debug, Clone)]
pub struct Cache {
    /// Directory; `None` is the libvirt pool's.
    pub dir: Option<PathBuf>,
    /// Images that were not used for this long are evicted.
    pub max_age: Duration,
    /// How often eviction and reconciliation run.
    pub eviction_interval: Duration,
    /// Largest total size.
    pub max_size_bytes: Option<u64>,
    /// Free space to leave.
    pub min_free_bytes: u64,
    /// When images get unpacked copies.
    pub unpacked: UnpackedUse,
    /// Whether images without a `.sha256` object are refused.
    pub require_checksum: bool,
}

/// Section `image`.
#[derive(Debug, Clone)]
pub struct Image {
    /// Where compressed data is decoded.
    pub sandbox: SandboxUse,
}

/// Section `golden`.
#[derive(Debug, Clone)]
pub struct Golden {
    /// Most golden volumes.
    pub max_count: usize,
    /// Largest sum of what they take.
    pub max_bytes: Option<u64>,
    /// Remove what nothing was cloned from for so long.
    pub max_age: Duration,
}

/// Section `jobs`.
#[derive(Debug, Clone)]
pub struct Jobs {
    /// How many jobs may wait.
    pub queue_limit: usize,
    /// How long jobs that have ended are kept.
    pub retention: Duration,
}

/// Section `webhooks`.
#[derive(Clone)]
pub struct Webhooks {
    /// The receivers' URLs, which may hold secrets.
    pub urls: Vec<Url>,
    /// Key of the signatures.
    pub secret: Option<Secret>,
    /// How long delivery of an event is tried.
    pub max_age: Duration,
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.urls.iter().map(Url::host_str).collect();
        f.debug_struct("Webhooks")
            .field("hosts", &hosts)
            .field("max_age", &self.max_age)
            .finish_non_exhaustive()
    }
}

/// Section `metrics`.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Whether `GET /metrics` is served.
    pub enabled: bool,
}

/// Section `ui`.
#[derive(Debug, Clone)]
pub struct Ui {
    /// Whether the web page is served.
    pub enabled: bool,
    /// Where traces are looked at, with `{trace_id}` in it.
    pub trace_url: Option<String>,
}

#[cfg(test)]
mod tests;
