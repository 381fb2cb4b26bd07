//! Every configuration key: its path in the file, its environment variables, its default.
//!
//! This table is the one source for loading, for `config show` and for `docs/config.md`. A key
//! that is not here is refused.

use std::time::Duration;

use super::words::{Compression, OtlpProtocol, TraceSampler};
use super::{BackendKind, LogFormat, LogOutput, SignaturePolicy, StaleData, TraceExporter};

/// What a key's value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Letters, digits and signs of ASCII without blanks, as they are part of a header.
    Word,
    /// A path of the local file system.
    Path,
    /// A text that is never shown.
    Secret,
    /// Texts that are never shown, with commas between, or a YAML list.
    Secrets,
    /// A whole number within bounds, both included.
    Integer {
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
    /// A fraction from 0 to 1.
    Fraction,
    /// A fraction from 0 to 1, or every how many lines one is written.
    Sampling,
    /// `true` or `false`.
    Bool,
    /// A duration such as `168h`, `30m`, `5s`, `100ms`.
    Duration {
        /// Least value.
        min: Duration,
    },
    /// A size in bytes, a number or one with a unit: `1073741824`, `10G`.
    Size,
    /// Whole milliseconds, several with commas between or as a YAML list.
    MillisecondList,
    /// Words with commas between, or a YAML list.
    List,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Some of these words, with commas between or as a YAML list.
    Words(&'static [&'static str]),
    /// An IP address of this host.
    Address,
    /// One of these words, or the path of a file.
    Stream(&'static [&'static str]),
}

impl Kind {
    /// Whether a YAML list will do.
    pub fn takes_several(self) -> bool {
        matches!(
            self,
            Self::Secrets | Self::MillisecondList | Self::List | Self::Words(_)
        )
    }

    /// Whether values of it must not be shown.
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::Secrets)
    }
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// `section.name` as in the file.
    pub path: &'static str,
    /// Environment variables, the first that is set wins.
    pub env: &'static [&'static str],
    /// Form of the value.
    pub kind: Kind,
    /// Used when neither the file nor the environment has the key; empty means none.
    pub default: &'static str,
    /// One line for the reference.
    pub help: &'static str,
    /// What it was called before, which is still taken.
    pub former: Option<Former>,
    /// Words of the Go program and of OpenTelemetry that mean one of ours.
    pub also: &'static [(&'static str, &'static str)],
}

/// A key's former names.
#[derive(Debug)]
pub struct Former {
    /// `section.name`.
    pub path: &'static str,
    /// The environment variable.
    pub env: &'static str,
}

impl Key {
    /// Whether this is one of its paths.
    pub fn is_called(&self, path: &str) -> bool {
        let former = self.former.as_ref().map(|former| former.path);
        self.path == path || former == Some(path)
    }

    /// What it was called before, as operators read it; empty when it was always called so.
    pub fn formerly(&self) -> String {
        self.former.as_ref().map_or_else(String::new, |former| {
            format!("formerly {}, {}", former.path, former.env)
        })
    }
}

const fn key(
    path: &'static str,
    env: &'static [&'static str],
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Key {
    Key {
        path,
        env,
        kind,
        default,
        help,
        former: None,
        also: &[],
    }
}

/// A key that takes other words for its own.
const fn also(key: Key, also: &'static [(&'static str, &'static str)]) -> Key {
    Key { also, ..key }
}

/// A key that was in another section.
const fn moved(key: Key, path: &'static str, env: &'static str) -> Key {
    Key {
        former: Some(Former { path, env }),
        ..key
    }
}

const MILLISECONDS: Kind = Kind::MillisecondList;
const RETRIES: Kind = Kind::Integer { min: 0, max: 20 };
const DURATION: Kind = Kind::Duration {
    min: Duration::ZERO,
};
/// Of something that is done again and again, or waited for.
const INTERVAL: Kind = Kind::Duration {
    min: Duration::from_millis(1),
};

/// All keys, by section.
pub const KEYS: &[Key] = &[
    key(
        "server.host",
        &["HOST"],
        Kind::Address,
        "0.0.0.0",
        "Address to listen on; without tokens and a client CA only loopback is listened on",
    ),
    key(
        "server.port",
        &["PORT"],
        Kind::Integer { min: 0, max: 65535 },
        "8080",
        "Port to listen on; 0 takes a free one, which is logged",
    ),
    key(
        "server.db_path",
        &["DB_PATH", "DATABASE_PATH"],
        Kind::Path,
        "/var/lib/libvirt-volume-provisioner/jobs.db",
        "SQLite database with the jobs and the cache's index",
    ),
    key(
        "server.tls_cert",
        &["TLS_CERT_FILE", "SERVER_CERT"],
        Kind::Path,
        "",
        "PEM file with the server's certificate and its chain; without one the daemon speaks plain HTTP",
    ),
    key(
        "server.tls_key",
        &["TLS_KEY_FILE", "SERVER_KEY"],
        Kind::Path,
        "",
        "PEM file with the key of the server's certificate",
    ),
    key(
        "server.ca_cert",
        &["CLIENT_CA_CERT"],
        Kind::Path,
        "",
        "PEM file with the CA of client certificates; a client with one needs no token",
    ),
    key(
        "server.api_tokens_file",
        &["API_TOKENS_FILE"],
        Kind::Path,
        "",
        "File with one token a line: TOKEN, NAME:TOKEN or NAME:ROLE:TOKEN (roles: read, provision)",
    ),
    key(
        "server.open_health",
        &["OPEN_HEALTH"],
        Kind::Bool,
        "true",
        "Whether /health, /healthz, /livez and /readyz answer without a credential",
    ),
    key(
        "server.open_metrics",
        &["OPEN_METRICS"],
        Kind::Bool,
        "true",
        "Whether /metrics answers without a credential",
    ),
    key(
        "server.max_connections_per_address",
        &["MAX_CONNECTIONS_PER_ADDRESS"],
        Kind::Integer { min: 1, max: 512 },
        "128",
        "Connections of one address (of one /64 network of IPv6), of 512 in all; more for a proxy that many clients share",
    ),
    key(
        "server.shutdown_grace",
        &["SHUTDOWN_GRACE"],
        DURATION,
        "30s",
        "How long SIGTERM waits for running jobs before it leaves them to be resumed",
    ),
    key(
        "minio.endpoint",
        &["MINIO_ENDPOINT"],
        Kind::Text,
        "",
        "URL of the S3 server, such as https://minio.example.com:9000; a bare host means https",
    ),
    key(
        "minio.access_key",
        &["MINIO_ACCESS_KEY", "MINIO_ACCESS_KEY_ID"],
        Kind::Word,
        "",
        "S3 access key; without one, requests are not signed",
    ),
    key(
        "minio.secret_key",
        &["MINIO_SECRET_KEY", "MINIO_SECRET_ACCESS_KEY"],
        Kind::Secret,
        "",
        "S3 secret key",
    ),
    key(
        "minio.session_token",
        &["MINIO_SESSION_TOKEN"],
        Kind::Secret,
        "",
        "Session token of temporary credentials, which go with minio.access_key and minio.secret_key",
    ),
    key(
        "minio.region",
        &["MINIO_REGION"],
        Kind::Word,
        "us-east-1",
        "S3 region to sign for",
    ),
    key(
        "minio.ca_cert",
        &["MINIO_CA_CERT"],
        Kind::Path,
        "",
        "PEM file with the CA of the S3 server; added to the system's",
    ),
    key(
        "minio.allowed_hosts",
        &["MINIO_ALLOWED_HOSTS"],
        Kind::List,
        "",
        "Other hosts (host or host:port, *.DOMAIN for those below one) that image URLs may name",
    ),
    key(
        "minio.retry_attempts",
        &["MINIO_RETRY_ATTEMPTS"],
        RETRIES,
        "3",
        "How often one failed range request is repeated",
    ),
    key(
        "minio.retry_backoff_ms",
        &["MINIO_RETRY_BACKOFF_MS"],
        MILLISECONDS,
        "100,1000,10000",
        "Wait before each repeat; the last value serves for all further ones",
    ),
    key(
        "minio.idle_timeout",
        &["MINIO_IDLE_TIMEOUT"],
        INTERVAL,
        "30s",
        "Longest silence of the server before a request is given up and repeated",
    ),
    key(
        "minio.parallel_ranges",
        &["MINIO_PARALLEL_RANGES"],
        Kind::Integer { min: 1, max: 16 },
        "4",
        "Ranges of one object that are read at once; fewer where the server answers 429 or 503",
    ),
    key(
        "minio.max_read_bytes_per_sec",
        &["MINIO_MAX_READ_BYTES_PER_SEC"],
        Kind::Size,
        "0",
        "Limit of all downloads together; 0 is none",
    ),
    key(
        "libvirt.enabled",
        &["LIBVIRT_ENABLED"],
        Kind::Bool,
        "true",
        "Whether libvirt is used: for the pool's path, uploads, and to see which volumes domains use",
    ),
    key(
        "libvirt.uri",
        &["LIBVIRT_URI"],
        Kind::Text,
        "qemu:///system",
        "libvirt connection",
    ),
    key(
        "libvirt.pool",
        &["LIBVIRT_POOL"],
        Kind::Text,
        "images",
        "Pool whose directory is the cache",
    ),
    key(
        "libvirt.max_concurrent",
        &["MAX_CONCURRENT", "MAX_CONCURRENT_JOBS"],
        Kind::Integer { min: 1, max: 64 },
        "2",
        "How many jobs run at once",
    ),
    key(
        "libvirt.job_timeout_minutes",
        &["JOB_TIMEOUT_MINUTES"],
        Kind::Integer { min: 1, max: 10080 },
        "180",
        "A job that runs longer fails",
    ),
    key(
        "lvm.volume_group",
        &["LVM_VOLUME_GROUP"],
        Kind::Word,
        "vg0",
        "Volume group for the volumes",
    ),
    key(
        "lvm.retry_attempts",
        &["LVM_RETRY_ATTEMPTS"],
        RETRIES,
        "2",
        "How often an LVM command that may pass later is repeated",
    ),
    key(
        "lvm.retry_backoff_ms",
        &["LVM_RETRY_BACKOFF_MS"],
        MILLISECONDS,
        "100,1000",
        "Wait before each repeat; the last value serves for all further ones",
    ),
    key(
        "volumes.backend",
        &["VOLUME_BACKEND"],
        Kind::OneOf(BackendKind::NAMES),
        "lvm",
        "Where volumes live: logical volumes, or sparse raw files in a directory",
    ),
    key(
        "volumes.dir",
        &["VOLUME_DIR"],
        Kind::Path,
        "",
        "Directory of the volumes, for backend dir: volume NAME is the file DIR/NAME",
    ),
    moved(
        key(
            "volumes.adopt_untagged",
            &["VOLUME_ADOPT_UNTAGGED"],
            Kind::Bool,
            "false",
            "Whether an existing volume that nobody marked as this program's may be rewritten, without \
             the request saying so (adopt: true)",
        ),
        "lvm.adopt_untagged",
        "LVM_ADOPT_UNTAGGED",
    ),
    moved(
        key(
            "volumes.stale_data",
            &["VOLUME_STALE_DATA"],
            Kind::OneOf(StaleData::NAMES),
            "zero",
            "What becomes of older data behind the image's end: zeroed, its first and last MiB zeroed, kept",
        ),
        "lvm.stale_data",
        "LVM_STALE_DATA",
    ),
    moved(
        key(
            "volumes.max_write_bytes_per_sec",
            &["VOLUME_MAX_WRITE_BYTES_PER_SEC"],
            Kind::Size,
            "0",
            "Limit of one job's writes to its volume; 0 is none",
        ),
        "lvm.max_write_bytes_per_sec",
        "LVM_MAX_WRITE_BYTES_PER_SEC",
    ),
    key(
        "cache.dir",
        &["CACHE_DIR"],
        Kind::Path,
        "",
        "Directory of cached images; default is the libvirt pool's target path",
    ),
    key(
        "cache.max_age",
        &["CACHE_MAX_AGE"],
        DURATION,
        "168h",
        "An image that no job used for so long is evicted",
    ),
    key(
        "cache.eviction_interval",
        &["CACHE_EVICTION_INTERVAL"],
        INTERVAL,
        "1h",
        "How often eviction and reconciliation run",
    ),
    key(
        "cache.max_size_bytes",
        &["CACHE_MAX_SIZE_BYTES"],
        Kind::Size,
        "8G",
        "Largest sum of cached images and unfinished downloads; 0 is no limit",
    ),
    key(
        "cache.min_free_bytes",
        &["CACHE_MIN_FREE_BYTES"],
        Kind::Size,
        "1G",
        "Free space that the cache leaves in its file system",
    ),
    key(
        "cache.require_checksum",
        &["CACHE_REQUIRE_CHECKSUM"],
        Kind::Bool,
        "false",
        "Refuse images that have no .sha256 object",
    ),
    key(
        "trust.policy",
        &["TRUST_POLICY"],
        Kind::OneOf(SignaturePolicy::NAMES),
        "off",
        "What is asked of images' signatures where trust.rules does not say else: nothing, that one which is there is good, \
         or that there is a good one",
    ),
    key(
        "trust.rules",
        &["TRUST_RULES"],
        Kind::List,
        "",
        "PREFIX=POLICY: another policy for images below a prefix (BUCKET, BUCKET/FOLDER/, https://HOST/FOLDER/); the longest \
         prefix counts",
    ),
    key(
        "trust.keys",
        &["TRUST_KEYS"],
        Kind::List,
        "",
        "Files with public keys of OpenPGP or minisign that images' signatures are believed by; PREFIX=FILE for images below \
         a prefix only. They are read for each image",
    ),
    key(
        "jobs.queue_limit",
        &["JOBS_QUEUE_LIMIT"],
        Kind::Integer {
            min: 1,
            max: 100_000,
        },
        "1000",
        "Most jobs that may wait; further ones get 429",
    ),
    key(
        "jobs.retention",
        &["JOBS_RETENTION"],
        DURATION,
        "720h",
        "How long ended jobs stay readable",
    ),
    key(
        "webhooks.urls",
        &["WEBHOOK_URLS"],
        Kind::Secrets,
        "",
        "URLs that are told of every job's end, several with commas between or a YAML list",
    ),
    key(
        "webhooks.secret",
        &["WEBHOOK_SECRET"],
        Kind::Secret,
        "",
        "Key of the signatures by which receivers know that an event is from here",
    ),
    key(
        "webhooks.max_age",
        &["WEBHOOK_MAX_AGE"],
        DURATION,
        "24h",
        "An event that no receiver took for so long is given up",
    ),
    key(
        "metrics.enabled",
        &["METRICS_ENABLED"],
        Kind::Bool,
        "true",
        "Whether GET /metrics is served",
    ),
    key(
        "ui.enabled",
        &["UI_ENABLED"],
        Kind::Bool,
        "true",
        "Whether the page for people is served at /; it asks for a token, and shows what that may see",
    ),
    key(
        "tracing.endpoint",
        &[
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ],
        Kind::Text,
        "",
        "URL of the OTLP collector, such as https://otel.example.com:4317; none sends no traces. Without a scheme, https is \
         meant, or http with OTEL_EXPORTER_OTLP_INSECURE=true",
    ),
    key(
        "tracing.protocol",
        &[
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "OTEL_EXPORTER_OTLP_PROTOCOL",
        ],
        Kind::OneOf(OtlpProtocol::NAMES),
        "grpc",
        "How the collector is spoken to; by http/protobuf, /v1/traces is added to the endpoint, unless that is \
         OTEL_EXPORTER_OTLP_TRACES_ENDPOINT's",
    ),
    key(
        "tracing.compression",
        &[
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
            "OTEL_EXPORTER_OTLP_COMPRESSION",
        ],
        Kind::OneOf(Compression::NAMES),
        "none",
        "How what the collector is sent is compressed",
    ),
    key(
        "tracing.timeout",
        &[
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
            "OTEL_EXPORTER_OTLP_TIMEOUT",
        ],
        INTERVAL,
        "10s",
        "Longest time that the collector may take for a batch; the variables count milliseconds",
    ),
    key(
        "tracing.ca_cert",
        &[
            "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
        ],
        Kind::Path,
        "",
        "PEM file with the CA of the collector; added to the system's",
    ),
    key(
        "tracing.service_name",
        &["OTEL_SERVICE_NAME"],
        Kind::Text,
        "libvirt-volume-provisioner",
        "service.name of the traces; OTEL_RESOURCE_ATTRIBUTES with a service.name beats the file's and the default",
    ),
    key(
        "tracing.resource_attributes",
        &["OTEL_RESOURCE_ATTRIBUTES"],
        Kind::Text,
        "",
        "What is said of this service in every trace: NAME=VALUE with commas between",
    ),
    key(
        "tracing.sampler",
        &["OTEL_TRACES_SAMPLER"],
        Kind::OneOf(TraceSampler::NAMES),
        "parentbased_traceidratio",
        "How traces are chosen; those whose names begin with parentbased_ follow a client's decision",
    ),
    key(
        "tracing.sampling_rate",
        &["TRACING_SAMPLING_RATE", "OTEL_TRACES_SAMPLER_ARG"],
        Kind::Fraction,
        "1.0",
        "Share of traces that are kept, where the sampler goes by one; OTEL_TRACES_SAMPLER_ARG counts with OTEL_TRACES_SAMPLER",
    ),
    key(
        "tracing.polling_sampling_rate",
        &["TRACING_POLLING_SAMPLING_RATE"],
        Kind::Fraction,
        "0.01",
        "Share kept of the traces of requests that only ask how a job is; a client's decision is followed",
    ),
    also(
        key(
            "tracing.exporters",
            &["OTEL_TRACES_EXPORTER", "TRACING_EXPORTERS"],
            Kind::Words(TraceExporter::NAMES),
            "otlp",
            "Where traces go: to the collector, to standard output as JSON lines, nowhere",
        ),
        &[("console", "stdout"), ("jaeger", ""), ("zipkin", "")],
    ),
    key(
        "tracing.disabled",
        &["OTEL_SDK_DISABLED"],
        Kind::Bool,
        "false",
        "Whether no traces are sent, whatever the other keys say",
    ),
    also(
        key(
            "logging.level",
            &["LOG_LEVEL"],
            Kind::OneOf(&["error", "warn", "info", "debug", "trace"]),
            "info",
            "Least important lines that are written",
        ),
        &[("warning", "warn"), ("fatal", "error"), ("panic", "error")],
    ),
    key(
        "logging.format",
        &["LOG_FORMAT"],
        Kind::OneOf(LogFormat::NAMES),
        "json",
        "Form of a line",
    ),
    key(
        "logging.output",
        &["LOG_OUTPUT"],
        Kind::Stream(LogOutput::NAMES),
        "stderr",
        "Stream that lines are written to; the path of a file means logging.file",
    ),
    key(
        "logging.file",
        &["LOG_FILE"],
        Kind::Stream(LogOutput::NAMES),
        "",
        "File that lines are written to as well, opened anew on SIGHUP; stdout and stderr mean logging.output",
    ),
    key(
        "logging.sampling_rate",
        &["LOG_SAMPLING_RATE"],
        Kind::Sampling,
        "1.0",
        "Between 0 and 1, the share of the traces (requests and their jobs) whose lines are written, and lines outside any \
         trace; a whole number N from 2 on writes every N-th line; 0 and 1 write all. Warnings, errors and audit lines \
         always are written",
    ),
    key(
        "logging.loki_url",
        &["LOG_LOKI_URL", "LOKI_URL"],
        Kind::Secret,
        "",
        "URL of a Loki that lines are pushed to as well, with credentials if it asks for some; without \
         a path, /loki/api/v1/push is meant",
    ),
    key(
        "logging.loki_tenant",
        &["LOG_LOKI_TENANT", "LOKI_TENANT_ID"],
        Kind::Word,
        "",
        "Tenant of a Loki that has several, sent as X-Scope-OrgID",
    ),
    key(
        "logging.webhook_url",
        &["LOG_WEBHOOK_URL"],
        Kind::Secret,
        "",
        "URL that lines are posted to as well, as a JSON array of the lines",
    ),
];

/// Keys that the Go program's documentation has and that mean nothing here: accepted with a warning.
pub const IGNORED: &[(&str, &str)] = &[
    ("minio.bucket", "the bucket is part of every image URL"),
    (
        "minio.use_ssl",
        "minio.endpoint says by http:// or https:// whether TLS is spoken",
    ),
    (
        "server.request_timeout",
        "requests are answered at once, and jobs have libvirt.job_timeout_minutes",
    ),
];

/// Variables of the Go program's documentation that mean nothing here, likewise.
pub const IGNORED_VARIABLES: &[(&str, &str)] = &[
    ("MINIO_BUCKET", IGNORED[0].1),
    ("MINIO_USE_SSL", IGNORED[1].1),
    ("REQUEST_TIMEOUT", IGNORED[2].1),
];
