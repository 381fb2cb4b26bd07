//! Metrics, as a scraper reads them: each is moved by the event that it counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use lvp_api::JobState;
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::fault::{Fault, Rule};
use lvp_testkit::require::{command, require};
use provisioner::telemetry::metrics::catalogue::{CATALOGUE, Kind, OF_THE_GUIDE};
use serde_json::json;

use crate::support::{MIB, World, image};

const PREFIX: &str = "libvirt_volume_provisioner_";

/// What one scrape read.
struct Scrape {
    text: String,
    series: BTreeMap<String, f64>,
}

impl Scrape {
    async fn of(daemon: &Daemon) -> Self {
        let text = text(daemon, None).await;
        let series = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').expect("a series has a value");
                (
                    series.to_owned(),
                    value.parse().expect("a value is a number"),
                )
            })
            .collect();
        Self { text, series }
    }

    /// A series of ours by name and labels; zero while there is none.
    fn get(&self, series: &str) -> f64 {
        let name = format!("{PREFIX}{series}");
        self.series.get(&name).copied().unwrap_or(0.0)
    }
}

async fn text(daemon: &Daemon, accept: Option<&str>) -> String {
    let mut request = reqwest::Client::new().get(format!("{}/metrics", daemon.url()));
    if let Some(accept) = accept {
        request = request.header("accept", accept);
    }
    let response = request.send().await.expect("the daemon answers");
    assert_eq!(response.status(), 200);
    let expected = match accept {
        None => "text/plain; version=0.0.4; charset=utf-8",
        Some(_) => "application/openmetrics-text; version=1.0.0; charset=utf-8",
    };
    assert_eq!(response.headers()["content-type"], expected);
    response.text().await.expect("it is text")
}

/// Runs one job to its end and returns how it ended.
async fn run(daemon: &Daemon, url: &str, volume: &str) -> JobState {
    let job = daemon
        .provision(url, volume, 64 * MIB)
        .await
        .expect("it is accepted");
    daemon.ended(&job).await.expect("it ends").status
}

/// A change that was to be seen: series, by how much.
fn assert_moved(before: &Scrape, after: &Scrape, expected: &[(&str, f64)]) {
    for (series, by) in expected {
        let moved = after.get(series) - before.get(series);
        assert_eq!(moved, *by, "{series}:\n{}", after.text);
    }
}

#[tokio::test]
async fn a_miss_and_a_hit_move_what_they_should_and_by_how_much() {
    let world = World::new().await;
    let builder = image(64 * MIB, 80, 11);
    let file = builder.build();
    let url = world.put("debian.qcow2", &file);
    let daemon = world.start();
    let start = Scrape::of(&daemon).await;
    assert!(start.get("cache_hit_ratio").is_nan(), "{}", start.text);

    assert_eq!(run(&daemon, &url, "vm-1").await, JobState::Completed);
    let miss = Scrape::of(&daemon).await;
    let size = file.len() as f64;
    assert_moved(
        &start,
        &miss,
        &[
            (r#"jobs_total{status="completed"}"#, 1.0),
            (r#"job_duration_seconds_count{status="completed"}"#, 1.0),
            ("cache_misses_total", 1.0),
            ("cache_hits_total", 0.0),
            ("images_downloaded_total", 1.0),
            (
                r#"image_download_size_bytes_count{image_type="qcow2"}"#,
                1.0,
            ),
            (r#"image_download_size_bytes_sum{image_type="qcow2"}"#, size),
            (r#"stage_duration_seconds_count{stage="download"}"#, 1.0),
            (r#"stage_duration_seconds_count{stage="convert"}"#, 1.0),
            ("queue_wait_seconds_count", 1.0),
            ("cache_images", 1.0),
            ("cache_size_bytes", size),
            (r#"transferred_bytes_total{direction="read"}"#, size),
        ],
    );
    assert_eq!(miss.get("cache_hit_ratio"), 0.0);
    assert_eq!(miss.get("active_jobs"), 0.0);
    assert_eq!(miss.get("queue_length"), 0.0);
    for stage in ["download", "convert"] {
        let series = format!(r#"stage_throughput_bytes_per_second{{stage="{stage}"}}"#);
        assert!(miss.get(&series) > 0.0, "{series}:\n{}", miss.text);
    }
    let written = miss.get(r#"transferred_bytes_total{direction="written"}"#);
    assert!(written >= f64::from(40 * 65536), "{written}");
    let created = r#"requests_total{method="POST",endpoint="/api/v1/jobs",status="202"}"#;
    assert_moved(&start, &miss, &[(created, 1.0)]);
    let saved = r#"storage_operations_total{operation="create_job",result="success"}"#;
    assert_moved(&start, &miss, &[(saved, 1.0)]);

    assert_eq!(run(&daemon, &url, "vm-2").await, JobState::Completed);
    let hit = Scrape::of(&daemon).await;
    assert_moved(
        &miss,
        &hit,
        &[
            (r#"jobs_total{status="completed"}"#, 1.0),
            ("cache_misses_total", 0.0),
            ("cache_hits_total", 1.0),
            ("images_downloaded_total", 0.0),
            (r#"stage_duration_seconds_count{stage="download"}"#, 0.0),
            (r#"stage_duration_seconds_count{stage="convert"}"#, 1.0),
            (r#"transferred_bytes_total{direction="read"}"#, 0.0),
        ],
    );
    assert_eq!(hit.get("cache_hit_ratio"), 0.5);
}

#[tokio::test]
async fn failures_and_cancellations_are_counted_once_and_by_their_kind() {
    let (world, proxy) = World::with_faults().await;
    let world = world.with("MAX_CONCURRENT", "1");
    let url = world.put("wrong.qcow2", &image(32 * MIB, 20, 12).build());
    world
        .s3
        .objects()
        .put("images", "wrong.qcow2.sha256", "0".repeat(64).as_bytes())
        .expect("the sidecar is written");
    let slow = world.put("slow.qcow2", &image(32 * MIB, 20, 13).build());
    let daemon = world.start();
    let start = Scrape::of(&daemon).await;
    assert_eq!(start.get("health_status"), 1.0);

    assert_eq!(run(&daemon, &url, "vm-1").await, JobState::Failed);
    assert_eq!(
        run(&daemon, "s3://images/none.qcow2", "vm-2").await,
        JobState::Failed
    );
    proxy
        .inject(Rule::new(Fault::StallAt(0)).when(|request| request.target.contains("slow.qcow2")));
    let running = daemon
        .provision(&slow, "vm-3", 64 * MIB)
        .await
        .expect("it is accepted");
    let waiting = daemon
        .provision(&slow, "vm-4", 64 * MIB)
        .await
        .expect("it is accepted");
    let busy = wait_for("a job that runs and one that waits", async || {
        let now = Scrape::of(&daemon).await;
        (now.get("active_jobs") == 1.0 && now.get("queue_length") == 1.0).then_some(now)
    })
    .await;
    assert_eq!(busy.get("health_status"), 0.0, "{}", busy.text);
    wait_for("the job to be seen as stalled", async || {
        (Scrape::of(&daemon).await.get("job_stalled_seconds") > 0.2).then_some(())
    })
    .await;
    for job in [&waiting, &running] {
        let answer = daemon
            .call("POST", &format!("/api/v1/jobs/{job}/cancel"), None)
            .await
            .expect("it answers");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let end = Scrape::of(&daemon).await;
    assert_moved(
        &start,
        &end,
        &[
            (r#"jobs_total{status="failed"}"#, 2.0),
            (r#"jobs_total{status="cancelled"}"#, 2.0),
            (r#"jobs_total{status="completed"}"#, 0.0),
            (r#"job_duration_seconds_count{status="failed"}"#, 2.0),
            // The one that waited never ran.
            (r#"job_duration_seconds_count{status="cancelled"}"#, 1.0),
            (
                r#"image_errors_total{operation="verify",error_type="digest_mismatch"}"#,
                1.0,
            ),
            (
                r#"image_errors_total{operation="download",error_type="not_found"}"#,
                1.0,
            ),
            ("images_downloaded_total", 0.0),
            (r#"stage_duration_seconds_count{stage="download"}"#, 0.0),
            (r#"stage_duration_seconds_count{stage="convert"}"#, 0.0),
        ],
    );
    assert_eq!(end.get("health_status"), 1.0);
    assert_eq!(end.get("active_jobs"), 0.0);
    assert_eq!(end.get("queue_length"), 0.0);
    assert_eq!(end.get("job_stalled_seconds"), 0.0);
}

#[tokio::test]
async fn a_request_is_labelled_by_its_route_whatever_the_client_sends() {
    let world = World::new().await;
    let daemon = world.start();
    let before = Scrape::of(&daemon).await;
    for route in [
        "/api/v1/jobs/1",
        "/api/v1/jobs/%22%7D",
        "/nowhere/1",
        "/nowhere/2",
    ] {
        daemon.call("GET", route, None).await.expect("it answers");
    }
    daemon
        .call("BREW", "/nowhere", None)
        .await
        .expect("it answers");
    daemon
        .call("POST", "/api/v1/jobs", Some(json!({})))
        .await
        .expect("it answers");
    let after = Scrape::of(&daemon).await;
    assert_moved(
        &before,
        &after,
        &[
            (
                r#"requests_total{method="GET",endpoint="/api/v1/jobs/{id}",status="404"}"#,
                2.0,
            ),
            (
                r#"requests_total{method="GET",endpoint="unmatched",status="404"}"#,
                2.0,
            ),
            (
                r#"requests_total{method="OTHER",endpoint="unmatched",status="404"}"#,
                1.0,
            ),
            (
                r#"requests_total{method="POST",endpoint="/api/v1/jobs",status="400"}"#,
                1.0,
            ),
            (
                r#"request_duration_seconds_count{method="GET",endpoint="/api/v1/jobs/{id}"}"#,
                2.0,
            ),
        ],
    );
}

#[tokio::test]
async fn a_database_operation_that_fails_is_counted_as_its_kind() {
    let world = World::new().await;
    let url = world.put("a.qcow2", &image(32 * MIB, 10, 15).build());
    let daemon = world.start();
    let database = rusqlite::Connection::open(world.home.path().join("jobs.db"))
        .expect("the database can be opened");
    database
        .execute_batch("ALTER TABLE measurements RENAME TO gone")
        .expect("the table can be renamed");
    assert_eq!(run(&daemon, &url, "vm").await, JobState::Failed);
    let scrape = Scrape::of(&daemon).await;
    for series in [
        r#"storage_operations_total{operation="stage_rate",result="error"}"#,
        r#"storage_errors_total{operation="stage_rate",error_type="other"}"#,
    ] {
        assert_eq!(scrape.get(series), 1.0, "{}", scrape.text);
    }
}

#[tokio::test]
async fn every_metric_of_the_catalogue_is_served_with_its_type_and_labels_and_no_other() {
    let world = World::new().await;
    let daemon = world.start();
    // What has no series before its first event.
    rusqlite::Connection::open(world.home.path().join("jobs.db"))
        .and_then(|database| database.execute_batch("ALTER TABLE measurements RENAME TO gone"))
        .expect("the table can be renamed");
    let url = world.put("a.qcow2", &image(32 * MIB, 10, 16).build());
    run(&daemon, &url, "vm").await;
    let scrape = Scrape::of(&daemon).await;
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    for line in scrape.text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type line has a type");
            types.insert(name, kind);
        }
    }
    let mut expected = BTreeMap::new();
    for entry in CATALOGUE {
        // Only a daemon with certificates or with a thin pool has them; the tests of those look at them.
        if is_elsewhere(entry.name) {
            continue;
        }
        let name = entry.full_name();
        let labels = labels_of(&scrape, &name, entry.kind);
        let declared: BTreeSet<String> = entry.labels.iter().map(ToString::to_string).collect();
        assert_eq!(labels, declared, "{name}");
        expected.insert(name, entry.kind.as_str());
    }
    let served: BTreeMap<String, &str> = types
        .into_iter()
        .filter(|(name, _)| !is_elsewhere(name.strip_prefix(PREFIX).unwrap_or(name)))
        .map(|(name, kind)| (name.to_owned(), kind))
        .collect();
    assert_eq!(served, expected);
}

fn is_elsewhere(name: &str) -> bool {
    name == "certificate_expiry_timestamp_seconds" || name.starts_with("pool_")
}

fn labels_of(scrape: &Scrape, name: &str, kind: Kind) -> BTreeSet<String> {
    let name = match kind {
        Kind::Histogram => format!("{name}_count"),
        _ => name.to_owned(),
    };
    let series = scrape.series.keys().find(|series| {
        let rest = series.strip_prefix(&name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
    });
    let series = series.unwrap_or_else(|| panic!("{name} has no series:\n{}", scrape.text));
    let labels = series[name.len()..].trim_matches(['{', '}']);
    labels
        .split("\",")
        .filter_map(|label| label.split_once("=\""))
        .map(|(label, _)| label.to_owned())
        .collect()
}

/// The guide's own table, word for word: this is what dashboards in the field rely on.
#[test]
fn the_metrics_of_the_guide_have_its_names_types_and_labels() {
    let table: Vec<String> = CATALOGUE[..OF_THE_GUIDE]
        .iter()
        .map(|entry| {
            let (name, kind) = (entry.full_name(), entry.kind.as_str());
            format!("{name} {kind} {}", entry.labels.join(", "))
        })
        .collect();
    let guide = "\
requests_total counter method, endpoint, status
request_duration_seconds histogram method, endpoint
active_jobs gauge 
jobs_total counter status
job_duration_seconds histogram status
cache_hits_total counter 
cache_misses_total counter 
cache_hit_ratio gauge 
images_downloaded_total counter 
image_download_size_bytes histogram image_type
image_errors_total counter operation, error_type
storage_operations_total counter operation, result
storage_errors_total counter operation, error_type
stage_duration_seconds histogram stage
stage_throughput_bytes_per_second gauge stage
health_status gauge 
dependencies_up gauge dependency";
    let guide: Vec<String> = guide
        .lines()
        .map(|line| format!("{PREFIX}{line}"))
        .collect();
    assert_eq!(table, guide);
}

#[tokio::test]
async fn histograms_have_the_documented_buckets() {
    let world = World::new().await;
    let daemon = world.start();
    let url = world.put("a.qcow2", &image(32 * MIB, 10, 17).build());
    run(&daemon, &url, "vm").await;
    let scrape = Scrape::of(&daemon).await;
    for (name, buckets) in [
        (
            "request_duration_seconds",
            "0.005 0.01 0.025 0.05 0.1 0.25 0.5 1.0 2.5 5.0 10.0 +Inf",
        ),
        (
            "job_duration_seconds",
            "1.0 5.0 10.0 30.0 60.0 120.0 300.0 600.0 1800.0 3600.0 +Inf",
        ),
        (
            "stage_duration_seconds",
            "0.1 0.5 1.0 5.0 10.0 30.0 60.0 120.0 300.0 600.0 +Inf",
        ),
        (
            "image_download_size_bytes",
            "1048576.0 4194304.0 16777216.0 67108864.0 268435456.0 1073741824.0 4294967296.0 \
             17179869184.0 68719476736.0 +Inf",
        ),
    ] {
        let mut found: Vec<&str> = Vec::new();
        for line in scrape.text.lines() {
            let bucket = line
                .strip_prefix(&format!("{PREFIX}{name}_bucket{{"))
                .and_then(|rest| rest.split_once("le=\"")?.1.split_once('"'));
            if let Some((bucket, _)) = bucket
                && !found.contains(&bucket)
            {
                found.push(bucket);
            }
        }
        assert_eq!(found.join(" "), buckets, "{name}");
    }
}

#[tokio::test]
async fn promtool_has_nothing_to_say_against_the_metrics() {
    if !require("promtool") {
        return;
    }
    let world = World::new().await;
    let daemon = world.start();
    let url = world.put("a.qcow2", &image(32 * MIB, 10, 18).build());
    run(&daemon, &url, "vm").await;
    let text = text(&daemon, None).await;
    let mut promtool = command("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    promtool
        .stdin
        .take()
        .expect("it has an input")
        .write_all(text.as_bytes())
        .expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}

#[tokio::test]
async fn open_metrics_is_served_to_whoever_asks_for_it() {
    let world = World::new().await;
    let daemon = world.start();
    let text = text(&daemon, Some("application/openmetrics-text; version=1.0.0")).await;
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert!(
        text.contains("# TYPE libvirt_volume_provisioner_jobs counter\n"),
        "{text}"
    );
}

#[tokio::test]
async fn metrics_can_be_turned_off() {
    let world = World::new().await.with("METRICS_ENABLED", "false");
    let daemon = world.start();
    let answer = daemon
        .call("GET", "/metrics", None)
        .await
        .expect("it answers");
    assert_eq!(answer.status, 404, "{answer:?}");
}

#[test]
fn the_docs_hold_every_metric() {
    const BEGIN: &str = "<!-- metrics begin -->\n";
    const END: &str = "<!-- metrics end -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/monitoring.md");
    let page = fs::read_to_string(&path).expect("the page is there");
    let (before, rest) = page.split_once(BEGIN).expect("the table has a beginning");
    let (_, after) = rest.split_once(END).expect("the table has an end");
    let table = provisioner::telemetry::metrics::catalogue::markdown();
    let expected = format!("{before}{BEGIN}\n{table}\n{END}{after}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &expected).expect("it is written");
    }
    let committed = fs::read_to_string(&path).expect("the page is there");
    assert_eq!(
        committed, expected,
        "docs/monitoring.md is old: run ./dev docs"
    );
}
