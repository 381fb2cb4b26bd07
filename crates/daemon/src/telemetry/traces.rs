//! Traces: spans of requests and jobs, sent to a collector by OTLP over gRPC.
//!
//! ```text
//! POST /api/v1/jobs            (server; continues the client's traceparent)
//! '- runJob | runCacheJob      (begins when the job has a slot, may outlive the request)
//!    |- DownloadImageToPath
//!    |- CreateVolume
//!    |- PopulateVolume         (in one pass it overlaps DownloadImageToPath)
//!    '- DeleteVolume           (the rollback)
//! ```
//!
//! A job's row in the database has the `traceparent` of the request that created it, so that a job
//! that is resumed after a restart stays in its trace.
//!
//! Spans are `tracing` spans. Only fields that log lines have as well are `tracing` fields;
//! everything else is set by `OpenTelemetrySpanExt::set_attribute`. Without a collector spans exist
//! all the same, because their ids correlate log lines. With one, a dedicated thread sends them in
//! batches from a bounded queue. While the collector is down or slow, spans are dropped and counted,
//! and nothing waits ([`export`]).

mod console;
mod export;
mod otlp;
mod sampler;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::{
    SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SdkTracer, SdkTracerProvider};
use tracing::span::Id;
use tracing::{Metadata, Span, Subscriber};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt as _, get_otel_context};
use tracing_subscriber::registry::LookupSpan;

use crate::config::Tracing;
pub use export::SpanCounts;

/// Target of the spans that are exported. They are created at the highest level, so that lines
/// within them have their fields whatever `logging.level` is.
pub const TARGET: &str = "provisioner::trace";

/// How long the end of the daemon waits for the last spans.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Sends spans to the collector.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    counts: Arc<SpanCounts>,
}

impl Traces {
    /// Does not connect yet. Must be called within a runtime, which runs the export.
    pub fn new(config: &Tracing) -> anyhow::Result<Self> {
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let said = config.resource.iter();
        let said = said.map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
        let resource = Resource::builder()
            .with_attributes(std::iter::once(version).chain(said))
            .with_service_name(config.service_name.clone())
            .build();
        let counts = Arc::default();
        let mut provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(sampler::Apart::new(config));
        if let Some(endpoint) = &config.endpoint {
            let exporter = otlp::exporter(config, endpoint)?;
            provider =
                provider.with_span_processor(export::processor(exporter, Arc::clone(&counts)));
        }
        if config.to_stdout {
            let spans = BatchSpanProcessor::builder(console::Console).build();
            provider = provider.with_span_processor(spans);
        }
        Ok(Self {
            provider: provider.build(),
            counts,
        })
    }

    /// Counts of spans.
    pub fn counts(&self) -> &Arc<SpanCounts> {
        &self.counts
    }

    /// Creates spans.
    pub fn tracer(&self) -> SdkTracer {
        self.provider.tracer(env!("CARGO_PKG_NAME"))
    }

    /// Sends what is left, until a timeout. Blocks; the runtime must still be running.
    pub fn flush(&self) {
        self.counts.close();
        // A collector that is down is not a reason to exit with an error: its operator sees the gap.
        self.provider.shutdown_with_timeout(FLUSH_TIMEOUT).ok();
    }
}

/// Turns `tracing` spans into exported ones, with nothing but the attributes that were set.
pub(super) fn layer<S>(tracer: SdkTracer) -> OpenTelemetryLayer<S, SdkTracer>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
}

/// Whether a span is one of ours.
pub(super) fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target() == TARGET
}

/// Trace and span ids of a `tracing` span, for log lines within it.
pub(super) fn ids(span: &Id) -> Option<(String, String)> {
    let context = span_context(span)?;
    Some((
        context.trace_id().to_string(),
        context.span_id().to_string(),
    ))
}

/// Trace id of a `tracing` span.
pub(super) fn trace_id(span: &Id) -> Option<TraceId> {
    Some(span_context(span)?.trace_id())
}

fn span_context(span: &Id) -> Option<SpanContext> {
    let context = tracing::dispatcher::get_default(|dispatch| get_otel_context(span, dispatch))?;
    let context = context.span().span_context().clone();
    context.is_valid().then_some(context)
}

/// Makes a span a child of the context in a W3C `traceparent` header. A malformed header is ignored
/// (W3C Trace Context, section 3.2.4).
pub fn continue_from(span: &Span, traceparent: Option<&str>) {
    if let Some(remote) = traceparent.and_then(parse) {
        // Fails only for a span that was already entered, and these were just created.
        let parent = Context::new().with_remote_span_context(remote);
        span.set_parent(parent).ok();
    }
}

/// The `traceparent` for children of the caller's span.
pub fn current_traceparent() -> Option<String> {
    let context = Span::current().context();
    let context = context.span().span_context().clone();
    context.is_valid().then(|| {
        format!(
            "00-{}-{}-{:02x}",
            context.trace_id(),
            context.span_id(),
            context.trace_flags().to_u8()
        )
    })
}

/// Sets an attribute, if it has a value.
pub fn attribute(span: &Span, name: &'static str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        span.set_attribute(name, value);
    }
}

/// Marks a span as failed.
pub fn failed(span: &Span, error_type: impl Into<Value>, message: String) {
    span.set_attribute("error.type", error_type);
    span.set_status(Status::error(message));
}

/// A number as an attribute; those have 63 bits.
pub fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Version 00 of `traceparent`; of a later version the same fields (section 3.2.2).
fn parse(header: &str) -> Option<SpanContext> {
    let mut parts = header.trim().split('-');
    let [version, trace, span, flags] =
        [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let known = match version {
        "00" => parts.next().is_none(),
        "ff" => false,
        version => hex(version, 2),
    };
    if !known || !hex(trace, 32) || !hex(span, 16) || !hex(flags, 2) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_parsed_as_the_standard_says() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = parse(&format!("00-{trace}-00f067aa0ba902b7-01")).expect("it is one");
        assert_eq!(good.trace_id().to_string(), trace);
        assert!(good.is_sampled() && good.is_remote());
        assert!(parse(&format!("01-{trace}-00f067aa0ba902b7-00-more")).is_some());
        for bad in [
            "",
            "00",
            &format!("00-{trace}-00f067aa0ba902b7"),
            &format!("00-{trace}-00f067aa0ba902b7-01-more"),
            &format!("ff-{trace}-00f067aa0ba902b7-01"),
            &format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{trace}-{}-01", "0".repeat(16)),
            &format!("00-{trace}-00f067aa0ba902b7-xx"),
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
