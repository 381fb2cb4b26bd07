//! Makes the configuration from the resolved settings.

use std::time::Duration;

use super::{
    Backend, BackendKind, Cache, Config, ConfigError, Fleet, Golden, Image, Jobs, Libvirt, Lvm,
    Metrics, Minio, Server, Settings, Tls, Tracing, Trust, Ui, Volumes, Webhooks, logging, thin,
};
use crate::secret::Secret;

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
                mirrors: settings.list("minio.mirrors"),
                addressing: settings.named("minio.addressing")?,
                allowed_hosts: settings.list("minio.allowed_hosts"),
                retry_backoff: settings
                    .backoff("minio.retry_attempts", "minio.retry_backoff_ms")?,
                idle_timeout: settings.duration("minio.idle_timeout")?,
                parallel_ranges: settings.integer("minio.parallel_ranges")?,
                max_read_bytes_per_sec: settings.read_rate("minio.max_read_bytes_per_sec")?,
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
                yields: settings.named("volumes.yield")?,
                yield_floor_bytes_per_sec: settings.size("volumes.yield_floor_bytes_per_sec")?,
                windows: settings.windows("volumes.windows")?,
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
            image: Image {
                sandbox: settings.named("image.sandbox")?,
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
            fleet: Fleet::new(settings)?,
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
