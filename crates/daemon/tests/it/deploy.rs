//! The files under `deploy/`, by the judgement of the programs that read them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lvp_testkit::daemon::wait_for;
use lvp_testkit::require::{command, require};
use provisioner::telemetry::metrics::catalogue::{CATALOGUE, Kind};
use serde_json::Value;

use crate::support::{MIB, World, image};

fn deploy(path: &str) -> PathBuf {
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

/// A Prometheus server; gone when dropped.
struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Every panel of the dashboard and the guide's own queries, against a server that scraped a daemon.
#[tokio::test]
async fn a_real_prometheus_scrapes_the_daemon_and_answers_every_query_of_the_dashboard() {
    if !require("prometheus") {
        return;
    }
    let world = World::new().await;
    let url = world.put("a.qcow2", &image(64 * MIB, 60, 41).build());
    let daemon = world.start();
    let target = daemon.url().trim_start_matches("http://").to_owned();
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("it has an address").port()
    };
    let config = world.home.path().join("prometheus.yml");
    fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n  - job_name: libvirt-volume-provisioner\n    \
             static_configs: [{{targets: ['{target}']}}]\n"
        ),
    )
    .expect("the configuration is written");
    let log = fs::File::create(world.home.path().join("prometheus.log")).expect("a log");
    let _server = Server(
        command("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                world.home.path().join("tsdb").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(std::process::Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Prometheus starts"),
    );
    let base = format!("http://127.0.0.1:{port}/api/v1/query");
    let client = reqwest::Client::new();
    let query = async |text: &str| -> Option<Vec<Value>> {
        let answer = client
            .get(&base)
            .query(&[("query", text)])
            .send()
            .await
            .ok()?;
        let body: Value = answer.json().await.ok()?;
        assert_eq!(body["status"], "success", "{text}: {body}");
        Some(body["data"]["result"].as_array()?.clone())
    };
    wait_for("the first scrape", async || {
        let found = query("up{job=\"libvirt-volume-provisioner\"}").await?;
        (found.first()?["value"][1] == "1").then_some(())
    })
    .await;
    for (volume, expected) in [("vm-1", "miss"), ("vm-2", "hit")] {
        let job = daemon
            .provision(&url, volume, 64 * MIB)
            .await
            .expect(expected);
        daemon.ended(&job).await.expect("it ends");
    }
    let missing = daemon
        .provision("s3://images/none", "vm-3", MIB)
        .await
        .expect("it is accepted");
    daemon.ended(&missing).await.expect("it ends");
    let prefix = "libvirt_volume_provisioner";
    let mut queries: Vec<String> = ["download", "convert"]
        .map(|stage| {
            let metric = format!("{prefix}_stage_duration_seconds");
            format!(
                "rate({metric}_sum{{stage=\"{stage}\"}}[5m]) / rate({metric}_count{{stage=\"{stage}\"}}[5m]) >= 0"
            )
        })
        .into();
    queries.push(format!("{prefix}_stage_throughput_bytes_per_second"));
    let dashboard = fs::read_to_string(deploy("grafana/dashboard.json")).expect("it is there");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("it is JSON");
    for panel in dashboard["panels"].as_array().expect("it has panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            if let Some(expression) = target["expr"].as_str() {
                queries.push(expression.replace("$__rate_interval", "5m"));
            }
        }
    }
    assert!(queries.len() > 12, "{queries:?}");
    for text in queries {
        wait_for(&text, async || {
            let found = query(&text).await?;
            (!found.is_empty()).then_some(())
        })
        .await;
    }
    let completed = format!("{prefix}_jobs_total{{status=\"completed\"}}");
    let found = query(&completed).await.expect("it answers");
    assert_eq!(found[0]["value"][1], "2", "{found:?}");
}
