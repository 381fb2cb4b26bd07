//! Configuration: a YAML file, the environment above it, flags above both.
//!
//! Loading has two steps. [`Settings::load`] resolves every key of [`keys::KEYS`] to a text and its
//! origin; [`Config::from_settings`] turns the texts into values. An unknown key, a value of
//! the wrong form and a combination that cannot work are each an error that names the key.

mod given;
pub mod keys;
mod load;
mod paths;
pub mod reference;
mod value;
mod words;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

pub use load::{ConfigError, Origin, Setting, Settings};
pub use paths::check_with_cache;
pub use words::{BackendKind, LogFormat, LogOutput, StaleData, TraceExporter};

use crate::secret::{Secret, SecretUrl};

/// Where the configuration is read from unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/libvirt-volume-provisioner/config.yaml";

/// The daemon's configuration, typed.
#[derive(Debug, Clone)]
pub struct Config {
    /// Listening and state.
    pub server: Server,
    /// Where images come from.
    pub minio: Minio,
    /// libvirt, and by the Go program's habit the limits of jobs.
    pub libvirt: Libvirt,
    /// Logical volumes.
    pub lvm: Lvm,
    /// Where volumes are, and what becomes of what was there.
    pub volumes: Volumes,
    /// Cached images.
    pub cache: Cache,
    /// Queue and history.
    pub jobs: Jobs,
    /// Who is told of jobs' ends.
    pub webhooks: Webhooks,
    /// What scrapers read.
    pub metrics: Metrics,
    /// The page for people.
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
    pub host: String,
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
    /// Connections of one address.
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
    /// Region to sign for.
    pub region: String,
    /// CA of the server.
    pub ca_cert: Option<PathBuf>,
    /// Other hosts that image URLs may name.
    pub allowed_hosts: Vec<String>,
    /// Waits before repeats, as many as there are repeats.
    pub retry_backoff: Vec<Duration>,
    /// Longest silence of the server.
    pub idle_timeout: Duration,
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
    /// Jobs at once.
    pub max_concurrent: usize,
    /// Longest run of a job.
    pub job_timeout: Duration,
}

/// Section `lvm`.
#[derive(Debug, Clone)]
pub struct Lvm {
    /// Volume group.
    pub volume_group: String,
    /// Waits before repeats, as many as there are repeats.
    pub retry_backoff: Vec<Duration>,
}

/// Section `volumes`: what holds for every back end, and which one it is.
#[derive(Debug, Clone)]
pub struct Volumes {
    /// Where volumes are.
    pub backend: Backend,
    /// Whether volumes that nobody marked may be rewritten.
    pub adopt_untagged: bool,
    /// What becomes of data behind the image's end.
    pub stale_data: StaleData,
    /// Limit of one job's writes.
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
    /// Which kind of back end it is.
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
    /// Evict what was not used for so long.
    pub max_age: Duration,
    /// How often to evict and reconcile.
    pub eviction_interval: Duration,
    /// Largest sum of images.
    pub max_size_bytes: Option<u64>,
    /// Free space to leave.
    pub min_free_bytes: u64,
    /// Refuse images without a sidecar.
    pub require_checksum: bool,
}

/// Section `jobs`.
#[derive(Debug, Clone)]
pub struct Jobs {
    /// Most waiting jobs.
    pub queue_limit: usize,
    /// How long ended jobs stay.
    pub retention: Duration,
}

/// Section `webhooks`.
#[derive(Clone)]
pub struct Webhooks {
    /// Who is told; may hold secrets.
    pub urls: Vec<Url>,
    /// Key of the signatures.
    pub secret: Option<Secret>,
    /// How long an event is tried.
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
    /// Whether the page for people is served.
    pub enabled: bool,
}

/// Section `tracing`.
#[derive(Debug, Clone)]
pub struct Tracing {
    /// URL of the collector; `None` sends nothing.
    pub endpoint: Option<String>,
    /// CA of the collector.
    pub ca_cert: Option<PathBuf>,
    /// Name of the service in traces.
    pub service_name: String,
    /// Share of traces that are kept.
    pub sampling_rate: f64,
}

/// Section `logging`.
#[derive(Debug, Clone)]
pub struct Logging {
    /// Least important level.
    pub level: String,
    /// JSON or text.
    pub format: LogFormat,
    /// Stream that lines are written to.
    pub output: LogOutput,
    /// File that lines are written to as well.
    pub file: Option<PathBuf>,
    /// Share of traces whose lines are written.
    pub sampling_rate: f64,
    /// Loki that lines are pushed to.
    pub loki_url: Option<SecretUrl>,
    /// Where lines are posted.
    pub webhook_url: Option<SecretUrl>,
}

impl Config {
    /// Turns resolved settings into values and checks what only the whole can tell.
    pub fn from_settings(settings: &Settings) -> Result<Self, ConfigError> {
        let config = Self {
            server: Server {
                host: settings.text("server.host")?,
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
                region: settings.text("minio.region")?,
                ca_cert: settings.optional_path("minio.ca_cert"),
                allowed_hosts: settings.list("minio.allowed_hosts"),
                retry_backoff: settings
                    .backoff("minio.retry_attempts", "minio.retry_backoff_ms")?,
                idle_timeout: settings.duration("minio.idle_timeout")?,
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
                retry_backoff: settings.backoff("lvm.retry_attempts", "lvm.retry_backoff_ms")?,
            },
            volumes: Volumes {
                backend: backend(settings)?,
                adopt_untagged: settings.boolean("volumes.adopt_untagged")?,
                stale_data: settings.named("volumes.stale_data")?,
                max_write_bytes_per_sec: settings.limit("volumes.max_write_bytes_per_sec")?,
            },
            cache: Cache {
                dir: settings.optional_path("cache.dir"),
                max_age: settings.duration("cache.max_age")?,
                eviction_interval: settings.duration("cache.eviction_interval")?,
                max_size_bytes: settings.limit("cache.max_size_bytes")?,
                min_free_bytes: settings.size("cache.min_free_bytes")?,
                require_checksum: settings.boolean("cache.require_checksum")?,
            },
            jobs: Jobs {
                queue_limit: settings.integer("jobs.queue_limit")?,
                retention: settings.duration("jobs.retention")?,
            },
            webhooks: Webhooks {
                urls: webhook_urls(settings)?,
                secret: settings.optional_text("webhooks.secret").map(Secret::new),
                max_age: settings.duration("webhooks.max_age")?,
            },
            metrics: Metrics {
                enabled: settings.boolean("metrics.enabled")?,
            },
            ui: Ui {
                enabled: settings.boolean("ui.enabled")?,
            },
            tracing: Tracing {
                endpoint: match settings.named("tracing.exporters")? {
                    TraceExporter::Otlp => settings.optional_text("tracing.endpoint"),
                    TraceExporter::None => None,
                },
                ca_cert: settings.optional_path("tracing.ca_cert"),
                service_name: settings.text("tracing.service_name")?,
                sampling_rate: settings.fraction("tracing.sampling_rate")?,
            },
            logging: Logging {
                level: settings.text("logging.level")?,
                format: settings.named("logging.format")?,
                output: settings.named("logging.output")?,
                file: settings.optional_path("logging.file"),
                sampling_rate: settings.fraction("logging.sampling_rate")?,
                loki_url: settings.secret_url("logging.loki_url")?,
                webhook_url: settings.secret_url("logging.webhook_url")?,
            },
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let invalid = |key, reason: &str| {
            Err(ConfigError::Invalid {
                key,
                reason: reason.to_owned(),
            })
        };
        if !self.libvirt.enabled && self.cache.dir.is_none() {
            return invalid("cache.dir", "is needed when libvirt.enabled is false");
        }
        if self.minio.access_key.is_some() != self.minio.secret_key.is_some() {
            return invalid(
                "minio.secret_key",
                "and minio.access_key are only of use together",
            );
        }
        if self.minio.endpoint.is_none() && self.minio.allowed_hosts.is_empty() {
            return invalid(
                "minio.endpoint",
                "is not set: give the URL of the S3 server",
            );
        }
        if !self.webhooks.urls.is_empty() && self.webhooks.secret.is_none() {
            return invalid(
                "webhooks.secret",
                "is needed with webhooks.urls: receivers know by it that an event is from here",
            );
        }
        if self.cache.eviction_interval.is_zero() {
            return invalid("cache.eviction_interval", "must be longer than zero");
        }
        paths::check(self)
    }
}

fn backend(settings: &Settings) -> Result<Backend, ConfigError> {
    match settings.named("volumes.backend")? {
        BackendKind::Lvm => Ok(Backend::Lvm),
        BackendKind::Dir => match settings.optional_path("volumes.dir") {
            Some(directory) => Ok(Backend::Dir(directory)),
            None => Err(ConfigError::Invalid {
                key: "volumes.dir",
                reason: "is needed with volumes.backend dir: give the directory of the volumes"
                    .to_owned(),
            }),
        },
    }
}

fn webhook_urls(settings: &Settings) -> Result<Vec<Url>, ConfigError> {
    let parse = |text: &String| {
        Url::parse(text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
    };
    let urls = settings.list("webhooks.urls");
    urls.iter()
        .map(parse)
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| ConfigError::Invalid {
            key: "webhooks.urls",
            // What was given may hold a secret.
            reason: "must be URLs such as https://ci.example.com/hooks/volumes".to_owned(),
        })
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
        (Some(_), None) => invalid("server.tls_key", "is needed with server.tls_cert"),
        (None, Some(_)) => invalid("server.tls_cert", "is needed with server.tls_key"),
        (None, None) if client_ca.is_some() => invalid(
            "server.ca_cert",
            "needs server.tls_cert and server.tls_key: client certificates are shown over TLS only",
        ),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests;
