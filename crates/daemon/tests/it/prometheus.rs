//! The shipped configuration with a real Prometheus and a real Alertmanager.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use lvp_api::JobState;
use lvp_testkit::daemon::wait_for;
use lvp_testkit::fault::{Fault, Rule};
use lvp_testkit::inbox::Inbox;
use lvp_testkit::port::Port;
use lvp_testkit::require::{command, require};
use serde_json::Value;

use crate::certificates::{authority, client, issue, with_tls, with_tokens, write};
use crate::deploy::deploy;
use crate::support::{MIB, World, image};

const PREFIX: &str = "libvirt_volume_provisioner";
const READ: &str = "read-0123456789abcdef0123456789abcdef";

/// A running program, which is ended when dropped.
struct Program(Child);

impl Program {
    fn start(name: &str, arguments: &[String], log: &Path) -> Self {
        let log = fs::File::create(log).expect("a log");
        let child = command(name)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Self(child.unwrap_or_else(|error| panic!("{name} does not start: {error}")))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn shipped(path: &str) -> String {
    fs::read_to_string(deploy(path)).expect("the file is there")
}

/// Prometheus, asked by its HTTP API.
struct Prometheus {
    _program: Program,
    _port: Port,
    base: String,
    client: reqwest::Client,
}

impl Prometheus {
    fn start(home: &Path, config: &str) -> Self {
        let file = home.join("prometheus.yml");
        fs::write(&file, config).expect("the configuration is written");
        let port = Port::reserve().expect("a port");
        let address = port.address();
        let arguments = [
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", home.join("tsdb").display()),
            format!("--web.listen-address={address}"),
        ];
        Self {
            _program: Program::start("prometheus", &arguments, &home.join("prometheus.log")),
            _port: port,
            base: format!("http://{address}/api/v1/query"),
            client: reqwest::Client::new(),
        }
    }

    /// The series that a query finds; none while it does not answer.
    async fn query(&self, text: &str) -> Option<Vec<Value>> {
        let request = self.client.get(&self.base).query(&[("query", text)]);
        let body: Value = request.send().await.ok()?.json().await.ok()?;
        assert_eq!(body["status"], "success", "{text}: {body}");
        Some(body["data"]["result"].as_array()?.clone())
    }

    /// Waits until a query finds a number.
    async fn number(&self, text: &str) -> f64 {
        wait_for(text, async || {
            let found = self.query(text).await?;
            let mut values = found
                .iter()
                .filter_map(|series| series["value"][1].as_str()?.parse::<f64>().ok());
            values.find(|value| !value.is_nan())
        })
        .await
    }
}

/// The shipped configuration, for this daemon, with short intervals.
fn config(home: &Path, target: &str, alertmanager: u16) -> String {
    let file = |name: &str| home.join(name).display().to_string();
    let mut config = shipped("prometheus/prometheus.yml");
    for (shipped, here) in [
        ("scrape_interval: 15s", "scrape_interval: 500ms"),
        // The plain one is another daemon's, which is down.
        ("127.0.0.1:8080", "127.0.0.1:1"),
        ("hypervisor.example.com:8080", target),
        ("/etc/prometheus/ca.crt", &file("ca.pem")),
        ("/etc/prometheus/client.crt", &file("client.pem")),
        ("/etc/prometheus/client.key", &file("client.key")),
    ] {
        assert!(
            config.contains(shipped),
            "{shipped} is not in the shipped file"
        );
        config = config.replace(shipped, here);
    }
    let tls = format!(
        "    scheme: https\n    static_configs: [{{targets: ['{target}']}}]\n    tls_config: {{ca_file: {}}}\n",
        file("ca.pem")
    );
    format!(
        "{config}\n  - job_name: by-token\n{tls}    authorization: {{credentials_file: {}}}\n  \
         - job_name: by-nothing\n{tls}\
         alerting:\n  alertmanagers:\n    - static_configs: [{{targets: ['127.0.0.1:{alertmanager}']}}]\n",
        file("read.token")
    )
}

/// The shipped rules, without their waiting times.
fn rules() -> String {
    let hurried = |line: &str| match line.trim_start() {
        text if text.starts_with("for: ") => "        for: 1s\n".to_owned(),
        text if text.starts_with("interval: ") => "    interval: 500ms\n".to_owned(),
        _ => format!("{line}\n"),
    };
    shipped("prometheus/rules.yml")
        .lines()
        .map(hurried)
        .collect()
}

fn alertmanager(home: &Path, port: u16, inbox: &Inbox) -> Program {
    let config = shipped("alertmanager/alertmanager.yml")
        .replace("group_wait: 30s", "group_wait: 0s")
        .replace("127.0.0.1:9095", &inbox.authority());
    let file = home.join("alertmanager.yml");
    fs::write(&file, config).expect("the configuration is written");
    let arguments = [
        format!("--config.file={}", file.display()),
        format!("--storage.path={}", home.join("alertmanager").display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
        "--cluster.listen-address=".to_owned(),
    ];
    let log = home.join("alertmanager.log");
    Program::start("prometheus-alertmanager", &arguments, &log)
}

/// The queries in the monitoring guide, and those of every panel.
fn queries() -> Vec<String> {
    let average = |stage| {
        let metric = format!("{PREFIX}_stage_duration_seconds");
        format!(
            "rate({metric}_sum{{stage=\"{stage}\"}}[5m]) / rate({metric}_count{{stage=\"{stage}\"}}[5m])"
        )
    };
    let mut queries = vec![
        average("download"),
        average("convert"),
        format!("{PREFIX}_stage_throughput_bytes_per_second"),
        "up{job=\"libvirt-volume-provisioner\"}".to_owned(),
        format!("rate({PREFIX}_requests_total[5m])"),
        format!("{PREFIX}_active_jobs"),
        format!("histogram_quantile(0.95, rate({PREFIX}_request_duration_seconds_bucket[5m]))"),
        format!("{PREFIX}_cache_hit_ratio"),
        format!("{PREFIX}_dependencies_up"),
        format!("{PREFIX}_stage_throughput_bytes_per_second{{stage=\"download\"}}"),
    ];
    let of_the_guide = queries.len();
    let dashboard: Value =
        serde_json::from_str(&shipped("grafana/dashboard.json")).expect("it is JSON");
    for panel in dashboard["panels"].as_array().expect("it has panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            if let Some(expression) = target["expr"].as_str() {
                queries.push(expression.replace("$__rate_interval", "5m"));
            }
        }
    }
    assert!(queries.len() > of_the_guide + 12, "{queries:?}");
    queries
}

#[tokio::test]
async fn a_real_prometheus_scrapes_over_mutual_tls_answers_every_query_and_fires_alerts() {
    if !require("prometheus") || !require("prometheus-alertmanager") {
        return;
    }
    let ours = authority("ours");
    let (world, proxy) = World::with_faults().await;
    let world = with_tokens(world, &format!("prometheus:read:{READ}\n"));
    let world = with_tls(world, &ours, &ours).with("OPEN_METRICS", "false");
    let home = world.home.path().to_owned();
    let (certificate, key) = issue(&ours, "prometheus", 30);
    write(&home, "client.pem", &certificate, 0o600);
    write(&home, "client.key", &key, 0o600);
    write(&home, "read.token", READ, 0o600);
    write(&home, "rules.yml", &rules(), 0o600);
    let wrong = world.put("wrong.qcow2", &image(32 * MIB, 20, 81).build());
    let objects = world.s3.objects();
    objects
        .put("images", "wrong.qcow2.sha256", "0".repeat(64).as_bytes())
        .expect("the sidecar is written");
    let good = world.put("good.qcow2", &image(64 * MIB, 60, 82).build());
    let slow = world.put("slow.qcow2", &image(32 * MIB, 20, 83).build());
    proxy
        .inject(Rule::new(Fault::StallAt(0)).when(|request| request.target.contains("slow.qcow2")));
    let daemon = world.start();
    let target = daemon.url().trim_start_matches("http://").to_owned();
    let daemon = daemon.over_tls(client(&ours, Some(&(certificate, key))));

    let inbox = Inbox::start().await.expect("a server");
    let reserved = Port::reserve().expect("a port");
    let port = reserved.address().port();
    let _alertmanager = alertmanager(&home, port, &inbox);
    let prometheus = Prometheus::start(&home, &config(&home, &target, port));
    let up = |job: &str| format!("up{{job=\"{job}\",instance=\"{target}\"}}");
    assert_eq!(
        prometheus.number(&up("libvirt-volume-provisioner")).await,
        1.0
    );
    assert_eq!(prometheus.number(&up("by-token")).await, 1.0);
    assert_eq!(prometheus.number(&up("by-nothing")).await, 0.0);

    let mut expected = vec![
        (good.as_str(), "vm-1", JobState::Completed),
        (good.as_str(), "vm-2", JobState::Completed),
        (wrong.as_str(), "vm-3", JobState::Failed),
    ];
    expected.extend(
        ["vm-4", "vm-5", "vm-6", "vm-7", "vm-8", "vm-9"]
            .map(|volume| ("s3://images/none", volume, JobState::Failed)),
    );
    for (url, volume, state) in &expected {
        let job = daemon.provision(url, volume, 64 * MIB).await.expect(volume);
        let status = daemon.ended(&job).await.expect("it ends");
        assert_eq!(status.status, *state, "{status:?}");
    }
    let job = daemon
        .provision(&slow, "vm-slow", 64 * MIB)
        .await
        .expect("a job");
    assert_eq!(
        prometheus
            .number(&format!("{PREFIX}_active_jobs > 0"))
            .await,
        1.0
    );
    daemon
        .call("POST", &format!("/api/v1/jobs/{job}/cancel"), None)
        .await
        .expect("it answers");

    for (status, count) in [("completed", 2.0), ("failed", 7.0), ("cancelled", 1.0)] {
        let series = format!(
            "{PREFIX}_jobs_total{{status=\"{status}\",job=\"libvirt-volume-provisioner\"}}"
        );
        prometheus.number(&format!("{series} == {count}")).await;
    }
    for text in queries() {
        if text.contains("_pool_") {
            // Of a thin pool, which this daemon has not.
            let found = prometheus.query(&text).await.expect("it answers");
            assert!(found.is_empty(), "{text}: {found:?}");
            continue;
        }
        prometheus.number(&text).await;
    }
    for (alert, receiver) in [
        ("VolumeProvisionerDigestMismatch", "/on-call"),
        ("VolumeProvisionerJobFailures", "/team"),
        // The daemon that does not exist.
        ("VolumeProvisionerDown", "/on-call"),
    ] {
        let firing = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}");
        assert_eq!(prometheus.number(&firing).await, 1.0);
        wait_for(alert, async || {
            let told = inbox.taken().into_iter().any(|post| {
                let body = String::from_utf8_lossy(&post.body).into_owned();
                post.target == receiver && body.contains(alert)
            });
            told.then_some(())
        })
        .await;
    }
    for alert in [
        "VolumeProvisionerDependencyDown",
        "VolumeProvisionerCertificateExpires",
    ] {
        let series = format!("ALERTS{{alertname=\"{alert}\"}}");
        let found = prometheus.query(&series).await.expect("it answers");
        assert!(found.is_empty(), "{found:?}");
    }
}
