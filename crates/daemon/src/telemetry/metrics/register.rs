//! Registers all metrics with the names in the catalogue.

use std::sync::Mutex;

use lvp_api::{ImageType, JobState, Method, Verified};
use lvp_image::sandbox::Failure;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use super::catalogue::CATALOGUE;
use super::{
    Delivery, Labels, Metrics, MirrorMetrics, NetworkMetrics, Number, ProcessMetrics, TimedStage,
    UnpackedMetrics, YieldMetrics, float,
};
use crate::job::kind::JobErrorKind;
use crate::store;
use crate::telemetry::{logs, sinks};

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

/// Registers metrics with the names and texts of the catalogue.
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
    /// Metrics of a daemon with this many job slots and this cache limit. Series whose label values
    /// are known start at zero, so that the first event is an increase.
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
            images_verified: to.add("images_verified_total", Family::default()),
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
            probe_crashes: to.add("probe_crashes_total", Family::default()),
            queue_length: to.add("queue_length", Gauge::default()),
            paused_jobs: to.add("paused_jobs", Gauge::default()),
            pauses: to.add("job_pauses_total", Counter::default()),
            yielding: YieldMetrics {
                rate: to.add("yield_rate_bytes_per_second", Number::default()),
                others_wait: to.add("yield_others_wait_seconds", Number::default()),
                idle_wait: to.add("yield_idle_wait_seconds", Number::default()),
                bearable_wait: to.add("yield_bearable_wait_seconds", Number::default()),
                pressure: to.add("yield_pressure_ratio", Number::default()),
                own: to.add("yield_own_bytes_per_second", Number::default()),
                held: to.add("yield_held_seconds_total", Counter::default()),
            },
            network: NetworkMetrics {
                rate: to.add("network_rate_bytes_per_second", Number::default()),
                others: to.add("network_others_bytes_per_second", Number::default()),
                link: to.add("network_link_bytes_per_second", Number::default()),
                held: to.add("network_held_seconds_total", Counter::default()),
            },
            queue_wait: to.add("queue_wait_seconds", Histogram::new(JOB_BUCKETS)),
            job_stalled: to.add("job_stalled_seconds", Number::default()),
            cache_size: to.add("cache_size_bytes", Number::default()),
            cache_free: to.add("cache_free_bytes", Number::default()),
            cache_images: to.add("cache_images", Number::default()),
            cache_evictions: to.add("cache_evictions_total", Counter::default()),
            transferred: to.add("transferred_bytes_total", Family::default()),
            source_requests: to.add("source_requests_total", Counter::default()),
            source_retries: to.add("source_retries_total", Counter::default()),
            mirrors: MirrorMetrics {
                requests: to.add("mirror_requests_total", Family::default()),
                failures: to.add("mirror_failures_total", Family::default()),
                received: to.add("mirror_received_bytes_total", Family::default()),
            },
            volumes_size: to.add("volumes_size_bytes", Family::default()),
            volumes_free: to.add("volumes_free_bytes", Family::default()),
            pool_size: to.add("pool_size_bytes", Family::default()),
            pool_used: to.add("pool_used_ratio", Family::default()),
            pool_limit: to.add("pool_limit_ratio", Family::default()),
            pool_reserved: to.add("pool_reserved_bytes", Family::default()),
            pool_virtual: to.add("pool_virtual_bytes", Family::default()),
            pool_sound: to.add("pool_sound", Family::default()),
            webhook_deliveries: to.add("webhook_deliveries_total", Family::default()),
            certificate_expiry: to.add("certificate_expiry_timestamp_seconds", Family::default()),
            access_failures: to.add("access_failures_total", Family::default()),
            callers_refused: to.add("callers_refused_total", Family::default()),
            log_lines_sent: to.add("log_lines_sent_total", Family::default()),
            log_lines_dropped: to.add("log_lines_dropped_total", Family::default()),
            spans_sent: to.add("trace_spans_sent_total", Counter::default()),
            spans_dropped: to.add("trace_spans_dropped_total", Family::default()),
            golden_volumes: to.add("golden_volumes", Number::default()),
            golden_flawed: to.add("golden_volumes_flawed", Number::default()),
            golden_bytes: to.add("golden_bytes", Number::default()),
            golden_dropped: to.add("golden_dropped_total", Counter::default()),
            decoders_started: to.add("decoder_processes_started_total", Counter::default()),
            decoders_failed: to.add("decoder_processes_failed_total", Family::default()),
            unpacked: UnpackedMetrics {
                images: to.add("cache_unpacked_images", Number::default()),
                bytes: to.add("cache_unpacked_bytes", Number::default()),
                made: to.add("cache_unpacked_made_total", Counter::default()),
                copied: to.add("cache_unpacked_copies_total", Counter::default()),
            },
            clones: to.add("clones_total", Counter::default()),
            job_methods: to.add("volumes_made_total", Family::default()),
            fleet_connected: to.add("fleet_connected", Gauge::default()),
            fleet_orders: to.add("fleet_orders_total", Family::default()),
            fleet_orders_active: to.add("fleet_orders_active", Number::default()),
            fleet_reports: to.add("fleet_reports_total", Family::default()),
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
        for image_type in ImageType::ALL {
            let labels = [("image_type", image_type.as_str().into())];
            begin(&self.download_size, &labels);
        }
        for method in Method::ALL {
            begin(&self.job_methods, &[("method", method.as_str().into())]);
        }
        for verified in Verified::ALL {
            let labels = [("verified", verified.as_str().into())];
            begin(&self.images_verified, &labels);
        }
        for kind in JobErrorKind::all() {
            if let Some(operation) = kind.operation() {
                let labels = [
                    ("operation", operation.into()),
                    ("error_type", kind.word().into()),
                ];
                begin(&self.image_errors, &labels);
            }
        }
        for operation in store::OPERATIONS {
            for result in ["success", "error"] {
                let labels = [("operation", operation.into()), ("result", result.into())];
                begin(&self.storage_operations, &labels);
            }
            for error_type in store::ERROR_TYPES {
                let labels = [
                    ("operation", operation.into()),
                    ("error_type", error_type.into()),
                ];
                begin(&self.storage_errors, &labels);
            }
        }
        for name in ["minio", "storage", "cache", "lvm", "dir", "libvirt", "all"] {
            begin(&self.probe_crashes, &[("dependency", name.into())]);
        }
        for stage in [TimedStage::Download, TimedStage::Convert] {
            let labels = [("stage", stage.as_str().into())];
            begin(&self.stage_duration, &labels);
            begin(&self.stage_throughput, &labels);
        }
        for sink in sinks::NAMES.into_iter().chain(logs::NAMES) {
            begin(&self.log_lines_sent, &[("sink", sink.into())]);
            for reason in ["queue_full", "refused"] {
                begin(
                    &self.log_lines_dropped,
                    &[("sink", sink.into()), ("reason", reason.into())],
                );
            }
        }
        for result in Delivery::ALL {
            begin(
                &self.webhook_deliveries,
                &[("result", result.as_str().into())],
            );
        }
        for result in super::fleet::ORDER_RESULTS {
            begin(&self.fleet_orders, &[("result", result.into())]);
        }
        for result in ["sent", "failed"] {
            begin(&self.fleet_reports, &[("result", result.into())]);
        }
        for failure in Failure::ALL {
            let labels = [("reason", failure.as_str().into())];
            begin(&self.decoders_failed, &labels);
        }
        for direction in ["read", "written", "zeroed"] {
            begin(&self.transferred, &[("direction", direction.into())]);
        }
    }
}

/// Creates a series without changing it.
fn begin<const N: usize, M, C: MetricConstructor<M>>(
    family: &Family<Labels<N>, M, C>,
    labels: &Labels<N>,
) {
    drop(family.get_or_create(labels));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_operation_of_the_database_has_its_series_from_the_start() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
        let mut found = BTreeSet::from(["probe".to_owned()]);
        for entry in fs::read_dir(sources).expect("the sources are here") {
            let path = entry.expect("an entry").path();
            if !path.is_file() || path.ends_with("tests.rs") {
                continue;
            }
            let text = fs::read_to_string(path).expect("it is text");
            for call in ["self.read(\"", "self.write(\""] {
                let after = text.split(call).skip(1);
                found.extend(
                    after
                        .filter_map(|rest| rest.split('"').next())
                        .map(str::to_owned),
                );
            }
        }
        let known: BTreeSet<_> = store::OPERATIONS.map(str::to_owned).into();
        assert_eq!(known, found);
    }
}
