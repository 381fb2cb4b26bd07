//! Configuration: a YAML file, overridden by the environment, overridden by flags.
//!
//! Loading has two steps. [`Settings::load`] resolves every key of [`keys::KEYS`] to a text and its
//! origin; [`Config::from_settings`] turns the texts into values. An unknown key, a value of the
//! wrong form and a combination that cannot work are errors that name the key.

mod check;
pub mod endpoints;
mod file;
mod given;
mod ignored;
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
mod words;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use lvp_api::Expand;
use url::Url;

pub use load::{ConfigError, Settings};
pub use logging::Logging;
pub use paths::check_with_cache;
pub use setting::{Origin, Setting};
pub use thin::ThinPool;
pub use traces::Tracing;
pub use trust::{Trust, web_name};
pub use value::LogSampling;
pub use words::{
    Addressing, BackendKind, CloneUse, Compression, CredentialSource, EndpointPath, LogFormat,
    LogOutput, OtlpProtocol, SignaturePolicy, StaleData, TraceExporter, TraceSampler, UnpackedUse,
};

use crate::secret::{Secret, SecretUrl};

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
    /// Golden volumes.
    pub golden: Golden,
    /// Whose signatures images need.
    pub trust: Trust,
    /// Queue and history.
    pub jobs: Jobs,
    /// Who is notified when jobs end.
    pub webhooks: Webhooks,
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
    pub max_read_bytes_per_sec: Option<u64>,
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

impl Config {
    /// Turns resolved settings into values, and checks combinations of keys.
    pub fn from_settings(settings: &Settings) -> Result<Self, ConfigError> {
        let config = Self {
            server: Server {
                host: settings.address("server.host")?,
                port: settings.integer("server.port")?,
                db_path: settings.path("server.db_path")?,
                tls: tls(settings)?,
                api_tokens_file: settings.optional_path("server.api_tokens_file"),
                open_health: settings.boolean("server.open_health")?,
                open_metrics: settings.boolean("server.open_metrics")?,
                max_connections_per_address: settings
                    .integer("server.max_connections_per_address")?,
                shutdown_grace: settings.duration("server.shutdown_grace")?,
            },
            minio: Minio {
                endpoint: settings.optional_text("minio.endpoint"),
                access_key: settings.optional_text("minio.access_key"),
                secret_key: settings.optional_text("minio.secret_key").map(Secret::new),
                session_token: settings
                    .optional_text("minio.session_token")
                    .map(Secret::new),
                region: settings.text("minio.region")?,
                ca_cert: settings.optional_path("minio.ca_cert"),
                credentials: settings.named("minio.credentials")?,
                role_arn: settings.optional_text("minio.role_arn"),
                web_identity_token_file: settings.optional_path("minio.web_identity_token_file"),
                sts_endpoint: settings.optional_text("minio.sts_endpoint"),
                container_credentials: settings.optional_text("minio.container_credentials"),
                container_token_file: settings.optional_path("minio.container_token_file"),
                metadata_endpoint: settings.text("minio.metadata_endpoint")?,
                endpoint_path: settings.named("minio.endpoint_path")?,
                proxy: settings.secret_url("minio.proxy")?,
                no_proxy: settings.list("minio.no_proxy"),
                addressing: settings.named("minio.addressing")?,
                allowed_hosts: settings.list("minio.allowed_hosts"),
                retry_backoff: settings
                    .backoff("minio.retry_attempts", "minio.retry_backoff_ms")?,
                idle_timeout: settings.duration("minio.idle_timeout")?,
                parallel_ranges: settings.integer("minio.parallel_ranges")?,
                max_read_bytes_per_sec: settings.limit("minio.max_read_bytes_per_sec")?,
            },
            libvirt: Libvirt {
                enabled: settings.boolean("libvirt.enabled")?,
                uri: settings.text("libvirt.uri")?,
                pool: settings.text("libvirt.pool")?,
                max_concurrent: settings.integer("libvirt.max_concurrent")?,
                job_timeout: Duration::from_secs(
                    60 * settings.integer::<u64>("libvirt.job_timeout_minutes")?,
                ),
            },
            lvm: Lvm {
                volume_group: settings.text("lvm.volume_group")?,
                pool: thin::pool(settings)?,
                retry_backoff: settings.backoff("lvm.retry_attempts", "lvm.retry_backoff_ms")?,
            },
            volumes: Volumes {
                backend: backend(settings)?,
                adopt_untagged: settings.boolean("volumes.adopt_untagged")?,
                stale_data: settings.named("volumes.stale_data")?,
                clone: settings.named("volumes.clone")?,
                expand: settings.named("volumes.expand")?,
                max_write_bytes_per_sec: settings.limit("volumes.max_write_bytes_per_sec")?,
            },
            cache: Cache {
                dir: settings.optional_path("cache.dir"),
                max_age: settings.duration("cache.max_age")?,
                eviction_interval: settings.duration("cache.eviction_interval")?,
                max_size_bytes: settings.limit("cache.max_size_bytes")?,
                min_free_bytes: settings.size("cache.min_free_bytes")?,
                unpacked: settings.named("cache.unpacked")?,
                require_checksum: settings.boolean("cache.require_checksum")?,
            },
            golden: Golden {
                max_count: settings.integer("golden.max_count")?,
                max_bytes: settings.limit("golden.max_bytes")?,
                max_age: settings.duration("golden.max_age")?,
            },
            trust: Trust::new(settings)?,
            jobs: Jobs {
                queue_limit: settings.integer("jobs.queue_limit")?,
                retention: settings.duration("jobs.retention")?,
            },
            webhooks: Webhooks {
                urls: settings.receivers("webhooks.urls")?,
                secret: settings.optional_text("webhooks.secret").map(Secret::new),
                max_age: settings.duration("webhooks.max_age")?,
            },
            metrics: Metrics {
                enabled: settings.boolean("metrics.enabled")?,
            },
            ui: Ui {
                enabled: settings.boolean("ui.enabled")?,
                trace_url: settings.trace_url("ui.trace_url")?,
            },
            tracing: Tracing::new(settings)?,
            logging: logging::logging(settings)?,
        };
        config.check()?;
        Ok(config)
    }
}

fn backend(settings: &Settings) -> Result<Backend, ConfigError> {
    match settings.named("volumes.backend")? {
        BackendKind::Lvm => Ok(Backend::Lvm),
        BackendKind::Dir => match settings.optional_path("volumes.dir") {
            Some(directory) => Ok(Backend::Dir(directory)),
            None => Err(ConfigError::Invalid {
                key: "volumes.dir",
                reason: "must be set with volumes.backend dir: give the directory of the volumes"
                    .to_owned(),
            }),
        },
    }
}

fn tls(settings: &Settings) -> Result<Option<Tls>, ConfigError> {
    let invalid = |key, reason: &str| {
        Err(ConfigError::Invalid {
            key,
            reason: reason.to_owned(),
        })
    };
    let client_ca = settings.optional_path("server.ca_cert");
    match (
        settings.optional_path("server.tls_cert"),
        settings.optional_path("server.tls_key"),
    ) {
        (Some(cert), Some(key)) => Ok(Some(Tls {
            cert,
            key,
            client_ca,
        })),
        (Some(_), None) => invalid("server.tls_key", "must be set with server.tls_cert"),
        (None, Some(_)) => invalid("server.tls_cert", "must be set with server.tls_key"),
        (None, None) if client_ca.is_some() => invalid(
            "server.ca_cert",
            "needs server.tls_cert and server.tls_key: client certificates work over TLS only",
        ),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests;
