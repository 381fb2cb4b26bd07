//! Section `tracing`. OpenTelemetry's specification says how its parts work together.

use std::path::PathBuf;
use std::time::Duration;

use super::load::{ConfigError, Settings};
use super::setting::Origin;
use super::words::{Compression, OtlpProtocol, TraceExporter, TraceSampler};
use super::{endpoints, value};

/// The path for traces below an endpoint that is meant for all signals.
const TRACES_PATH: &str = "/v1/traces";

/// Section `tracing`.
#[derive(Debug, Clone)]
pub struct Tracing {
    /// Where traces are posted; `None` sends nothing to a collector.
    pub endpoint: Option<String>,
    /// The collector's protocol.
    pub protocol: OtlpProtocol,
    /// Compression of what is sent to the collector.
    pub compression: Compression,
    /// How long the collector may take for a batch.
    pub timeout: Duration,
    /// Whether spans are written to standard output as well.
    pub to_stdout: bool,
    /// CA of the collector.
    pub ca_cert: Option<PathBuf>,
    /// Name of the service in traces.
    pub service_name: String,
    /// Further attributes of the service.
    pub resource: Vec<(String, String)>,
    /// How traces are sampled.
    pub sampler: TraceSampler,
    /// Share of traces that are kept.
    pub sampling_rate: f64,
    /// Share of traces that are kept of requests that only read.
    pub polling_sampling_rate: f64,
}

impl Tracing {
    pub(super) fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let exporters = value::words(
            &settings
                .optional_text("tracing.exporters")
                .unwrap_or_default(),
        );
        let disabled = settings.boolean("tracing.disabled")?;
        let has = |exporter: TraceExporter| exporters.iter().any(|name| name == exporter.as_str());
        let goes_to =
            |exporter: TraceExporter| !disabled && !has(TraceExporter::None) && has(exporter);
        let protocol = settings.named("tracing.protocol")?;
        let endpoint = endpoint(settings, protocol)?;
        let (named, resource) = resource(settings)?;
        let own_name = settings.text("tracing.service_name")?;
        let is_by_variable = matches!(
            settings.origin("tracing.service_name"),
            Some(Origin::Environment(_) | Origin::Flag(_))
        );
        Ok(Self {
            endpoint: endpoint.filter(|_| goes_to(TraceExporter::Otlp)),
            protocol,
            compression: settings.named("tracing.compression")?,
            timeout: settings.duration("tracing.timeout")?,
            to_stdout: goes_to(TraceExporter::Stdout),
            ca_cert: settings.optional_path("tracing.ca_cert"),
            service_name: named.filter(|_| !is_by_variable).unwrap_or(own_name),
            resource,
            sampler: settings.named("tracing.sampler")?,
            sampling_rate: settings.fraction("tracing.sampling_rate")?,
            polling_sampling_rate: settings.fraction("tracing.polling_sampling_rate")?,
        })
    }
}

fn endpoint(settings: &Settings, protocol: OtlpProtocol) -> Result<Option<String>, ConfigError> {
    const KEY: &str = "tracing.endpoint";
    let Some(text) = settings.optional_text(KEY) else {
        return Ok(None);
    };
    let mut url = endpoints::collector(&text, settings.collector_scheme)
        .map_err(|reason| ConfigError::Invalid { key: KEY, reason })?;
    let is_for_traces = matches!(
        settings.origin(KEY),
        Some(Origin::Environment("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
    );
    if protocol == OtlpProtocol::HttpProtobuf
        && !is_for_traces
        && !url.path().ends_with(TRACES_PATH)
    {
        url.set_path(&format!(
            "{}{TRACES_PATH}",
            url.path().trim_end_matches('/')
        ));
    }
    Ok(Some(url.into()))
}

type Attributes = Vec<(String, String)>;

/// `service.name`, and the other attributes.
fn resource(settings: &Settings) -> Result<(Option<String>, Attributes), ConfigError> {
    const KEY: &str = "tracing.resource_attributes";
    let text = settings.optional_text(KEY).unwrap_or_default();
    let pairs = value::attributes(&text);
    let mut pairs = pairs.map_err(|reason| ConfigError::Invalid { key: KEY, reason })?;
    let name = pairs.iter().rposition(|(name, _)| name == "service.name");
    let name = name.map(|at| pairs.remove(at).1);
    pairs.retain(|(other, _)| other != "service.name");
    Ok((name.filter(|name| !name.is_empty()), pairs))
}
