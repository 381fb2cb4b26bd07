//! Environment variables that do not hold the value of a key as it is: the Go program's `LISTEN_ADDR`, and
//! OpenTelemetry's.
//!
//! OpenTelemetry's specification ("Environment Variable Specification") says how its variables are read, and that
//! values which cannot be understood are ignored with a warning. So none of them keeps the daemon from starting.

use std::net::Ipv6Addr;

use super::trim;

/// Host, port or both: where releases of the Go program before 0.11 listened.
pub(super) const LISTEN_ADDR: &str = "LISTEN_ADDR";

/// The prefix of OpenTelemetry's names.
const OTEL: &str = "OTEL_";

/// Whether the collector is used without TLS if its address has no scheme.
const INSECURE: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_INSECURE",
    "OTEL_EXPORTER_OTLP_INSECURE",
];

/// OpenTelemetry's variables that have no effect here, and the values that need no warning.
const NOT_SUPPORTED: &[(&str, &[&str])] = &[
    ("OTEL_CONFIG_FILE", &[]),
    ("OTEL_EXPERIMENTAL_CONFIG_FILE", &[]),
    ("OTEL_ENTITIES", &[]),
    ("OTEL_LOG_LEVEL", &[]),
    (
        "OTEL_PROPAGATORS",
        &["tracecontext", "tracecontext,baggage"],
    ),
    ("OTEL_METRICS_EXPORTER", &["none"]),
    ("OTEL_LOGS_EXPORTER", &["none"]),
    ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &[]),
    ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", &[]),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &[]),
    ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &[]),
    ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", &[]),
    ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", &[]),
    ("OTEL_EXPORTER_ZIPKIN_ENDPOINT", &[]),
    ("OTEL_EXPORTER_JAEGER_ENDPOINT", &[]),
];

/// Whether a value that cannot be understood is ignored.
pub(super) fn is_lenient(variable: &str) -> bool {
    variable.starts_with(OTEL)
}

/// The value that a variable gives the key with this path, if any.
pub(super) fn value(
    path: &str,
    variable: &str,
    text: &str,
    environment: &impl Fn(&str) -> Option<String>,
    warnings: &mut Vec<String>,
) -> Option<String> {
    match variable {
        LISTEN_ADDR => {
            let (host, port) = listen(trim::trimmed(text));
            let part = if path == "server.port" { port } else { host };
            part.map(str::to_owned)
        }
        "OTEL_SDK_DISABLED" => {
            let is_true = trim::trimmed(text).eq_ignore_ascii_case("true");
            if !is_true && !trim::trimmed(text).eq_ignore_ascii_case("false") {
                warnings.push(format!(
                    "{variable} is taken as false: by OpenTelemetry's specification only true means true"
                ));
            }
            Some(is_true.to_string())
        }
        // Only some samplers use the argument.
        "OTEL_TRACES_SAMPLER_ARG" => {
            let sampler = environment("OTEL_TRACES_SAMPLER").unwrap_or_default();
            sampler
                .to_ascii_lowercase()
                .contains("traceidratio")
                .then(|| text.to_owned())
        }
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT" | "OTEL_EXPORTER_OTLP_TIMEOUT" => {
            let text = trim::trimmed(text);
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            Some(match is_number {
                true => format!("{text}ms"),
                false => text.to_owned(),
            })
        }
        _ => Some(text.to_owned()),
    }
}

/// The scheme of a collector's address that has none.
pub(super) fn collector_scheme(environment: &impl Fn(&str) -> Option<String>) -> &'static str {
    let said = INSECURE
        .into_iter()
        .filter_map(environment)
        .find(|text| !text.trim().is_empty());
    match said {
        Some(text) if trim::trimmed(&text).eq_ignore_ascii_case("true") => "http",
        _ => "https",
    }
}

/// Warns of OpenTelemetry's variables that are set and have no effect.
pub(super) fn unsupported(
    environment: &impl Fn(&str) -> Option<String>,
    warnings: &mut Vec<String>,
) {
    for (name, harmless) in NOT_SUPPORTED {
        let Some(text) = environment(name) else {
            continue;
        };
        let text = text.trim().to_ascii_lowercase();
        if !text.is_empty() && !harmless.contains(&text.as_str()) {
            warnings.push(format!(
                "{name} is set but has no effect: it is not supported"
            ));
        }
    }
}

/// Host and port of `HOST:PORT`, `:PORT`, `HOST`, `[HOST]:PORT`.
fn listen(text: &str) -> (Option<&str>, Option<&str>) {
    if text.parse::<Ipv6Addr>().is_ok() || text.ends_with(']') {
        return (Some(text), None);
    }
    match text.rsplit_once(':') {
        Some((host, port)) => (Some(host).filter(|host| !host.is_empty()), Some(port)),
        None => (Some(text), None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::{Compression, OtlpProtocol, TraceSampler};
    use super::super::{Config, Settings};
    use super::*;

    fn load(variables: &[(&str, &str)]) -> (Config, Vec<String>) {
        let settings = Settings::load("/no/config.yaml".as_ref(), false, |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            let found = found.map(|(_, value)| (*value).to_owned());
            found.or_else(|| (name == "MINIO_ENDPOINT").then(|| "http://s3".to_owned()))
        });
        let settings = settings.unwrap_or_else(|error| panic!("{variables:?}: {error}"));
        let config = Config::from_settings(&settings);
        let config = config.unwrap_or_else(|error| panic!("{variables:?}: {error}"));
        (config, settings.warnings)
    }

    #[test]
    fn listen_addr_has_host_port_or_both_and_our_variables_override_it() {
        for (text, host, port) in [
            ("127.0.0.1", "127.0.0.1", 8080),
            ("10.0.0.1:9090", "10.0.0.1", 9090),
            (":9090", "0.0.0.0", 9090),
            ("[::1]:9090", "::1", 9090),
            ("::1", "::1", 8080),
            ("[::1]", "::1", 8080),
        ] {
            let (config, _) = load(&[(LISTEN_ADDR, text)]);
            let server = config.server;
            assert_eq!(
                (server.host.to_string(), server.port),
                (host.to_owned(), port)
            );
        }
        let (config, _) = load(&[
            (LISTEN_ADDR, "10.0.0.1:9090"),
            ("HOST", "127.0.0.1"),
            ("PORT", "1"),
        ]);
        assert_eq!(config.server.host.to_string(), "127.0.0.1");
        assert_eq!(config.server.port, 1);
    }

    #[test]
    fn the_go_program_s_older_variables_count() {
        let (config, warnings) = load(&[
            ("SERVER_CERT", "/cert"),
            ("SERVER_KEY", "/key"),
            ("DATABASE_PATH", "/state/jobs.db"),
            ("LOKI_URL", "http://loki:3100"),
            ("LOG_OUTPUT", "/var/log/lvp.log"),
            ("TRACING_EXPORTERS", "otlp, stdout"),
            ("LOG_SAMPLING_RATE", "10"),
            ("MINIO_BUCKET", "vm-images"),
            ("MINIO_USE_SSL", "false"),
        ]);
        let tls = config.server.tls.expect("TLS");
        assert_eq!((tls.cert, tls.key), ("/cert".into(), "/key".into()));
        assert_eq!(
            config.server.db_path,
            std::path::Path::new("/state/jobs.db")
        );
        assert_eq!(
            config.logging.loki_url.expect("Loki").to_string(),
            "http://loki:3100"
        );
        assert_eq!(config.logging.file, Some("/var/log/lvp.log".into()));
        assert!(config.tracing.to_stdout);
        assert_eq!(
            config.logging.sampling,
            super::super::LogSampling::OneIn(10)
        );
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }

    #[test]
    fn opentelemetry_s_variables_are_read_as_its_specification_says() {
        let (config, warnings) = load(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4318/base/"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=shop,service.version=7,site=a%20b",
            ),
        ]);
        let tracing = config.tracing;
        assert_eq!(
            tracing.endpoint.as_deref(),
            Some("http://otel:4318/base/v1/traces")
        );
        assert_eq!(tracing.protocol, OtlpProtocol::HttpProtobuf);
        assert_eq!(tracing.timeout.as_millis(), 1500);
        assert_eq!(tracing.compression, Compression::Gzip);
        assert_eq!(tracing.sampler, TraceSampler::Ratio);
        assert!((tracing.sampling_rate - 0.25).abs() < f64::EPSILON);
        assert_eq!(tracing.service_name, "shop");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            tracing.resource,
            [pair("service.version", "7"), pair("site", "a b")]
        );
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn variables_for_traces_alone_override_those_for_all_signals() {
        let (config, _) = load(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318"),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "http://traces:4318/exactly",
            ),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ("OTEL_SERVICE_NAME", "mine"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=shop"),
            // No share was given.
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ]);
        let tracing = config.tracing;
        assert_eq!(
            tracing.endpoint.as_deref(),
            Some("http://traces:4318/exactly")
        );
        assert_eq!(tracing.protocol, OtlpProtocol::HttpProtobuf);
        assert_eq!(tracing.service_name, "mine");
        assert!((tracing.sampling_rate - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_disabled_sdk_and_an_exporter_none_send_nothing() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4317");
        for (off, expected) in [
            (("OTEL_SDK_DISABLED", "True"), None),
            (("OTEL_TRACES_EXPORTER", "none"), None),
            (("OTEL_SDK_DISABLED", "false"), Some("http://otel:4317/")),
            // Only `true` means true.
            (("OTEL_SDK_DISABLED", "1"), Some("http://otel:4317/")),
        ] {
            let (config, _) = load(&[endpoint, off]);
            assert_eq!(config.tracing.endpoint.as_deref(), expected, "{off:?}");
        }
    }

    #[test]
    fn values_that_cannot_be_understood_are_ignored_with_a_warning() {
        for (name, value) in [
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_TRACES_EXPORTER", "zipkin_v3"),
            ("OTEL_SDK_DISABLED", "yes"),
            ("OTEL_RESOURCE_ATTRIBUTES", "site"),
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_PROPAGATORS", "b3"),
        ] {
            let (_, warnings) = load(&[(name, value)]);
            assert!(
                warnings.iter().any(|warning| warning.contains(name)),
                "{name}: {warnings:?}"
            );
        }
        let (_, warnings) = load(&[
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_PROPAGATORS", "tracecontext,baggage"),
        ]);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn a_collector_without_a_scheme_is_used_over_tls_unless_configured_otherwise() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "otel:4317");
        let (config, _) = load(&[endpoint]);
        assert_eq!(
            config.tracing.endpoint.as_deref(),
            Some("https://otel:4317/")
        );
        let (config, _) = load(&[endpoint, ("OTEL_EXPORTER_OTLP_INSECURE", "true")]);
        assert_eq!(
            config.tracing.endpoint.as_deref(),
            Some("http://otel:4317/")
        );
    }
}
