//! Metrics: one method per event, and the text that scrapers get.
//!
//! The rest of the daemon knows [`Metrics`] and its methods, which are named after events; names,
//! labels and formats are only here. Every label value comes from a fixed list, so the number of
//! series is bounded whatever clients send.
//!
//! `register` has all metrics with their names, `scrape` the values that are read when a scraper
//! asks.
//!
//! The two stages may overlap: `download` lasts from the first request for the image's bytes to the last
//! byte, `convert` from the start of the copy until the last byte is in place on the volume. In one pass
//! both run at the same time and each has its own duration; their sum is longer than the job took.
//! Failed and cancelled stages are not counted.

pub mod catalogue;
mod exposition;
mod process;
mod register;
mod scrape;
mod window;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lvp_api::{ImageType, JobId, JobState, Method, Verified};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::delivery::{self, Delivery};
use crate::golden;
use crate::job::kind::JobErrorKind;
use crate::job::meter::Moved;
use crate::store::Observer;
use crate::volume::{Capacity, PoolUsage};
pub use exposition::Format;
pub use scrape::Counted;
use window::{HitRatio, Throughput};

/// Prefix of every name except those of the process.
pub const PREFIX: &str = "libvirt_volume_provisioner";

/// `endpoint` of requests that match no route.
pub const UNMATCHED: &str = "unmatched";

/// Methods with a label value of their own.
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];

type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];
type Number = Gauge<f64, AtomicU64>;
type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

/// One of the two stages whose duration is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimedStage {
    /// From the source to this host.
    Download,
    /// To the volume.
    Convert,
}

impl TimedStage {
    /// The label value, and the name among the measurements.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Convert => "convert",
        }
    }
}

/// All metrics of the daemon.
pub struct Metrics {
    registry: Registry,
    max_concurrent: usize,
    requests: Family<Labels<3>, Counter>,
    request_duration: Histograms<2>,
    active_jobs: Gauge,
    jobs: Family<Labels<1>, Counter>,
    job_duration: Histograms<1>,
    cache_hits: Counter,
    cache_misses: Counter,
    cache_hit_ratio: Number,
    images_downloaded: Counter,
    images_verified: Family<Labels<1>, Counter>,
    download_size: Histograms<1>,
    image_errors: Family<Labels<2>, Counter>,
    storage_operations: Family<Labels<2>, Counter>,
    storage_errors: Family<Labels<2>, Counter>,
    stage_duration: Histograms<1>,
    stage_throughput: Family<Labels<1>, Number>,
    health_status: Gauge,
    dependencies_up: Family<Labels<1>, Gauge>,
    probe_crashes: Family<Labels<1>, Counter>,
    queue_length: Gauge,
    queue_wait: Histogram,
    job_stalled: Number,
    cache_size: Number,
    cache_free: Number,
    cache_images: Number,
    cache_evictions: Counter,
    transferred: Family<Labels<1>, Counter>,
    source_requests: Counter,
    source_retries: Counter,
    volumes_size: Family<Labels<1>, Number>,
    volumes_free: Family<Labels<1>, Number>,
    pool_size: Family<Labels<2>, Number>,
    pool_used: Family<Labels<2>, Number>,
    pool_limit: Family<Labels<3>, Number>,
    pool_reserved: Family<Labels<1>, Number>,
    pool_virtual: Family<Labels<1>, Number>,
    pool_sound: Family<Labels<1>, Gauge>,
    certificate_expiry: Family<Labels<1>, Number>,
    access_failures: Family<Labels<1>, Counter>,
    callers_refused: Family<Labels<1>, Counter>,
    log_lines_sent: Family<Labels<1>, Counter>,
    log_lines_dropped: Family<Labels<2>, Counter>,
    spans_sent: Counter,
    spans_dropped: Family<Labels<1>, Counter>,
    webhook_deliveries: Family<Labels<1>, Counter>,
    golden_volumes: Number,
    golden_flawed: Number,
    golden_bytes: Number,
    golden_dropped: Counter,
    clones: Counter,
    job_methods: Family<Labels<1>, Counter>,
    tokio_tasks: Number,
    process: ProcessMetrics,
    moving: Mutex<Moving>,
}

struct ProcessMetrics {
    cpu_seconds: Counter<f64, AtomicU64>,
    resident_bytes: Number,
    virtual_bytes: Number,
    open_fds: Number,
    max_fds: Number,
    threads: Number,
    start_time: Number,
}

/// Values that are computed over a period.
#[derive(Default)]
struct Moving {
    running: HashMap<JobId, Running>,
    hits: HitRatio,
    download: Throughput,
    convert: Throughput,
}

struct Running {
    last: Moved,
    moved_at: Instant,
}

impl Metrics {
    /// A request was answered; `route` is the template that it matched.
    pub fn request_answered(&self, method: &str, route: Option<&str>, status: u16, took: Duration) {
        let method = METHODS.into_iter().find(|known| *known == method);
        let method = Cow::from(method.unwrap_or("OTHER"));
        let endpoint: Cow<'static, str> = route.unwrap_or(UNMATCHED).to_owned().into();
        self.request_duration
            .get_or_create(&[("method", method.clone()), ("endpoint", endpoint.clone())])
            .observe(took.as_secs_f64());
        self.requests
            .get_or_create(&[
                ("method", method),
                ("endpoint", endpoint),
                ("status", status.to_string().into()),
            ])
            .inc();
    }

    /// Creates the series of expected answers, so that the first of each is an increase.
    pub fn requests_begin(&self, answers: impl Iterator<Item = (&'static str, &'static str, u16)>) {
        for (method, endpoint, status) in answers {
            let method = ("method", method.into());
            let endpoint = ("endpoint", endpoint.into());
            let status = ("status", status.to_string().into());
            let request = [method.clone(), endpoint.clone()];
            drop(self.request_duration.get_or_create(&request));
            drop(self.requests.get_or_create(&[method, endpoint, status]));
        }
    }

    /// A job starts to wait for a slot.
    pub fn job_queued(&self) {
        self.queue_length.inc();
    }

    /// A job no longer waits.
    pub fn job_left_queue(&self, waited: Duration) {
        self.queue_length.dec();
        self.queue_wait.observe(waited.as_secs_f64());
    }

    /// A job has a slot and runs.
    pub fn job_started(&self, id: JobId) {
        self.active_jobs.inc();
        let running = Running {
            last: Moved::default(),
            moved_at: Instant::now(),
        };
        self.moving().running.insert(id, running);
    }

    /// What a running job has moved since it began.
    pub fn job_moved(&self, id: JobId, moved: Moved) {
        let now = Instant::now();
        let mut moving = self.moving();
        let Some(running) = moving.running.get_mut(&id) else {
            return;
        };
        if running.last == moved {
            return;
        }
        let last = std::mem::replace(&mut running.last, moved);
        running.moved_at = now;
        let since = |now: u64, before: u64| now.saturating_sub(before);
        let fetched = since(moved.fetched_bytes, last.fetched_bytes);
        moving.download.add(now, fetched);
        let settled = since(moved.settled_bytes, last.settled_bytes);
        moving.convert.add(now, settled);
        drop(moving);
        for (direction, bytes) in [
            ("read", fetched),
            ("written", since(moved.written_bytes, last.written_bytes)),
            ("zeroed", since(moved.zeroed_bytes, last.zeroed_bytes)),
        ] {
            self.transferred
                .get_or_create(&[("direction", direction.into())])
                .inc_by(bytes);
        }
    }

    /// A job gives up its slot, having moved this much in total.
    pub fn job_stopped(&self, id: JobId, moved: Moved) {
        self.job_moved(id, moved);
        self.moving().running.remove(&id);
        self.active_jobs.dec();
    }

    /// A job ended; `ran` is how long it ran, if it was started.
    pub fn job_ended(&self, state: JobState, ran: Option<Duration>) {
        let labels = [("status", state.as_str().into())];
        self.jobs.get_or_create(&labels).inc();
        if let Some(ran) = ran {
            let duration = self.job_duration.get_or_create(&labels);
            duration.observe(ran.as_secs_f64());
        }
    }

    /// A completed job made its volume so.
    pub fn volume_made(&self, method: Method) {
        self.job_methods
            .get_or_create(&[("method", method.as_str().into())])
            .inc();
    }

    /// A volume was cloned from a golden one.
    pub fn volume_cloned(&self) {
        self.clones.inc();
    }

    /// What golden volumes there are.
    pub fn golden_measured(&self, usage: golden::Usage) {
        self.golden_volumes.set(float(usage.volumes));
        self.golden_flawed.set(float(usage.flawed));
        self.golden_bytes.set(float(usage.bytes));
    }

    /// A job failed with this error. Counted if it was about the image.
    pub fn job_failed(&self, kind: JobErrorKind) {
        if let Some(operation) = kind.operation() {
            self.image_errors
                .get_or_create(&[
                    ("operation", operation.into()),
                    ("error_type", kind.word().into()),
                ])
                .inc();
        }
    }

    /// A job looked for its image in the cache.
    pub fn cache_looked_up(&self, hit: bool) {
        let counter = if hit {
            &self.cache_hits
        } else {
            &self.cache_misses
        };
        counter.inc();
        let mut moving = self.moving();
        moving.hits.add(hit);
        self.cache_hit_ratio.set(moving.hits.value());
    }

    /// An image was downloaded, verified and cached.
    pub fn image_downloaded(&self, image_type: ImageType, bytes: u64) {
        self.images_downloaded.inc();
        self.download_size
            .get_or_create(&[("image_type", image_type.as_str().into())])
            .observe(float(bytes));
    }

    /// It was determined what a job's image is verified against.
    pub fn image_verified(&self, verified: Verified) {
        self.images_verified
            .get_or_create(&[("verified", verified.as_str().into())])
            .inc();
    }

    /// A stage was completed.
    pub fn stage_completed(&self, stage: TimedStage, took: Duration) {
        self.stage_duration
            .get_or_create(&[("stage", stage.as_str().into())])
            .observe(took.as_secs_f64());
    }

    /// A dependency was probed.
    pub fn dependency_probed(&self, name: &'static str, up: bool) {
        self.dependencies_up
            .get_or_create(&[("dependency", name.into())])
            .set(up.into());
    }

    /// A probe crashed, or the task that runs all probes.
    pub fn probe_crashed(&self, name: &'static str) {
        self.probe_crashes
            .get_or_create(&[("dependency", name.into())])
            .inc();
    }

    /// How many probes crashed.
    #[cfg(test)]
    pub(crate) fn probe_crashes(&self, name: &'static str) -> u64 {
        let labels = [("dependency", name.into())];
        self.probe_crashes.get_or_create(&labels).get()
    }

    /// The result of the volumes' probe.
    pub fn volumes_measured(&self, backend: &'static str, capacity: Capacity) {
        let labels = [("backend", backend.into())];
        for (family, bytes) in [
            (&self.volumes_size, capacity.total_bytes),
            (&self.volumes_free, capacity.free_bytes),
        ] {
            family.get_or_create(&labels).set(float(bytes));
        }
    }

    /// What the look at the pool found. What could not be told is no number.
    pub fn pool_measured(&self, pool: &PoolUsage) {
        let name = || Cow::from(pool.name.clone());
        let of = |resource: &'static str| [("pool", name()), ("resource", resource.into())];
        let both = [
            (
                "data",
                pool.size_bytes,
                pool.data_ratio,
                pool.warn_ratios.0,
                pool.max_ratios.0,
            ),
            (
                "metadata",
                pool.metadata_size_bytes,
                pool.metadata_ratio,
                pool.warn_ratios.1,
                pool.max_ratios.1,
            ),
        ];
        for (resource, bytes, used, warn, max) in both {
            self.pool_size
                .get_or_create(&of(resource))
                .set(float(bytes));
            let used = used.unwrap_or(f64::NAN);
            self.pool_used.get_or_create(&of(resource)).set(used);
            for (level, ratio) in [("warn", warn), ("max", max)] {
                let [pool, resource] = of(resource);
                let labels = [pool, resource, ("level", level.into())];
                self.pool_limit.get_or_create(&labels).set(ratio);
            }
        }
        let labels = [("pool", name())];
        let reserved = float(pool.reserved_bytes);
        self.pool_reserved.get_or_create(&labels).set(reserved);
        let promised = float(pool.virtual_bytes);
        self.pool_virtual.get_or_create(&labels).set(promised);
        let sound = i64::from(pool.flaw.is_none());
        self.pool_sound.get_or_create(&labels).set(sound);
    }

    /// The cache's content.
    pub fn cache_measured(&self, size_bytes: u64, images: u64, free_bytes: u64) {
        self.cache_size.set(float(size_bytes));
        self.cache_images.set(float(images));
        self.cache_free.set(float(free_bytes));
    }

    fn moving(&self) -> MutexGuard<'_, Moving> {
        // Plain data that a panic cannot leave half-changed.
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl delivery::Observer for Metrics {
    fn deliveries(&self, what: Delivery, count: u64) {
        self.webhook_deliveries
            .get_or_create(&[("result", what.as_str().into())])
            .inc_by(count);
    }
}

impl Observer for Metrics {
    fn operation(&self, operation: &'static str, error_type: Option<&'static str>) {
        let result = if error_type.is_some() {
            "error"
        } else {
            "success"
        };
        self.storage_operations
            .get_or_create(&[("operation", operation.into()), ("result", result.into())])
            .inc();
        if let Some(error_type) = error_type {
            self.storage_errors
                .get_or_create(&[
                    ("operation", operation.into()),
                    ("error_type", error_type.into()),
                ])
                .inc();
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[expect(clippy::cast_precision_loss, reason = "values are far below 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}
