//! Spans on standard output, one JSON object each, to look at traces without a collector.

use std::io::Write as _;
use std::time::SystemTime;

use opentelemetry::trace::{SpanId, Status};
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use serde_json::{Map, Value, json};

/// Writes from the SDK's export thread, so that a standard output that nobody reads delays nothing else.
#[derive(Debug)]
pub(super) struct Console;

impl SpanExporter for Console {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let mut text = String::new();
        for span in &batch {
            text.push_str(&line(span).to_string());
            text.push('\n');
        }
        let mut stdout = std::io::stdout();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(|error| OTelSdkError::InternalFailure(error.to_string()))
    }
}

fn line(span: &SpanData) -> Value {
    let attributes: Map<String, Value> = span
        .attributes
        .iter()
        .map(|pair| (pair.key.to_string(), pair.value.to_string().into()))
        .collect();
    let status = match &span.status {
        Status::Unset => "unset".to_owned(),
        Status::Ok => "ok".to_owned(),
        Status::Error { description } => format!("error: {description}"),
    };
    let took = span.end_time.duration_since(span.start_time);
    json!({
        "span": span.name,
        "trace_id": span.span_context.trace_id().to_string(),
        "span_id": span.span_context.span_id().to_string(),
        "parent_span_id": Some(span.parent_span_id)
            .filter(|parent| *parent != SpanId::INVALID)
            .map(|parent| parent.to_string()),
        "start_unix_ms": unix_ms(span.start_time),
        "duration_ms": u64::try_from(took.unwrap_or_default().as_millis()).unwrap_or(u64::MAX),
        "status": status,
        "attributes": attributes,
    })
}

fn unix_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
