//! The files under `deploy/`, checked by the programs that read them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lvp_testkit::require::{command, require};
use provisioner::config::keys::KEYS;
use provisioner::config::{Config, Settings};
use provisioner::telemetry::metrics::catalogue::{CATALOGUE, Kind};
use serde_json::Value;

/// A file under `deploy/`.
pub(crate) fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deploy")
        .join(path)
}

fn promtool(arguments: &[&str], file: &str) {
    let output = command("promtool")
        .args(arguments)
        .arg(deploy(file))
        .output()
        .expect("promtool starts");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn every_alert_fires_when_it_should_and_only_then() {
    if !require("promtool") {
        return;
    }
    promtool(&["check", "rules"], "prometheus/rules.yml");
    promtool(&["test", "rules"], "prometheus/rules-test.yml");
    let read = |file| fs::read_to_string(deploy(file)).expect("the file is there");
    let (rules, tests) = (
        read("prometheus/rules.yml"),
        read("prometheus/rules-test.yml"),
    );
    for alert in rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        assert!(
            tests.contains(&format!("alertname: {alert}\n")),
            "{alert} has no test"
        );
    }
}

#[test]
fn the_scrape_configuration_is_sound() {
    if !require("promtool") {
        return;
    }
    promtool(
        &["check", "config", "--syntax-only"],
        "prometheus/prometheus.yml",
    );
}

#[test]
fn no_file_asks_for_a_metric_that_is_not_served() {
    let served: BTreeSet<String> = CATALOGUE
        .iter()
        .flat_map(|entry| {
            let name = entry.full_name();
            match entry.kind {
                Kind::Histogram => {
                    vec![
                        format!("{name}_bucket"),
                        format!("{name}_sum"),
                        format!("{name}_count"),
                    ]
                }
                _ => vec![name],
            }
        })
        .collect();
    let mut seen = 0;
    for file in [
        "prometheus/rules.yml",
        "prometheus/rules-test.yml",
        "grafana/dashboard.json",
    ] {
        let text = fs::read_to_string(deploy(file)).expect("the file is there");
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for word in text.split(|c| !is_name(c)) {
            if word.starts_with("libvirt_volume_provisioner_") {
                assert!(served.contains(word), "{file} asks for {word}");
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "only {seen} names were found");
}

#[test]
fn the_alertmanager_configuration_is_sound_and_wakes_somebody_for_what_is_critical() {
    if !require("amtool") {
        return;
    }
    let file = deploy("alertmanager/alertmanager.yml");
    let amtool = |arguments: &[&str]| {
        let output = command("amtool")
            .args(arguments)
            .output()
            .expect("amtool starts");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let path = file.display().to_string();
    amtool(&["check-config", &path]);
    let config = format!("--config.file={path}");
    let mut seen = BTreeSet::new();
    let rules = fs::read_to_string(deploy("prometheus/rules.yml")).expect("the file is there");
    for line in rules.lines() {
        if let Some(severity) = line.trim().strip_prefix("severity: ") {
            seen.insert(severity.to_owned());
        }
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    for severity in seen {
        let label = format!("severity={severity}");
        let receiver = amtool(&["config", "routes", "test", &config, "alertname=Any", &label]);
        let expected = if severity == "critical" {
            "on-call"
        } else {
            "team"
        };
        assert_eq!(receiver, expected, "{severity}");
    }
}

/// The fields that the file may have: those that it has, as the ServiceMonitor CRD of the Prometheus
/// Operator v0.93.0 (monitoring.coreos.com/v1) defines them. `*` is any one name. The file was also
/// checked against the whole CRD when this was written; a field that is not here has to be looked up.
const SERVICE_MONITOR: &[(&str, Field)] = &[
    ("apiVersion", Field::Is("monitoring.coreos.com/v1")),
    ("kind", Field::Is("ServiceMonitor")),
    ("metadata.name", Field::Text),
    ("metadata.namespace", Field::Text),
    ("spec.jobLabel", Field::Text),
    ("spec.selector.matchLabels.*", Field::Text),
    ("spec.endpoints.[].port", Field::Text),
    ("spec.endpoints.[].path", Field::Is("/metrics")),
    ("spec.endpoints.[].scheme", Field::Is("https")),
    ("spec.endpoints.[].interval", Field::Seconds),
    ("spec.endpoints.[].tlsConfig.caFile", Field::Text),
    ("spec.endpoints.[].tlsConfig.certFile", Field::Text),
    ("spec.endpoints.[].tlsConfig.keyFile", Field::Text),
    ("spec.endpoints.[].authorization.type", Field::Is("Bearer")),
    (
        "spec.endpoints.[].authorization.credentials.name",
        Field::Text,
    ),
    (
        "spec.endpoints.[].authorization.credentials.key",
        Field::Text,
    ),
];

enum Field {
    Text,
    Is(&'static str),
    /// A number of seconds with its unit; the CRD's pattern allows more.
    Seconds,
}

/// All leaves of a document, by their paths.
fn leaves(path: &str, value: &Value, to: &mut Vec<(String, Value)>) {
    let join = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(name, value)| leaves(&join(name), value, to)),
        Value::Array(items) => items.iter().for_each(|item| leaves(&join("[]"), item, to)),
        leaf => to.push((path.to_owned(), leaf.clone())),
    }
}

#[test]
fn the_service_monitor_has_fields_of_its_definition_only() {
    let text = fs::read_to_string(deploy("kubernetes/servicemonitor.yml")).expect("it is there");
    let document: Value = serde_saphyr::from_str(&text).expect("it is YAML");
    let mut found = Vec::new();
    leaves("", &document, &mut found);
    for (path, value) in &found {
        let known = SERVICE_MONITOR.iter().find(|(known, _)| {
            let parts = known.split('.').zip(path.split('.'));
            known.split('.').count() == path.split('.').count()
                && parts
                    .clone()
                    .all(|(known, part)| known == "*" || known == part)
        });
        let (_, field) = known.unwrap_or_else(|| panic!("{path} is no field of it"));
        let text = value
            .as_str()
            .unwrap_or_else(|| panic!("{path} is {value}"));
        match field {
            Field::Text => assert!(!text.is_empty(), "{path}"),
            Field::Is(expected) => assert_eq!(text, *expected, "{path}"),
            Field::Seconds => {
                let number = text.strip_suffix('s').map(str::parse::<u32>);
                assert!(matches!(number, Some(Ok(_))), "{path}: {text}");
            }
        }
    }
    // What the definition requires.
    for required in [
        "spec.selector",
        "spec.endpoints.[].authorization.credentials.key",
    ] {
        assert!(
            found.iter().any(|(path, _)| path.starts_with(required)),
            "{required}"
        );
    }
}

/// Neither promtail nor Alloy is packaged for Debian: this checks the syntax, and that what it
/// extracts from a line is in a line.
#[test]
fn promtail_takes_from_a_line_what_a_line_has() {
    let text = fs::read_to_string(deploy("logs/promtail.yml")).expect("it is there");
    let document: Value = serde_saphyr::from_str(&text).expect("it is YAML");
    let job = &document["scrape_configs"][0];
    assert_eq!(
        job["journal"]["labels"]["job"],
        "libvirt-volume-provisioner"
    );
    let stages = job["pipeline_stages"].as_array().expect("there are stages");
    let expressions = stages[0]["json"]["expressions"]
        .as_object()
        .expect("there are some");
    let alloy = fs::read_to_string(deploy("logs/alloy.alloy")).expect("it is there");
    for (name, field) in expressions {
        assert_eq!(*field, name.as_str());
        assert!(["timestamp", "level"].contains(&name.as_str()), "{name}");
        assert!(alloy.contains(&format!("{name} = \"\"")), "{name}");
    }
    assert!(
        stages
            .iter()
            .any(|stage| stage["timestamp"]["format"] == "RFC3339Nano")
    );
}

#[test]
fn the_compose_file_configures_the_daemon_and_prometheus() {
    let text = fs::read_to_string(deploy("compose/compose.yaml")).expect("it is there");
    let compose: Value = serde_saphyr::from_str(&text).expect("it is YAML");
    let environment = compose["services"]["provisioner"]["environment"]
        .as_object()
        .expect("the daemon has an environment");
    for name in environment.keys() {
        let mut names = KEYS.iter().flat_map(|key| key.env);
        assert!(names.any(|known| known == name), "{name} does nothing");
    }
    let settings = Settings::load(Path::new("/nonexistent"), false, |name| {
        Some(environment.get(name)?.as_str()?.to_owned())
    });
    let config = Config::from_settings(&settings.expect("it resolves")).expect("it is usable");
    assert_eq!(config.server.host.to_string(), "0.0.0.0");
    assert!(config.server.api_tokens_file.is_some());
    // Every file of ours that a service mounts exists.
    for service in compose["services"].as_object().expect("services").values() {
        for mount in service["volumes"].as_array().into_iter().flatten() {
            let source = mount.as_str().and_then(|mount| mount.split(':').next());
            let source = source.expect("a mount has a source");
            assert!(
                !source.starts_with('.') || deploy("compose").join(source).exists(),
                "{source} is mounted and not there"
            );
        }
    }
    if !require("promtool") {
        return;
    }
    // Side by side, as in the container.
    let directory = tempfile::tempdir().expect("a directory");
    for (from, to) in [
        ("compose/prometheus.yml", "prometheus.yml"),
        ("prometheus/rules.yml", "rules.yml"),
    ] {
        fs::copy(deploy(from), directory.path().join(to)).expect("it is copied");
    }
    let checked = command("promtool")
        .args(["check", "config"])
        .arg(directory.path().join("prometheus.yml"))
        .output()
        .expect("promtool starts");
    assert!(checked.status.success(), "{checked:?}");
}
