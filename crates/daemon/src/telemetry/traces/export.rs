//! Spans on their way to the collector: the SDK batches and sends; dropped spans are counted here.
//!
//! The SDK does not report spans that it drops, and tries a batch only once. [`Gate`] is in front
//! of its queue and admits no more spans than fit, so that every dropped span is dropped and
//! counted here. [`Patient`] is behind the queue and sends a batch again while the collector is
//! down for a short time.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_MAX_QUEUE_SIZE_DEFAULT, Span, SpanData, SpanExporter, SpanProcessor,
};

use crate::backoff::Backoff;
use crate::delivery::outbox::Complaints;

/// How long one batch is tried: if the collector is restarted, nothing is lost.
const RETRY_FOR: Duration = Duration::from_secs(60);

/// First wait before a repeat; each further one is twice as long.
const RETRY_MIN: Duration = Duration::from_millis(500);

/// Longest wait before a repeat.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// How often a wait checks whether the daemon is ending.
const RETRY_STEP: Duration = Duration::from_millis(50);

/// Counts of spans.
#[derive(Debug, Default)]
pub struct SpanCounts {
    /// Spans that the collector accepted.
    pub sent: AtomicU64,
    /// Spans that were dropped because the queue was full.
    pub overflowed: AtomicU64,
    /// Spans that could not be delivered.
    pub undelivered: AtomicU64,
    /// Spans that wait or are being sent.
    waiting: AtomicUsize,
    /// Whether batches are no longer repeated.
    closing: AtomicBool,
}

impl SpanCounts {
    fn dropped(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed) + self.undelivered.load(Ordering::Relaxed)
    }

    /// Ends repeats: from now on every batch is tried once.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }
}

/// The SDK's batch processor, between the two.
pub(super) fn processor(
    exporter: impl SpanExporter + 'static,
    counts: Arc<SpanCounts>,
) -> impl SpanProcessor + 'static {
    let asked = std::env::var(OTEL_BSP_MAX_QUEUE_SIZE).ok();
    let queue_spans = asked
        .and_then(|text| text.parse().ok())
        .unwrap_or(OTEL_BSP_MAX_QUEUE_SIZE_DEFAULT);
    let config = BatchConfigBuilder::default().with_max_queue_size(queue_spans);
    let patient = Patient {
        exporter,
        counts: Arc::clone(&counts),
        complaints: Mutex::new(Complaints::new("tracing")),
    };
    let batches = BatchSpanProcessor::builder(patient).with_batch_config(config.build());
    Gate {
        batches: batches.build(),
        counts,
        queue_spans,
    }
}

#[derive(Debug)]
struct Gate {
    batches: BatchSpanProcessor,
    counts: Arc<SpanCounts>,
    queue_spans: usize,
}

impl SpanProcessor for Gate {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    /// Called by the log's own machinery: it counts, and must not log.
    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        let waiting = self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        if waiting < self.queue_spans {
            self.batches.on_end(span);
        } else {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.overflowed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// Runs on the SDK's export thread, which may therefore sleep.
#[derive(Debug)]
struct Patient<E> {
    exporter: E,
    counts: Arc<SpanCounts>,
    complaints: Mutex<Complaints>,
}

impl<E: SpanExporter> Patient<E> {
    async fn try_for_a_while(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let deadline = Instant::now() + RETRY_FOR;
        let mut backoff = Backoff::doubling(RETRY_MIN, RETRY_MAX);
        loop {
            let Err(error) = self.exporter.export(batch.clone()).await else {
                self.complaints().settle(self.counts.dropped());
                return Ok(());
            };
            let why = error.to_string();
            self.complaints().complain(&why, self.counts.dropped());
            let again_at = Instant::now() + backoff.failed(None).unwrap_or_default();
            if again_at > deadline {
                return Err(error);
            }
            while Instant::now() < again_at {
                if self.counts.closing.load(Ordering::Acquire) {
                    return Err(error);
                }
                std::thread::sleep(RETRY_STEP);
            }
        }
    }

    fn complaints(&self) -> std::sync::MutexGuard<'_, Complaints> {
        self.complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: SpanExporter> SpanExporter for Patient<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.try_for_a_while(batch).await;
        let counter = match &result {
            Ok(()) => &self.counts.sent,
            Err(_) => &self.counts.undelivered,
        };
        counter.fetch_add(spans as u64, Ordering::Relaxed);
        self.counts.waiting.fetch_sub(spans, Ordering::Relaxed);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
