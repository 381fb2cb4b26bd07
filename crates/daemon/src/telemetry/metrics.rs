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
mod fleet;
mod jobs;
mod process;
mod register;
mod scrape;
mod space;
mod window;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lvp_api::{ImageType, JobId, Verified};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::delivery::{self, Delivery};
use crate::job::meter::Moved;
use crate::store::Observer;
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

/// What was asked of each mirror, by its URL in the configuration.
struct MirrorMetrics {
    requests: Family<Labels<1>, Counter>,
    failures: Family<Labels<1>, Counter>,
    received: Family<Labels<1>, Counter>,
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
    paused_jobs: Gauge,
    pauses: Counter,
    yielding: YieldMetrics,
    queue_wait: Histogram,
    job_stalled: Number,
    cache_size: Number,
    cache_free: Number,
    cache_images: Number,
    cache_evictions: Counter,
    unpacked: UnpackedMetrics,
    transferred: Family<Labels<1>, Counter>,
    source_requests: Counter,
    source_retries: Counter,
    mirrors: MirrorMetrics,
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
    network: NetworkMetrics,
    decoders_started: Counter,
    decoders_failed: Family<Labels<1>, Counter>,
    clones: Counter,
    job_methods: Family<Labels<1>, Counter>,
    fleet_connected: Gauge,
    fleet_orders: Family<Labels<1>, Counter>,
    fleet_orders_active: Number,
    fleet_reports: Family<Labels<1>, Counter>,
    tokio_tasks: Number,
    process: ProcessMetrics,
    moving: Mutex<Moving>,
}

/// How jobs step aside.
struct YieldMetrics {
    rate: Number,
    others_wait: Number,
    idle_wait: Number,
    bearable_wait: Number,
    pressure: Number,
    own: Number,
    held: Counter<f64, AtomicU64>,
}

/// How downloads step aside.
struct NetworkMetrics {
    rate: Number,
    others: Number,
    link: Number,
    held: Counter<f64, AtomicU64>,
}

/// Unpacked copies of cached images.
struct UnpackedMetrics {
    images: Number,
    bytes: Number,
    made: Counter,
    copied: Counter,
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
    /// Those whose transfer is paused.
    paused: HashMap<JobId, Running>,
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
