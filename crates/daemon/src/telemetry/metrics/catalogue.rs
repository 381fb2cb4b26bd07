//! Every metric: its name, type, labels and meaning. The help texts and the table in
//! `docs/monitoring.md` are made from this, and a test compares both with what is served.

use super::PREFIX;

/// Type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations in buckets.
    Histogram,
}

impl Kind {
    /// The type as in a `# TYPE` line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug)]
pub struct Entry {
    /// Its name; without the program's prefix unless it begins with `process_`.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// Its meaning, without a full stop.
    pub help: &'static str,
}

impl Entry {
    /// The name as it is served.
    pub fn full_name(&self) -> String {
        match self.name.starts_with("process_") {
            true => self.name.to_owned(),
            false => format!("{PREFIX}_{}", self.name),
        }
    }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Entry {
    Entry {
        name,
        kind: Kind::Counter,
        labels,
        help,
    }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Entry {
    Entry {
        name,
        kind: Kind::Gauge,
        labels,
        help,
    }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Entry {
    Entry {
        name,
        kind: Kind::Histogram,
        labels,
        help,
    }
}

/// How many of [`CATALOGUE`], from its beginning, are those of the monitoring guide.
pub const OF_THE_GUIDE: usize = 17;

/// All metrics: those of the monitoring guide in its order, then ours.
pub const CATALOGUE: &[Entry] = &[
    counter(
        "requests_total",
        &["method", "endpoint", "status"],
        "HTTP requests by method, route template and status",
    ),
    histogram(
        "request_duration_seconds",
        &["method", "endpoint"],
        "Time from a request's arrival to its answer's first byte",
    ),
    gauge("active_jobs", &[], "Jobs that are running"),
    counter(
        "jobs_total",
        &["status"],
        "Jobs that ended, by final status: completed, failed, cancelled",
    ),
    histogram(
        "job_duration_seconds",
        &["status"],
        "Time from a job's start to its end; time in the queue is not part of it",
    ),
    counter(
        "cache_hits_total",
        &[],
        "Jobs whose image was on the host and valid: in the cache, or as a golden volume",
    ),
    counter(
        "cache_misses_total",
        &[],
        "Jobs whose image was not on the host",
    ),
    gauge(
        "cache_hit_ratio",
        &[],
        "Share of hits in the last 100 look-ups, 0 to 1; NaN before the first",
    ),
    counter(
        "images_downloaded_total",
        &[],
        "Images that were downloaded, verified and cached",
    ),
    histogram(
        "image_download_size_bytes",
        &["image_type"],
        "Sizes of downloaded images",
    ),
    counter(
        "image_errors_total",
        &["operation", "error_type"],
        "Jobs that failed because of their image, by operation and error",
    ),
    counter(
        "storage_operations_total",
        &["operation", "result"],
        "Database operations by result: success, error",
    ),
    counter(
        "storage_errors_total",
        &["operation", "error_type"],
        "Failed database operations",
    ),
    histogram(
        "stage_duration_seconds",
        &["stage"],
        "Duration of completed stages: download, convert",
    ),
    gauge(
        "stage_throughput_bytes_per_second",
        &["stage"],
        "Bytes per second of all running jobs over the last five seconds: download, convert",
    ),
    gauge(
        "health_status",
        &[],
        "1 while a job slot is free (healthy), 0 while all are taken (degraded)",
    ),
    gauge(
        "dependencies_up",
        &["dependency"],
        "1 if the last probe of the dependency succeeded, 0 if not",
    ),
    counter(
        "probe_crashes_total",
        &["dependency"],
        "Probes of dependencies that crashed; the label value all is the task that runs the probes",
    ),
    counter(
        "images_verified_total",
        &["verified"],
        "Jobs by what their image was verified against: signature, request, sidecar, sums, none",
    ),
    gauge("queue_length", &[], "Accepted jobs that wait for a slot"),
    gauge(
        "paused_jobs",
        &[],
        "Running jobs of low priority whose transfer is paused for one of high priority; they are not active",
    ),
    counter(
        "job_pauses_total",
        &[],
        "Pauses of the transfers of jobs of low priority",
    ),
    gauge(
        "yield_rate_bytes_per_second",
        &[],
        "Rate of all jobs together that others on the same disks leave; 0 while nothing is limited",
    ),
    gauge(
        "yield_others_wait_seconds",
        &[],
        "Mean wait of the requests of others on the volumes' disks; 0 while there are next to none",
    ),
    gauge(
        "yield_idle_wait_seconds",
        &[],
        "The median of the same while no job runs",
    ),
    gauge(
        "yield_bearable_wait_seconds",
        &[],
        "Jobs are held back while others wait longer than this: twice the idle wait, or more where that varies",
    ),
    gauge(
        "yield_pressure_ratio",
        &[],
        "Part of the time in which some task of machine.slice waited for I/O; 0 where there is no such group",
    ),
    gauge(
        "yield_own_bytes_per_second",
        &[],
        "What jobs move on the volumes' disks",
    ),
    counter(
        "yield_held_seconds_total",
        &[],
        "Time in which jobs were held back in favour of others",
    ),
    gauge(
        "network_rate_bytes_per_second",
        &[],
        "The rate that all downloads together keep to because others use the network; 0 while nothing is limited",
    ),
    gauge(
        "network_others_bytes_per_second",
        &[],
        "The most that others received over the links to the object store in the last five seconds",
    ),
    gauge(
        "network_link_bytes_per_second",
        &[],
        "What the links to the object store can receive; 0 where that cannot be measured, or is not asked for",
    ),
    counter(
        "network_held_seconds_total",
        &[],
        "Time in which downloads were held back in favour of others on the network",
    ),
    histogram(
        "queue_wait_seconds",
        &[],
        "Time that jobs waited for a slot",
    ),
    gauge(
        "job_stalled_seconds",
        &[],
        "Longest time for which a running job has not moved a byte; 0 if none is running",
    ),
    gauge(
        "cache_size_bytes",
        &[],
        "Bytes of cached images, of their unpacked copies and of unfinished downloads",
    ),
    gauge(
        "cache_max_size_bytes",
        &[],
        "Limit of the cache (cache.max_size_bytes); 0 means none",
    ),
    gauge(
        "cache_free_bytes",
        &[],
        "Free bytes on the cache's file system",
    ),
    gauge("cache_images", &[], "Cached images"),
    gauge(
        "cache_unpacked_images",
        &[],
        "Unpacked copies of cached images (cache.unpacked)",
    ),
    gauge(
        "cache_unpacked_bytes",
        &[],
        "Bytes that unpacked copies take, a part of cache_size_bytes",
    ),
    counter(
        "cache_unpacked_made_total",
        &[],
        "Unpacked copies that were made",
    ),
    counter(
        "cache_unpacked_copies_total",
        &[],
        "Volumes that were copied from an unpacked copy, without decoding the image",
    ),
    counter(
        "cache_evictions_total",
        &[],
        "Images evicted because of their age or to make room",
    ),
    counter(
        "transferred_bytes_total",
        &["direction"],
        "Bytes moved: read from the source, written to volumes, zeroed on volumes",
    ),
    counter(
        "source_requests_total",
        &[],
        "Requests sent to object storage",
    ),
    counter(
        "source_retries_total",
        &[],
        "Requests to object storage that were repeated after a temporary error",
    ),
    counter(
        "mirror_requests_total",
        &["mirror"],
        "Requests sent to each of minio.mirrors",
    ),
    counter(
        "mirror_failures_total",
        &["mirror"],
        "Requests to a mirror whose answer could not be used, so that the bytes were read from elsewhere",
    ),
    counter(
        "mirror_received_bytes_total",
        &["mirror"],
        "Bytes of images received from a mirror",
    ),
    gauge(
        "volumes_size_bytes",
        &["backend"],
        "Size of the volume group, or of the file system with the volumes' directory",
    ),
    gauge(
        "volumes_free_bytes",
        &["backend"],
        "What new volumes may take of volumes_size_bytes",
    ),
    gauge(
        "pool_size_bytes",
        &["pool", "resource"],
        "Size of the thin pool (lvm.thin_pool): data, metadata",
    ),
    gauge(
        "pool_used_ratio",
        &["pool", "resource"],
        "Share of the thin pool's data and metadata that is taken, 0 to 1; NaN while the pool is not active",
    ),
    gauge(
        "pool_limit_ratio",
        &["pool", "resource", "level"],
        "Shares of the thin pool's data and metadata that are warned of (warn), and that no job may pass (max)",
    ),
    gauge(
        "pool_reserved_bytes",
        &["pool"],
        "What running jobs are going to write to the thin pool still",
    ),
    gauge(
        "pool_virtual_bytes",
        &["pool"],
        "Sizes of all volumes in the thin pool; over pool_size_bytes of data it is the overcommitment",
    ),
    gauge(
        "pool_sound",
        &["pool"],
        "1 while the thin pool can be used, 0 when it needs a check, is read-only, out of data, failed, not active or does \
         not zero",
    ),
    gauge(
        "certificate_expiry_timestamp_seconds",
        &["certificate"],
        "When the first certificate of the server's chain, or of the client CAs, expires, in seconds since 1970",
    ),
    counter(
        "access_failures_total",
        &["reason"],
        "Callers that were refused: missing, token, certificate, role, limited",
    ),
    counter(
        "callers_refused_total",
        &["full"],
        "Callers that were refused because of a limit: connections, requests, answers, streams",
    ),
    counter(
        "log_lines_sent_total",
        &["sink"],
        "Log lines that were delivered to the sinks loki and webhook, or written to this host's stream and file",
    ),
    counter(
        "log_lines_dropped_total",
        &["sink", "reason"],
        "Log lines that a sink, the stream or the file did not get, because the queue was full or they were refused",
    ),
    counter(
        "trace_spans_sent_total",
        &[],
        "Spans that the collector accepted",
    ),
    counter(
        "trace_spans_dropped_total",
        &["reason"],
        "Spans that the collector did not get, because the queue was full or they could not be delivered",
    ),
    counter(
        "webhook_deliveries_total",
        &["result"],
        "Webhook events by result: delivered, failed (an attempt, to be repeated), dropped",
    ),
    gauge(
        "fleet_connected",
        &[],
        "Whether the fleet's broker is connected; 0 without fleet.url",
    ),
    counter(
        "fleet_orders_total",
        &["result"],
        "Orders of the fleet that arrived, by what became of them; those that are no orders too",
    ),
    gauge(
        "fleet_orders_active",
        &[],
        "Orders of the fleet that this host is working on",
    ),
    counter(
        "fleet_reports_total",
        &["result"],
        "Reports to the fleet by result: sent, failed (an attempt, to be repeated)",
    ),
    gauge("tokio_tasks", &[], "Asynchronous tasks that are alive"),
    gauge(
        "build_info",
        &["version"],
        "Always 1; the labels describe the build",
    ),
    gauge(
        "golden_volumes",
        &[],
        "Golden volumes that others can be cloned from",
    ),
    gauge(
        "golden_volumes_flawed",
        &[],
        "Golden volumes that are not used: writable, of another size, changed, or without a record",
    ),
    gauge(
        "golden_bytes",
        &[],
        "Bytes that golden volumes take, with what clones share of them",
    ),
    counter(
        "decoder_processes_started_total",
        &[],
        "Processes that were started to decode compressed images, one that waits for the next job included",
    ),
    counter(
        "decoder_processes_failed_total",
        &["reason"],
        "Processes for decoding that ended before they were done, hung, or lied (gave an answer that is none)",
    ),
    counter(
        "golden_dropped_total",
        &[],
        "Golden volumes that were dropped for age, room or the limits, or because nobody finished them",
    ),
    counter(
        "clones_total",
        &[],
        "Volumes that were cloned from golden ones",
    ),
    counter(
        "volumes_made_total",
        &["method"],
        "Volumes that completed jobs made, by how: clone, copy (from the cache), stream (as they were fetched)",
    ),
    counter(
        "process_cpu_seconds_total",
        &[],
        "CPU time of the process, user and system",
    ),
    gauge(
        "process_resident_memory_bytes",
        &[],
        "Resident memory of the process",
    ),
    gauge(
        "process_virtual_memory_bytes",
        &[],
        "Virtual memory of the process",
    ),
    gauge("process_open_fds", &[], "Open file descriptors"),
    gauge("process_max_fds", &[], "Limit of open file descriptors"),
    gauge("process_threads", &[], "Threads of the process"),
    gauge(
        "process_start_time_seconds",
        &[],
        "When the process started, in seconds since 1970",
    ),
];

/// The table of `docs/monitoring.md`.
pub fn markdown() -> String {
    let mut text = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for entry in CATALOGUE {
        let labels: Vec<_> = entry
            .labels
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        text.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            entry.full_name(),
            entry.kind.as_str(),
            labels.join(", "),
            entry.help
        ));
    }
    text
}
