//! Log lines: one JSON object or one line of text each.
//!
//! JSON: `timestamp`, `level`, `component`, the ids, `message`, then the event's other fields, of
//! which those of the spans around it (such as `image_url`) are part. Text:
//! `TIMESTAMP [LEVEL] component: message (key=value, ...)`. See [`super::line`] for how they are written.

use std::fmt;
use std::sync::Arc;

use opentelemetry_sdk::trace::SdkTracer;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt as _};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt as _};
use tracing_subscriber::registry::{LookupSpan, Scope};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::behind::Behind;
use super::joblog::{self, JobLines};
use super::line::Line;
use super::logfile::LogFile;
use super::sampling::Sampled;
use super::sinks::SinkWriter;
use super::stream::Stream;
use super::traces;
use crate::clock;
use crate::config::{LogFormat, Logging};
use crate::delivery::outbox::Counts;
use crate::job::log::Logs as JobLogs;

/// Names of the destinations on this host, for metrics.
pub const NAMES: [&str; 2] = ["stream", "file"];

/// Our own crates, whose lines are written at the configured level.
pub(super) const OURS: [&str; 3] = ["provisioner", "libvirt_volume_provisioner", "lvp_image"];

/// The component of a line whose code does not name one.
const DEFAULT_COMPONENT: &str = "daemon";

/// The installed log.
#[derive(Debug)]
pub struct Log {
    /// Its file, if there is one.
    pub file: Option<LogFile>,
    ways: Vec<(&'static str, Behind)>,
}

impl Log {
    /// Counts of lines, by destination.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, Arc<Counts>)> {
        self.ways
            .iter()
            .map(|(name, way)| (*name, Arc::clone(way.counts())))
    }

    /// Waits until the last lines are written, or a timeout has passed.
    pub fn close(&self) {
        for (_, way) in &self.ways {
            way.close();
        }
    }
}

/// Installs the log, the layer that makes spans, and a panic hook that writes to the log. Call
/// once.
pub fn init(
    logging: &Logging,
    tracer: SdkTracer,
    sinks: Option<SinkWriter>,
    of_jobs: JobLogs,
) -> anyhow::Result<Log> {
    let file = logging.file.as_deref().map(LogFile::open).transpose()?;
    let [to_stream, to_file] = NAMES;
    let stream = Behind::start(to_stream, Stream::new(logging.output))?;
    let mut ways = vec![(to_stream, stream.clone())];
    let writer = match file.clone() {
        Some(file) => {
            let file = Behind::start(to_file, file)?;
            ways.push((to_file, file.clone()));
            BoxMakeWriter::new(stream.and(file))
        }
        None => BoxMakeWriter::new(stream),
    };
    // Sinks take JSON. If that is the format here, the same line goes everywhere.
    let (writer, sinks) = match (sinks, logging.format) {
        (Some(sinks), LogFormat::Json) => (BoxMakeWriter::new(writer.and(sinks)), None),
        (sinks, _) => (writer, sinks),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .event_format(Lines(logging.format))
        .with_filter(filter(logging));
    let sinks = sinks.map(|sinks| {
        tracing_subscriber::fmt::layer()
            .with_writer(sinks)
            .event_format(Lines(LogFormat::Json))
            .with_filter(filter(logging))
    });
    tracing_subscriber::registry()
        .with(SpanFields.with_filter(filter_fn(traces::is_ours)))
        .with(traces::layer(tracer).with_filter(filter_fn(traces::is_ours)))
        .with(lines)
        .with(sinks)
        .with(JobLines(of_jobs).with_filter(filter_fn(joblog::is_wanted)))
        .try_init()?;
    let last = ways.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(
            component = "daemon",
            place,
            panic = message,
            "A part of the daemon crashed"
        );
        // When this thread ends, the process ends.
        if std::thread::current().name() == Some("main") {
            last.iter().for_each(|(_, way)| way.close());
        }
    }));
    Ok(Log { file, ways })
}

/// Which lines are written.
fn filter<S: Subscriber + for<'a> LookupSpan<'a>>(logging: &Logging) -> impl Filter<S> + use<S> {
    // Libraries log at warn and above, our own crates at the configured level.
    let directives = OURS
        .map(|name| format!("{name}={}", logging.level))
        .join(",");
    EnvFilter::new(format!("warn,{directives}")).and(Sampled::new(logging.sampling))
}

/// Keeps each span's fields, so that lines within the span have them.
struct SpanFields;

pub(super) struct Fields(pub(super) Map<String, Value>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for SpanFields {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields(Map::new());
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }
}

impl Fields {
    /// The fields of an event, and those of the spans around it.
    pub(super) fn of<S: Subscriber + for<'a> LookupSpan<'a>>(
        event: &Event<'_>,
        spans: Option<Scope<'_, S>>,
    ) -> Self {
        let mut fields = Self(Map::new());
        for span in spans.into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Self>() {
                for (name, value) in &outer.0 {
                    fields
                        .0
                        .entry(name.clone())
                        .or_insert_with(|| value.clone());
                }
            }
        }
        event.record(&mut fields);
        // Fields of the span that are for its exporter, not for lines.
        fields.0.retain(|name, _| !name.starts_with("otel."));
        fields
    }

    /// The line with these fields.
    pub(super) fn into_line(mut self, level: Level) -> Line {
        let mut take = |name: &str| match self.0.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        Line {
            timestamp: clock::now_text(),
            level,
            component: take("component").unwrap_or_else(|| DEFAULT_COMPONENT.to_owned()),
            message: take("message").unwrap_or_default(),
            fields: self.0,
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0
            .insert(field.name().to_owned(), Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0
            .insert(field.name().to_owned(), Value::String(value.to_owned()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), Value::Bool(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

struct Lines(LogFormat);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::of(event, context.event_scope());
        if let Some((trace_id, span_id)) = context
            .lookup_current()
            .and_then(|span| traces::ids(&span.id()))
        {
            fields.0.insert("trace_id".to_owned(), trace_id.into());
            fields.0.insert("span_id".to_owned(), span_id.into());
        }
        let line = fields.into_line(*event.metadata().level());
        match self.0 {
            LogFormat::Json => line.json(&mut writer),
            LogFormat::Text => line.text(&mut writer),
        }
    }
}
