//! Every configuration key: its path in the file, its environment variables, its default.
//!
//! Loading, `config show` and `docs/config.md` are all made from this table. A key that is not in
//! it is refused.

use std::time::Duration;

use lvp_api::Expand;

pub use super::key::{Former, Key};
use super::key::{also, key, moved};
pub use super::kind::Kind;

use super::words::{Compression, OtlpProtocol, TraceSampler};
use super::{
    Addressing, BackendKind, CloneUse, CredentialSource, EndpointPath, LogFormat, LogOutput,
    SandboxUse, SignaturePolicy, StaleData, TraceExporter, UnpackedUse, YieldUse,
};

const MILLISECONDS: Kind = Kind::MillisecondList;
const RETRIES: Kind = Kind::Integer { min: 0, max: 20 };
const PERCENT: Kind = Kind::Integer { min: 1, max: 100 };
const DURATION: Kind = Kind::Duration {
    min: Duration::ZERO,
};
/// A duration of something that repeats or is waited for.
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
        "Port to listen on; 0 picks a free one, which is logged",
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
        "Connections from one address (for IPv6, one /64 network), out of 512 in all; raise it for a proxy that many clients share",
    ),
    key(
        "server.shutdown_grace",
        &["SHUTDOWN_GRACE"],
        DURATION,
        "30s",
        "How long the daemon waits for running jobs after SIGTERM; jobs that are left are resumed at the next start",
    ),
    key(
        "minio.endpoint",
        &["MINIO_ENDPOINT"],
        Kind::Text,
        "",
        "URL of the S3 server, such as https://minio.example.com:9000; a bare host means https",
    ),
    key(
        "minio.addressing",
        &["MINIO_ADDRESSING"],
        Kind::OneOf(Addressing::NAMES),
        "path",
        "How buckets are addressed: ENDPOINT/BUCKET (path), BUCKET.ENDPOINT (virtual), or the latter only where the endpoint \
         has a domain's name and, with TLS, the bucket has no dot (auto)",
    ),
    key(
        "minio.endpoint_path",
        &["MINIO_ENDPOINT_PATH"],
        Kind::OneOf(EndpointPath::NAMES),
        "keep",
        "What a reverse proxy does with the path in minio.endpoint: keep (the server gets it, and signatures cover it) or strip \
         (the proxy removes it, and signatures cover the rest)",
    ),
    key(
        "minio.proxy",
        &["MINIO_PROXY"],
        Kind::Secret,
        "",
        "Proxy for all requests for images, such as http://proxy.example.com:3128; CONNECT is used for https. No proxy is taken \
         from the environment",
    ),
    key(
        "minio.no_proxy",
        &["MINIO_NO_PROXY"],
        Kind::List,
        "",
        "Hosts that are reached without minio.proxy: names (with all names below them), addresses, networks (10.0.0.0/8)",
    ),
    key(
        "minio.mirrors",
        &["MINIO_MIRRORS"],
        Kind::List,
        "",
        "URLs of caches that are asked for the bytes of the endpoint's objects before the endpoint is, in this order, at most 8; \
         see docs/mirrors.md",
    ),
    key(
        "minio.credentials",
        &["MINIO_CREDENTIALS"],
        Kind::OneOf(CredentialSource::NAMES),
        "keys",
        "Where credentials come from: minio.access_key and minio.secret_key (keys), a token service (web-identity), the agent of \
         a container (container), or the metadata service of a virtual machine (instance)",
    ),
    key(
        "minio.role_arn",
        &["AWS_ROLE_ARN"],
        Kind::Word,
        "",
        "Role to assume, for web-identity",
    ),
    key(
        "minio.web_identity_token_file",
        &["AWS_WEB_IDENTITY_TOKEN_FILE"],
        Kind::Path,
        "",
        "File with the token of the identity provider, for web-identity; read again whenever credentials are renewed",
    ),
    key(
        "minio.sts_endpoint",
        &["AWS_ENDPOINT_URL_STS"],
        Kind::Word,
        "",
        "URL of the token service, for web-identity, such as https://sts.eu-central-1.amazonaws.com; minio.endpoint unless set",
    ),
    key(
        "minio.container_credentials",
        &[
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        ],
        Kind::Word,
        "",
        "URL of the agent (EKS), or the path at 169.254.170.2 (ECS), for container",
    ),
    key(
        "minio.container_token_file",
        &["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"],
        Kind::Path,
        "",
        "File with the token for the agent's URL, for container",
    ),
    key(
        "minio.metadata_endpoint",
        &["AWS_EC2_METADATA_SERVICE_ENDPOINT"],
        Kind::Word,
        "http://169.254.169.254",
        "URL of the metadata service (IMDSv2), for instance",
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
        "PEM file with the CA of the S3 server, in addition to the system's",
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
        "How often a failed range request is repeated",
    ),
    key(
        "minio.retry_backoff_ms",
        &["MINIO_RETRY_BACKOFF_MS"],
        MILLISECONDS,
        "100,1000,10000",
        "Wait before each repeat; the last value is used for all further ones",
    ),
    key(
        "minio.idle_timeout",
        &["MINIO_IDLE_TIMEOUT"],
        INTERVAL,
        "30s",
        "How long the server may send nothing before a request is aborted and repeated",
    ),
    key(
        "minio.parallel_ranges",
        &["MINIO_PARALLEL_RANGES"],
        Kind::Integer { min: 1, max: 16 },
        "16",
        "Most ranges of one object that are read at once; how many there are, and how large they are, follows what is measured \
         of the server, and there are fewer where it answers 429 or 503",
    ),
    key(
        "minio.max_read_bytes_per_sec",
        &["MINIO_MAX_READ_BYTES_PER_SEC"],
        Kind::SizeOrAuto,
        "0",
        "Bandwidth limit for all downloads together; 0 means none, and auto what others on the host's links leave room for, \
         where that can be measured",
    ),
    key(
        "libvirt.enabled",
        &["LIBVIRT_ENABLED"],
        Kind::Bool,
        "true",
        "Whether libvirt is used: for the pool's path, for uploads, and to find out which volumes domains use",
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
        "Storage pool whose directory is the cache",
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
        "Time limit of a job; a job that runs longer fails",
    ),
    key(
        "lvm.volume_group",
        &["LVM_VOLUME_GROUP"],
        Kind::Word,
        "vg0",
        "Volume group in which volumes are created",
    ),
    key(
        "lvm.thin_pool",
        &["LVM_THIN_POOL"],
        Kind::Word,
        "",
        "Thin pool in the volume group that new volumes are made in; without one they are linear",
    ),
    key(
        "lvm.pool_data_percent_max",
        &["LVM_POOL_DATA_PERCENT_MAX"],
        PERCENT,
        "80",
        "No job may fill the thin pool's data beyond this",
    ),
    key(
        "lvm.pool_data_percent_warn",
        &["LVM_POOL_DATA_PERCENT_WARN"],
        PERCENT,
        "70",
        "From here on the log and the metrics warn of the thin pool's data",
    ),
    key(
        "lvm.pool_metadata_percent_max",
        &["LVM_POOL_METADATA_PERCENT_MAX"],
        PERCENT,
        "75",
        "No job may fill the thin pool's metadata beyond this",
    ),
    key(
        "lvm.pool_metadata_percent_warn",
        &["LVM_POOL_METADATA_PERCENT_WARN"],
        PERCENT,
        "60",
        "From here on the log and the metrics warn of the thin pool's metadata",
    ),
    key(
        "lvm.pool_overcommit_percent_max",
        &["LVM_POOL_OVERCOMMIT_PERCENT_MAX"],
        Kind::Integer {
            min: 0,
            max: 1_000_000,
        },
        "0",
        "Most that the sizes of all volumes in the thin pool may add up to, in percent of the pool's; 0 is no limit",
    ),
    key(
        "lvm.retry_attempts",
        &["LVM_RETRY_ATTEMPTS"],
        RETRIES,
        "2",
        "How often an LVM command is repeated after a temporary failure",
    ),
    key(
        "lvm.retry_backoff_ms",
        &["LVM_RETRY_BACKOFF_MS"],
        MILLISECONDS,
        "100,1000",
        "Wait before each repeat; the last value is used for all further ones",
    ),
    key(
        "volumes.backend",
        &["VOLUME_BACKEND"],
        Kind::OneOf(BackendKind::NAMES),
        "lvm",
        "What volumes are: logical volumes, or sparse raw files in a directory",
    ),
    key(
        "volumes.dir",
        &["VOLUME_DIR"],
        Kind::Path,
        "",
        "Directory of the volumes, for backend dir; volume NAME is the file DIR/NAME",
    ),
    moved(
        key(
            "volumes.adopt_untagged",
            &["VOLUME_ADOPT_UNTAGGED"],
            Kind::Bool,
            "false",
            "Whether an existing volume that is not marked as this program's may be rewritten without \
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
            "What happens to older data on the volume after the end of the image: all zeroed, first and last MiB zeroed, or kept",
        ),
        "lvm.stale_data",
        "LVM_STALE_DATA",
    ),
    key(
        "volumes.clone",
        &["VOLUME_CLONE"],
        Kind::OneOf(CloneUse::NAMES),
        "auto",
        "Whether volumes are cloned from golden volumes where they can be, as each request says, or never on this \
         host: then no golden volume is made, and a request that must have a clone fails",
    ),
    key(
        "volumes.expand",
        &["VOLUME_EXPAND"],
        Kind::OneOf(Expand::NAMES),
        "none",
        "What is done to the guest's partition table on a volume that is larger than the image's disk, where the \
         request does not say: gpt moves the backup GPT to the volume's end",
    ),
    moved(
        key(
            "volumes.max_write_bytes_per_sec",
            &["VOLUME_MAX_WRITE_BYTES_PER_SEC"],
            Kind::Size,
            "0",
            "Bandwidth limit for one job's writes to its volume; 0 means none",
        ),
        "lvm.max_write_bytes_per_sec",
        "LVM_MAX_WRITE_BYTES_PER_SEC",
    ),
    key(
        "volumes.yield",
        &["VOLUME_YIELD"],
        Kind::OneOf(YieldUse::NAMES),
        "auto",
        "Whether jobs step aside while others (guests) need the disks of the volumes: auto, where that can be measured, or \
         off",
    ),
    key(
        "volumes.yield_floor_bytes_per_sec",
        &["VOLUME_YIELD_FLOOR_BYTES_PER_SEC"],
        Kind::Size,
        "16M",
        "The rate that jobs keep together however much others need the disks, or the network; at least 1M",
    ),
    key(
        "volumes.windows",
        &["VOLUME_WINDOWS"],
        Kind::List,
        "",
        "Hours of the day, such as 22:00-06:00, in the host's time zone, in which jobs do not step aside; limits hold",
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
        "An image that no job has used for this long is evicted",
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
        "Largest total size of cached images and unfinished downloads; 0 means no limit",
    ),
    key(
        "cache.min_free_bytes",
        &["CACHE_MIN_FREE_BYTES"],
        Kind::Size,
        "1G",
        "Free space that the cache leaves on its file system",
    ),
    key(
        "cache.unpacked",
        &["CACHE_UNPACKED"],
        Kind::OneOf(UnpackedUse::NAMES),
        "auto",
        "When a compressed image gets an unpacked copy beside it in the cache, from which volumes are copied at the \
         disk's speed: auto, at the second copy from the cache, on hosts that do not clone, and only if there is \
         room without removing an image; always, at the first copy, in the place of what was not used for longer; \
         never",
    ),
    key(
        "cache.require_checksum",
        &["CACHE_REQUIRE_CHECKSUM"],
        Kind::Bool,
        "false",
        "Refuse images that have no .sha256 object",
    ),
    key(
        "image.sandbox",
        &["IMAGE_SANDBOX"],
        Kind::OneOf(SandboxUse::NAMES),
        "auto",
        "Compressed images are decoded in a process without rights, files and network: auto, restricted by whatever \
         this kernel has; require, the daemon does not start unless Landlock, seccomp and all else that matters are \
         in force (`doctor` says what is missing); off, in the daemon's own process",
    ),
    key(
        "golden.max_count",
        &["GOLDEN_MAX_COUNT"],
        Kind::Integer { min: 1, max: 1000 },
        "20",
        "Most golden volumes, from which others are cloned; the longest unused goes first",
    ),
    key(
        "golden.max_bytes",
        &["GOLDEN_MAX_BYTES"],
        Kind::Size,
        "0",
        "Largest sum of what golden volumes take; 0 is no limit, as they give way when there is no room",
    ),
    key(
        "golden.max_age",
        &["GOLDEN_MAX_AGE"],
        DURATION,
        "720h",
        "A golden volume that nothing was cloned from for so long is removed",
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
        "How many jobs may wait for a slot; further requests get 429",
    ),
    key(
        "jobs.retention",
        &["JOBS_RETENTION"],
        DURATION,
        "720h",
        "How long jobs that have ended are kept",
    ),
    key(
        "webhooks.urls",
        &["WEBHOOK_URLS"],
        Kind::Secrets,
        "",
        "URLs to which the end of every job is posted, separated by commas or as a YAML list",
    ),
    key(
        "webhooks.secret",
        &["WEBHOOK_SECRET"],
        Kind::Secret,
        "",
        "Key with which events are signed, so that receivers can check that they are genuine",
    ),
    key(
        "webhooks.max_age",
        &["WEBHOOK_MAX_AGE"],
        DURATION,
        "24h",
        "How long delivery of an event is tried before it is dropped",
    ),
    key(
        "fleet.url",
        &["FLEET_URL"],
        Kind::List,
        "",
        "NATS servers whose orders this host follows, as nats://HOST:4222 or tls://HOST:4222; without one, it is part of no fleet",
    ),
    key(
        "fleet.host",
        &["FLEET_HOST"],
        Kind::Text,
        "",
        "This host's name in the fleet; the host name by default",
    ),
    key(
        "fleet.groups",
        &["FLEET_GROUPS"],
        Kind::List,
        "",
        "Groups whose orders this host follows too",
    ),
    key(
        "fleet.allow",
        &["FLEET_ALLOW"],
        Kind::Words(&["none", "prewarm", "provision", "evict"]),
        "prewarm",
        "Kinds of orders that this host follows; others are refused, and the issuer is told",
    ),
    key(
        "fleet.trust",
        &["FLEET_TRUST"],
        Kind::List,
        "",
        "NAME=KEY: public keys whose orders are followed, as `lvpctl fleet keygen` prints them",
    ),
    key(
        "fleet.ca_cert",
        &["FLEET_CA_CERT"],
        Kind::Path,
        "",
        "PEM file with the only CAs that the NATS servers' certificates are believed by; the system's without",
    ),
    key(
        "fleet.client_cert",
        &["FLEET_CLIENT_CERT"],
        Kind::Path,
        "",
        "PEM file with a client certificate for the NATS servers",
    ),
    key(
        "fleet.client_key",
        &["FLEET_CLIENT_KEY"],
        Kind::Path,
        "",
        "PEM file with its key",
    ),
    key(
        "fleet.creds_file",
        &["FLEET_CREDS_FILE"],
        Kind::Path,
        "",
        "File with a JWT and its seed for the NATS servers, as nsc writes it",
    ),
    key(
        "fleet.nkey_file",
        &["FLEET_NKEY_FILE"],
        Kind::Path,
        "",
        "File with the seed of an nkey for the NATS servers",
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
        "Whether the web page is served at /; it asks for a token, and shows what that token may see",
    ),
    key(
        "ui.trace_url",
        &["UI_TRACE_URL"],
        Kind::Text,
        "",
        "Where a trace can be looked at: a URL with {trace_id} in it, such as https://jaeger.example.com/trace/{trace_id}; the page \
         links jobs to it",
    ),
    key(
        "tracing.endpoint",
        &[
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ],
        Kind::Text,
        "",
        "URL of the OTLP collector, such as https://otel.example.com:4317; without one, no traces are sent. Without a scheme, https is \
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
        "Protocol of the collector; with http/protobuf, /v1/traces is added to the endpoint, unless that is \
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
        "Compression of what is sent to the collector",
    ),
    key(
        "tracing.timeout",
        &[
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
            "OTEL_EXPORTER_OTLP_TIMEOUT",
        ],
        INTERVAL,
        "10s",
        "How long the collector may take for a batch; the environment variables are in milliseconds",
    ),
    key(
        "tracing.ca_cert",
        &[
            "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
        ],
        Kind::Path,
        "",
        "PEM file with the CA of the collector, in addition to the system's",
    ),
    key(
        "tracing.service_name",
        &["OTEL_SERVICE_NAME"],
        Kind::Text,
        "libvirt-volume-provisioner",
        "service.name of the traces; a service.name in OTEL_RESOURCE_ATTRIBUTES overrides the file's and the default",
    ),
    key(
        "tracing.resource_attributes",
        &["OTEL_RESOURCE_ATTRIBUTES"],
        Kind::Text,
        "",
        "Attributes of this service in every trace: NAME=VALUE, separated by commas",
    ),
    key(
        "tracing.sampler",
        &["OTEL_TRACES_SAMPLER"],
        Kind::OneOf(TraceSampler::NAMES),
        "parentbased_traceidratio",
        "How traces are sampled; samplers whose names begin with parentbased_ follow the client's decision",
    ),
    key(
        "tracing.sampling_rate",
        &["TRACING_SAMPLING_RATE", "OTEL_TRACES_SAMPLER_ARG"],
        Kind::Fraction,
        "1.0",
        "Share of traces that are kept, for samplers that use one; OTEL_TRACES_SAMPLER_ARG counts only with OTEL_TRACES_SAMPLER",
    ),
    key(
        "tracing.polling_sampling_rate",
        &["TRACING_POLLING_SAMPLING_RATE"],
        Kind::Fraction,
        "0.01",
        "Share of traces that are kept of requests that only ask for a job's status; a client's decision is followed",
    ),
    also(
        key(
            "tracing.exporters",
            &["OTEL_TRACES_EXPORTER", "TRACING_EXPORTERS"],
            Kind::Words(TraceExporter::NAMES),
            "otlp",
            "Where traces go: to the collector, to standard output as JSON lines, or nowhere",
        ),
        &[("console", "stdout"), ("jaeger", ""), ("zipkin", "")],
    ),
    key(
        "tracing.disabled",
        &["OTEL_SDK_DISABLED"],
        Kind::Bool,
        "false",
        "Turns tracing off, whatever the other keys say",
    ),
    also(
        key(
            "logging.level",
            &["LOG_LEVEL"],
            Kind::OneOf(&["error", "warn", "info", "debug", "trace"]),
            "info",
            "Lowest level that is written",
        ),
        &[("warning", "warn"), ("fatal", "error"), ("panic", "error")],
    ),
    key(
        "logging.format",
        &["LOG_FORMAT"],
        Kind::OneOf(LogFormat::NAMES),
        "json",
        "Format of log lines",
    ),
    key(
        "logging.output",
        &["LOG_OUTPUT"],
        Kind::Stream(LogOutput::NAMES),
        "stderr",
        "Stream that log lines are written to; the path of a file is taken as logging.file",
    ),
    key(
        "logging.file",
        &["LOG_FILE"],
        Kind::Stream(LogOutput::NAMES),
        "",
        "File that log lines are also written to, reopened on SIGHUP; stdout and stderr are taken as logging.output",
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
        "URL of a Loki server that log lines are also pushed to, with credentials if it needs them; without \
         a path, /loki/api/v1/push is used",
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
        "URL that log lines are also posted to, as a JSON array",
    ),
];
