//! Every metric: its name, type, labels and meaning. Registration takes its help texts from here,
//! `docs/monitoring.md` its table, and a test compares both with what is served.

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
    /// As in a `# TYPE` line.
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
    /// What it tells, without a full stop.
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
    gauge("active_jobs", &[], "Jobs that run now"),
    counter(
        "jobs_total",
        &["status"],
        "Jobs that ended, by how: completed, failed, cancelled",
    ),
    histogram(
        "job_duration_seconds",
        &["status"],
        "Time from a job's start to its end; time in the queue is not part of it",
    ),
    counter(
        "cache_hits_total",
        &[],
        "Jobs whose image was in the cache and valid",
    ),
    counter(
        "cache_misses_total",
        &[],
        "Jobs whose image was not in the cache",
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
        "Jobs that failed over their image, by what was being done and what was wrong",
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
        "Time that completed stages took: download, convert",
    ),
    gauge(
        "stage_throughput_bytes_per_second",
        &["stage"],
        "Bytes per second of all running jobs over the last seconds: download, convert",
    ),
    gauge(
        "health_status",
        &[],
        "1 while a job slot is free (healthy), 0 while all are taken (degraded)",
    ),
    gauge(
        "dependencies_up",
        &["dependency"],
        "1 when the last probe of the dependency found it well, 0 when not",
    ),
    counter(
        "probe_crashes_total",
        &["dependency"],
        "Probes of dependencies that crashed; all is what makes the probes",
    ),
    counter(
        "images_verified_total",
        &["verified"],
        "Jobs by what their image is verified against: signature, request, sidecar, sums, none",
    ),
    gauge("queue_length", &[], "Accepted jobs that wait for a slot"),
    histogram(
        "queue_wait_seconds",
        &[],
        "Time that jobs waited for a slot",
    ),
    gauge(
        "job_stalled_seconds",
        &[],
        "Longest time that a running job has not moved a byte; 0 when none runs",
    ),
    gauge(
        "cache_size_bytes",
        &[],
        "Bytes of cached images and of unfinished downloads",
    ),
    gauge(
        "cache_max_size_bytes",
        &[],
        "Limit of the cache (cache.max_size_bytes); 0 is none",
    ),
    gauge(
        "cache_free_bytes",
        &[],
        "Free bytes in the cache's file system",
    ),
    gauge("cache_images", &[], "Cached images"),
    counter(
        "cache_evictions_total",
        &[],
        "Images evicted for their age or to make room",
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
        "Requests to object storage that were repeated after a passing fault",
    ),
    gauge(
        "volumes_size_bytes",
        &["backend"],
        "Size of the volume group, or of the file system of the volumes' directory",
    ),
    gauge(
        "volumes_free_bytes",
        &["backend"],
        "What new volumes may take of volumes_size_bytes",
    ),
    gauge(
        "certificate_expiry_timestamp_seconds",
        &["certificate"],
        "When the first certificate of the server's chain, or of the CAs of clients, ends, in seconds since 1970",
    ),
    counter(
        "access_failures_total",
        &["reason"],
        "Callers that were turned away: missing, token, certificate, role, limited",
    ),
    counter(
        "callers_refused_total",
        &["full"],
        "Times that a limit turned somebody away: connections, requests, answers, streams",
    ),
    counter(
        "log_lines_sent_total",
        &["sink"],
        "Log lines that were taken: by the sinks loki and webhook, by the stream and the file of this host",
    ),
    counter(
        "log_lines_dropped_total",
        &["sink", "reason"],
        "Log lines that a sink, the stream or the file did not get: of a full queue, and what was refused",
    ),
    counter(
        "trace_spans_sent_total",
        &[],
        "Spans that the collector has taken",
    ),
    counter(
        "trace_spans_dropped_total",
        &["reason"],
        "Spans that the collector did not get: those that found the queue full, and what could not be delivered",
    ),
    counter(
        "webhook_deliveries_total",
        &["result"],
        "Events for webhooks: delivered; failed attempts, each followed by another; dropped unsent",
    ),
    gauge("tokio_tasks", &[], "Asynchronous tasks that live now"),
    gauge("build_info", &["version"], "1, with the build as labels"),
    counter(
        "process_cpu_seconds_total",
        &[],
        "Processor time of the process, user and system",
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
    gauge(
        "process_max_fds",
        &[],
        "Most file descriptors that may be open",
    ),
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
