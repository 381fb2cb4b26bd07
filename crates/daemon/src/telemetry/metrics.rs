//! Metrics: one method per event, one exposition for scrapers.
//!
//! The rest of the daemon knows [`Metrics`] and its methods, named after what happened; names,
//! labels and formats are here alone. Every label value comes from a fixed list, so that the number
//! of series is bounded whatever clients send.
//!
//! How the two stages are counted where they overlap: `download` lasts from the first request
//! for the image's bytes to its last byte, `convert` from the start of the copy to the last byte
//! settled on the volume. In one pass both run at once and each has its own time; their sum is more than
//! the job took. Failed and cancelled stages are not counted.

pub mod catalogue;
mod errors;
mod exposition;
mod process;
mod window;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lvp_api::{ImageType, JobId, JobState};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::jobs::progress::Moved;
use crate::source;
use crate::store::Observer;
use crate::volume::Capacity;
use catalogue::CATALOGUE;
use errors::{IMAGE_ERRORS, image_operation};
pub use exposition::Format;
use process::Process;
use window::{HitRatio, Throughput};

/// Begins every name but the process's.
pub const PREFIX: &str = "libvirt_volume_provisioner";

/// `endpoint` of requests that match no route.
pub const UNMATCHED: &str = "unmatched";

/// Prometheus' default buckets, in seconds.
const REQUEST_BUCKETS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Seconds; jobs may last hours.
const JOB_BUCKETS: [f64; 10] = [
    1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
];
/// Seconds.
const STAGE_BUCKETS: [f64; 10] = [0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Bytes: 1 MiB to 64 GiB by factors of four.
const SIZE_BUCKETS: [f64; 9] = [
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
    17_179_869_184.0,
    68_719_476_736.0,
];

/// Methods that have a label value of their own.
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];

type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];
type Number = Gauge<f64, AtomicU64>;
type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

/// One of the two stages that are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimedStage {
    /// From the source to this host.
    Download,
    /// Onto the volume.
    Convert,
}

impl TimedStage {
    /// Its label value, and its name among the measurements.
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
    download_size: Histograms<1>,
    image_errors: Family<Labels<2>, Counter>,
    storage_operations: Family<Labels<2>, Counter>,
    storage_errors: Family<Labels<2>, Counter>,
    stage_duration: Histograms<1>,
    stage_throughput: Family<Labels<1>, Number>,
    health_status: Gauge,
    dependencies_up: Family<Labels<1>, Gauge>,
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

/// What is worked out over a while.
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

/// Counts that others keep, looked at when a scraper asks.
#[derive(Debug)]
pub struct Counted<'a> {
    /// What the source has done.
    pub source: &'a source::Counters,
    /// Images that the cache has evicted.
    pub evicted_images: u64,
    /// Asynchronous tasks alive.
    pub tokio_tasks: usize,
}

/// Registers metrics under the names and texts of the catalogue.
#[derive(Default)]
struct Registrar(Registry);

impl Registrar {
    fn add<M: Metric + Clone>(&mut self, name: &str, metric: M) -> M {
        let entry = CATALOGUE.iter().find(|entry| entry.name == name);
        let entry = entry.expect("every metric that is registered is in the catalogue");
        let full = entry.full_name();
        // The encoder adds the suffix of counters and the help's full stop.
        let base = full.strip_suffix("_total").unwrap_or(&full);
        self.0.register(base, entry.help, metric.clone());
        metric
    }
}

impl Metrics {
    /// Metrics of a daemon with so many job slots and this cache limit. Series whose label values
    /// are known stand at zero from the beginning, so that the first event is an increase.
    pub fn new(max_concurrent: usize, cache_max_size_bytes: Option<u64>) -> Self {
        let mut to = Registrar::default();
        let mut metrics = Self {
            max_concurrent,
            requests: to.add("requests_total", Family::default()),
            request_duration: to.add(
                "request_duration_seconds",
                Family::new_with_constructor(|| Histogram::new(REQUEST_BUCKETS)),
            ),
            active_jobs: to.add("active_jobs", Gauge::default()),
            jobs: to.add("jobs_total", Family::default()),
            job_duration: to.add(
                "job_duration_seconds",
                Family::new_with_constructor(|| Histogram::new(JOB_BUCKETS)),
            ),
            cache_hits: to.add("cache_hits_total", Counter::default()),
            cache_misses: to.add("cache_misses_total", Counter::default()),
            cache_hit_ratio: to.add("cache_hit_ratio", Number::default()),
            images_downloaded: to.add("images_downloaded_total", Counter::default()),
            download_size: to.add(
                "image_download_size_bytes",
                Family::new_with_constructor(|| Histogram::new(SIZE_BUCKETS)),
            ),
            image_errors: to.add("image_errors_total", Family::default()),
            storage_operations: to.add("storage_operations_total", Family::default()),
            storage_errors: to.add("storage_errors_total", Family::default()),
            stage_duration: to.add(
                "stage_duration_seconds",
                Family::new_with_constructor(|| Histogram::new(STAGE_BUCKETS)),
            ),
            stage_throughput: to.add("stage_throughput_bytes_per_second", Family::default()),
            health_status: to.add("health_status", Gauge::default()),
            dependencies_up: to.add("dependencies_up", Family::default()),
            queue_length: to.add("queue_length", Gauge::default()),
            queue_wait: to.add("queue_wait_seconds", Histogram::new(JOB_BUCKETS)),
            job_stalled: to.add("job_stalled_seconds", Number::default()),
            cache_size: to.add("cache_size_bytes", Number::default()),
            cache_free: to.add("cache_free_bytes", Number::default()),
            cache_images: to.add("cache_images", Number::default()),
            cache_evictions: to.add("cache_evictions_total", Counter::default()),
            transferred: to.add("transferred_bytes_total", Family::default()),
            source_requests: to.add("source_requests_total", Counter::default()),
            source_retries: to.add("source_retries_total", Counter::default()),
            volumes_size: to.add("volumes_size_bytes", Family::default()),
            volumes_free: to.add("volumes_free_bytes", Family::default()),
            tokio_tasks: to.add("tokio_tasks", Number::default()),
            process: ProcessMetrics {
                cpu_seconds: to.add("process_cpu_seconds_total", Counter::default()),
                resident_bytes: to.add("process_resident_memory_bytes", Number::default()),
                virtual_bytes: to.add("process_virtual_memory_bytes", Number::default()),
                open_fds: to.add("process_open_fds", Number::default()),
                max_fds: to.add("process_max_fds", Number::default()),
                threads: to.add("process_threads", Number::default()),
                start_time: to.add("process_start_time_seconds", Number::default()),
            },
            moving: Mutex::default(),
            registry: Registry::default(),
        };
        to.add("cache_max_size_bytes", Number::default())
            .set(float(cache_max_size_bytes.unwrap_or(0)));
        let build: Family<Labels<1>, Gauge> = to.add("build_info", Family::default());
        build
            .get_or_create(&[("version", env!("CARGO_PKG_VERSION").into())])
            .set(1);
        metrics.cache_hit_ratio.set(f64::NAN);
        metrics.begin_at_zero();
        metrics.registry = to.0;
        metrics
    }

    fn begin_at_zero(&self) {
        for state in [JobState::Completed, JobState::Failed, JobState::Cancelled] {
            let labels = [("status", state.as_str().into())];
            begin(&self.jobs, &labels);
            begin(&self.job_duration, &labels);
        }
        for image_type in [ImageType::Qcow2, ImageType::Raw] {
            let labels = [("image_type", image_type.as_str().into())];
            begin(&self.download_size, &labels);
        }
        for (operation, error_types) in IMAGE_ERRORS {
            for error_type in *error_types {
                begin(
                    &self.image_errors,
                    &[
                        ("operation", (*operation).into()),
                        ("error_type", (*error_type).into()),
                    ],
                );
            }
        }
        for stage in [TimedStage::Download, TimedStage::Convert] {
            let labels = [("stage", stage.as_str().into())];
            begin(&self.stage_duration, &labels);
            begin(&self.stage_throughput, &labels);
        }
        for direction in ["read", "written", "zeroed"] {
            begin(&self.transferred, &[("direction", direction.into())]);
        }
    }

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

    /// A job begins to wait for a slot.
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

    /// A job gives its slot back, having moved so much in all.
    pub fn job_stopped(&self, id: JobId, moved: Moved) {
        self.job_moved(id, moved);
        self.moving().running.remove(&id);
        self.active_jobs.dec();
    }

    /// A job ended; `ran` is how long it had run, if it had begun.
    pub fn job_ended(&self, state: JobState, ran: Option<Duration>) {
        let labels = [("status", state.as_str().into())];
        self.jobs.get_or_create(&labels).inc();
        if let Some(ran) = ran {
            let duration = self.job_duration.get_or_create(&labels);
            duration.observe(ran.as_secs_f64());
        }
    }

    /// A job failed with this error; counted when it was over the image.
    pub fn job_failed(&self, error_type: &'static str) {
        if let Some(operation) = image_operation(error_type) {
            self.image_errors
                .get_or_create(&[
                    ("operation", operation.into()),
                    ("error_type", error_type.into()),
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

    /// What the volumes' probe found.
    pub fn volumes_measured(&self, backend: &'static str, capacity: Capacity) {
        let labels = [("backend", backend.into())];
        for (family, bytes) in [
            (&self.volumes_size, capacity.total_bytes),
            (&self.volumes_free, capacity.free_bytes),
        ] {
            family.get_or_create(&labels).set(float(bytes));
        }
    }

    /// What the cache holds.
    pub fn cache_measured(&self, size_bytes: u64, images: u64, free_bytes: u64) {
        self.cache_size.set(float(size_bytes));
        self.cache_images.set(float(images));
        self.cache_free.set(float(free_bytes));
    }

    /// Everything, as a scraper reads it.
    pub fn render(&self, format: Format, counted: &Counted<'_>) -> Result<String, fmt::Error> {
        self.look_around(counted);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(match format {
            Format::OpenMetrics => text,
            Format::Prometheus => exposition::to_prometheus(&text),
        })
    }

    /// Sets what is only worked out when somebody asks.
    fn look_around(&self, counted: &Counted<'_>) {
        let source = counted.source;
        for (counter, value) in [
            (
                &self.source_requests,
                source.requests.load(Ordering::Relaxed),
            ),
            (&self.source_retries, source.retries.load(Ordering::Relaxed)),
            (&self.cache_evictions, counted.evicted_images),
        ] {
            // A count that another keeps: it only grows there too.
            counter.inner().store(value, Ordering::Relaxed);
        }
        self.tokio_tasks.set(float(counted.tokio_tasks as u64));
        let active = usize::try_from(self.active_jobs.get()).unwrap_or(0);
        self.health_status
            .set((active < self.max_concurrent).into());
        self.process.look();
        let now = Instant::now();
        let mut moving = self.moving();
        for (stage, value) in [
            (TimedStage::Download, moving.download.value(now)),
            (TimedStage::Convert, moving.convert.value(now)),
        ] {
            self.stage_throughput
                .get_or_create(&[("stage", stage.as_str().into())])
                .set(value);
        }
        let stalled = moving.running.values().map(|job| job.moved_at).min();
        let stalled = stalled.map_or(0.0, |since| now.duration_since(since).as_secs_f64());
        self.job_stalled.set(stalled);
    }

    fn moving(&self) -> MutexGuard<'_, Moving> {
        // Plain data that no panic can leave half-changed.
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProcessMetrics {
    /// Without a readable `/proc` the last values stay; nobody else needs to know.
    fn look(&self) {
        let Ok(process) = Process::read() else { return };
        // A float counter keeps the bits of its number.
        let cpu = process.cpu_seconds.to_bits();
        self.cpu_seconds.inner().store(cpu, Ordering::Relaxed);
        self.start_time.set(process.start_time_seconds);
        for (gauge, value) in [
            (&self.resident_bytes, process.resident_bytes),
            (&self.virtual_bytes, process.virtual_bytes),
            (&self.open_fds, process.open_fds),
            (&self.max_fds, process.max_fds),
            (&self.threads, process.threads),
        ] {
            gauge.set(float(value));
        }
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

/// Makes a series without moving it.
fn begin<const N: usize, M, C: MetricConstructor<M>>(
    family: &Family<Labels<N>, M, C>,
    labels: &Labels<N>,
) {
    drop(family.get_or_create(labels));
}

#[expect(clippy::cast_precision_loss, reason = "gauges need no 53rd bit")]
fn float(number: u64) -> f64 {
    number as f64
}
