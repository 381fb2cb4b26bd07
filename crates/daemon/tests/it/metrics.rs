//! Metrics, as a scraper reads them: each counts its event.

mod catalogue;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::Stdio;

use lvp_api::JobState;
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::fault::{Fault, Rule};
use lvp_testkit::require::{command, require};
use provisioner::telemetry::metrics::catalogue::{CATALOGUE, Kind, OF_THE_GUIDE};
use serde_json::json;

use crate::support::{MIB, World, accepted, image};

const PREFIX: &str = "libvirt_volume_provisioner_";

/// The result of one scrape.
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

    /// One of our series by name and labels; zero if it does not exist yet.
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
    let job = accepted(daemon, url, volume, 64 * MIB).await;
    daemon.ended(&job).await.expect("it ends").status
}

/// Checks expected changes: series, and by how much.
fn assert_moved(before: &Scrape, after: &Scrape, expected: &[(&str, f64)]) {
    for (series, by) in expected {
        let moved = after.get(series) - before.get(series);
        assert_eq!(moved, *by, "{series}:\n{}", after.text);
    }
}

#[tokio::test]
async fn a_miss_and_a_hit_move_the_right_metrics_by_the_right_amounts() {
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
async fn failures_and_cancellations_are_counted_once_by_kind() {
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
    let running = accepted(&daemon, &slow, "vm-3", 64 * MIB).await;
    let waiting = accepted(&daemon, &slow, "vm-4", 64 * MIB).await;
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
async fn a_failed_database_operation_is_counted_by_kind() {
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
async fn metrics_can_be_turned_off() {
    let world = World::new().await.with("METRICS_ENABLED", "false");
    let daemon = world.start();
    let answer = daemon
        .call("GET", "/metrics", None)
        .await
        .expect("it answers");
    assert_eq!(answer.status, 404, "{answer:?}");
}
