//! What is computed, or fetched from other parts, when a scraper asks.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use lvp_image::sandbox::{Counts, Failure};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;

use super::exposition::{self, Format};
use super::process::Process;
use super::{Metrics, ProcessMetrics, TimedStage, float};
use crate::access::Access;
use crate::net::Load;
use crate::source::Source;
use crate::telemetry::Exports;

/// Counts of other parts, read when a scraper asks.
#[derive(Debug)]
pub struct Counted<'a> {
    /// Reads images, and counts what that takes.
    pub source: &'a Source,
    /// Images that the cache has evicted.
    pub evicted_images: u64,
    /// Golden volumes that were dropped.
    pub golden_dropped: u64,
    /// Processes that decode, where decoding has processes of its own.
    pub decoders: Option<&'a Counts>,
    /// Asynchronous tasks alive.
    pub tokio_tasks: usize,
    /// Certificates, and refused callers.
    pub access: &'a Access,
    /// The cost of connections, and callers that were refused because of it.
    pub load: &'a Load,
    /// Counts of log lines and spans.
    pub exports: &'a Exports,
}

impl Metrics {
    /// Everything, in the format of a scraper.
    pub fn render(&self, format: Format, counted: &Counted<'_>) -> Result<String, fmt::Error> {
        self.look_around(counted);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(match format {
            Format::OpenMetrics => text,
            Format::Prometheus => exposition::to_prometheus(&text),
        })
    }

    /// Sets the values that are computed only when a scraper asks.
    fn look_around(&self, counted: &Counted<'_>) {
        let source = counted.source.counters();
        set(&self.source_requests, load(&source.requests));
        set(&self.source_retries, load(&source.retries));
        for (mirror, counts) in counted.source.mirrors() {
            let labels = [("mirror", mirror.to_owned().into())];
            for (family, count) in [
                (&self.mirrors.requests, &counts.requests),
                (&self.mirrors.failures, &counts.failures),
                (&self.mirrors.received, &counts.received_bytes),
            ] {
                set(&family.get_or_create(&labels), load(count));
            }
        }
        set(&self.cache_evictions, counted.evicted_images);
        set(&self.golden_dropped, counted.golden_dropped);
        if let Some(decoders) = counted.decoders {
            set(&self.decoders_started, decoders.started());
            for failure in Failure::ALL {
                let labels = [("reason", failure.as_str().into())];
                let failed = self.decoders_failed.get_or_create(&labels);
                set(&failed, decoders.failed(failure));
            }
        }
        self.tokio_tasks.set(float(counted.tokio_tasks as u64));
        let active = usize::try_from(self.active_jobs.get()).unwrap_or(0);
        self.health_status
            .set((active < self.max_concurrent).into());
        self.process.look();
        self.look_at_access(counted.access);
        for (full, count) in counted.load.refused() {
            let labels = [("full", full.as_str().into())];
            set(&self.callers_refused.get_or_create(&labels), count);
        }
        self.look_at_exports(counted.exports);
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

    fn look_at_access(&self, access: &Access) {
        for (reason, count) in access.refusals() {
            let labels = [("reason", reason.as_str().into())];
            set(&self.access_failures.get_or_create(&labels), count);
        }
        let Some(tls) = access.tls() else { return };
        for (certificate, ends) in [
            ("server", tls.not_after()),
            ("client_ca", tls.client_ca_not_after()),
        ] {
            if let Some(ends) = ends {
                #[expect(clippy::cast_precision_loss, reason = "53 bits of seconds are enough")]
                self.certificate_expiry
                    .get_or_create(&[("certificate", certificate.into())])
                    .set(ends.unix_timestamp() as f64);
            }
        }
    }

    fn look_at_exports(&self, exports: &Exports) {
        for (sink, counts) in &exports.lines {
            let sent = self
                .log_lines_sent
                .get_or_create(&[("sink", (*sink).into())]);
            set(&sent, load(&counts.sent));
            for (reason, count) in [
                ("queue_full", &counts.overflowed),
                ("refused", &counts.refused),
            ] {
                let labels = [("sink", (*sink).into()), ("reason", reason.into())];
                set(&self.log_lines_dropped.get_or_create(&labels), load(count));
            }
        }
        let spans = &exports.spans;
        set(&self.spans_sent, load(&spans.sent));
        for (reason, count) in [
            ("queue_full", &spans.overflowed),
            ("not_delivered", &spans.undelivered),
        ] {
            let dropped = self
                .spans_dropped
                .get_or_create(&[("reason", reason.into())]);
            set(&dropped, load(count));
        }
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// A count that is kept elsewhere, where it only grows.
fn set(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

impl ProcessMetrics {
    /// If `/proc` cannot be read, the last values stay; nothing else depends on them.
    fn look(&self) {
        let Ok(process) = Process::read() else { return };
        // A float counter stores the bits of its number.
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
