//! Jobs: the queue, cancelling, repeated requests, events.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use lvp_api::{JobList, JobState};
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::fault::{Fault, Rule};
use serde_json::json;

use crate::support::{MIB, World, accepted, image};

/// A rule under which the image's last bytes arrive slowly, so that its job is running for long.
fn slow() -> Rule {
    Rule::new(Fault::Slow(200_000))
        .when(|request| request.target.ends_with("slow.qcow2") && request.method == "GET")
}

async fn running(daemon: &Daemon, job: &str) {
    wait_for("the job to run", async || {
        let status = daemon.status(job).await.ok()?;
        let moved = status
            .progress
            .is_some_and(|progress| progress.bytes_processed > 0);
        (status.status == JobState::Running && moved).then_some(())
    })
    .await;
}

#[tokio::test]
async fn running_and_pending_jobs_are_cancelled_within_a_second_and_leave_nothing() {
    let (world, proxy) = World::with_faults().await;
    let world = world.with("MAX_CONCURRENT", "1");
    let url = world.put("slow.qcow2", &image(256 * MIB, 900, 1).build());
    proxy.inject(slow());
    let daemon = world.start();
    let first = accepted(&daemon, &url, "vm-1", 256 * MIB).await;
    running(&daemon, &first).await;
    let second = accepted(&daemon, &url, "vm-2", 256 * MIB).await;
    assert_eq!(
        daemon.status(&second).await.expect("a status").status,
        JobState::Pending
    );
    let calls = [
        ("DELETE", format!("/api/v1/cancel/{second}"), &second),
        ("POST", format!("/api/v1/jobs/{first}/cancel"), &first),
    ];
    for (method, route, job) in calls {
        let started = Instant::now();
        let answer = daemon.call(method, &route, None).await.expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body, json!({"status": "cancelled", "job_id": job}));
        // The target is one second; the machine may be busy with other tests.
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "{:?}",
            started.elapsed()
        );
        assert_eq!(
            daemon.status(job).await.expect("a status").status,
            JobState::Cancelled
        );
        let again = daemon.call(method, &route, None).await.expect("an answer");
        assert_eq!(again.status, 400, "{again:?}");
        assert!(
            again.body["message"]
                .as_str()
                .is_some_and(|text| text.contains("cancelled"))
        );
    }
    assert_eq!(world.home.volume_files(), Vec::<String>::new());
}

#[tokio::test]
async fn one_volume_has_one_job_at_a_time() {
    let (world, proxy) = World::with_faults().await;
    let url = world.put("slow.qcow2", &image(256 * MIB, 900, 1).build());
    proxy.inject(slow());
    let daemon = world.start();
    let first = accepted(&daemon, &url, "vm", 256 * MIB).await;
    let body = json!({"image_url": url, "volume_name": "vm", "volume_size_gb": 1, "correlation_id": "c-7"});
    let answer = daemon
        .call("POST", "/api/v1/jobs", Some(body))
        .await
        .expect("an answer");
    assert_eq!(answer.status, 409, "{answer:?}");
    assert_eq!(answer.body["correlation_id"], "c-7");
    assert!(
        answer.body["message"]
            .as_str()
            .is_some_and(|text| text.contains(&first))
    );
}

#[tokio::test]
async fn a_full_queue_answers_429_with_retry_after() {
    let (world, proxy) = World::with_faults().await;
    let world = world
        .with("MAX_CONCURRENT", "1")
        .with("JOBS_QUEUE_LIMIT", "1");
    let url = world.put("slow.qcow2", &image(256 * MIB, 900, 1).build());
    proxy.inject(slow());
    let daemon = world.start();
    let first = accepted(&daemon, &url, "vm-1", 256 * MIB).await;
    running(&daemon, &first).await;
    daemon
        .provision(&url, "vm-2", 256 * MIB)
        .await
        .expect("it waits");
    let body = json!({"image_url": url, "volume_name": "vm-3", "volume_size_gb": 1});
    let answer = daemon
        .call("POST", "/api/v1/jobs", Some(body))
        .await
        .expect("an answer");
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn health_is_degraded_exactly_while_every_slot_is_taken() {
    let (world, proxy) = World::with_faults().await;
    let world = world.with("MAX_CONCURRENT", "1");
    let url = world.put("slow.qcow2", &image(256 * MIB, 900, 1).build());
    proxy.inject(slow());
    let daemon = world.start();
    let health = async |route: &str| {
        let answer = daemon.call("GET", route, None).await.expect("an answer");
        assert_eq!(answer.status, 200);
        answer.body["status"].as_str().map(str::to_owned)
    };
    assert_eq!(health("/health").await.as_deref(), Some("healthy"));
    let job = accepted(&daemon, &url, "vm", 256 * MIB).await;
    running(&daemon, &job).await;
    for route in ["/health", "/healthz", "/livez"] {
        assert_eq!(health(route).await.as_deref(), Some("degraded"), "{route}");
    }
    daemon
        .call("DELETE", &format!("/api/v1/cancel/{job}"), None)
        .await
        .expect("an answer");
    let healthy = async || (health("/health").await? == "healthy").then_some(());
    wait_for("health", healthy).await;
}

#[tokio::test]
async fn a_repeat_with_the_same_idempotency_key_returns_the_first_job() {
    let world = World::new().await;
    let url = world.put("a.qcow2", &image(32 * MIB, 4, 1).build());
    let daemon = world.start();
    let client = reqwest::Client::new();
    let post = async |volume: &str, key: &str| {
        let body = json!({"image_url": url, "volume_name": volume, "volume_size_bytes": 32 * MIB});
        let request = client
            .post(format!("{}/api/v1/jobs", daemon.url()))
            .json(&body);
        let response = request
            .header("Idempotency-Key", key)
            .send()
            .await
            .expect("an answer");
        lvp_testkit::daemon::answer(response).await.expect("a body")
    };
    let first = post("vm", "key-1").await;
    assert_eq!(first.status, 202, "{first:?}");
    let job = first.body["job_id"].as_str().expect("an id").to_owned();
    daemon.ended(&job).await.expect("it ends");
    assert_eq!(post("vm", "key-1").await.body["job_id"], job.as_str());
    assert_eq!(post("other", "key-1").await.status, 409);
    assert_ne!(post("vm", "key-2").await.body["job_id"], job.as_str());
}

#[tokio::test]
async fn events_show_progress_that_never_goes_back_and_then_the_end() {
    let (world, proxy) = World::with_faults().await;
    let url = world.put("slow.qcow2", &image(256 * MIB, 120, 1).build());
    proxy.inject(Rule::new(Fault::Slow(2_000_000)).method("GET"));
    let daemon = world.start();
    let job = accepted(&daemon, &url, "vm", 256 * MIB).await;
    let events = events(&daemon, &job).await;
    let mut percent = 0.0;
    for (_, status) in &events {
        let Some(now) = status["progress"]["percent"].as_f64() else {
            continue;
        };
        assert!(now >= percent, "{now} after {percent}");
        assert!(now < 100.0 || status["status"] == "completed");
        percent = now;
    }
    assert_eq!(percent, 100.0);
    let (names, last) = (events.iter().map(|(name, _)| name.as_str()), events.last());
    assert!(
        names
            .clone()
            .take(events.len() - 1)
            .all(|name| name == "progress")
    );
    assert!(events.len() > 3, "{events:?}");
    assert!(last.is_some_and(|(name, status)| name == "end" && status["status"] == "completed"));
    let after = self::events(&daemon, &job).await;
    assert_eq!(after.len(), 1, "an ended job has one event");
}

async fn events(daemon: &Daemon, job: &str) -> Vec<(String, serde_json::Value)> {
    let url = format!("{}/api/v1/jobs/{job}/events", daemon.url());
    let mut chunks = reqwest::get(url).await.expect("an answer").bytes_stream();
    let mut text = String::new();
    while let Some(chunk) = chunks.next().await {
        text.push_str(std::str::from_utf8(&chunk.expect("a chunk")).expect("text"));
    }
    let field = |event: &str, name: &str| {
        event
            .lines()
            .find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
    };
    let parse = |event: &str| {
        let data = field(event, "data:")?;
        Some((
            field(event, "event:")?,
            serde_json::from_str(&data).expect("JSON"),
        ))
    };
    text.split("\n\n").filter_map(parse).collect()
}

#[tokio::test]
async fn jobs_are_listed_newest_first_by_state_and_by_page() {
    let world = World::new().await;
    let url = world.put("a.qcow2", &image(32 * MIB, 4, 1).build());
    let daemon = world.start();
    let mut jobs = Vec::new();
    for (image, volume) in [
        (url.as_str(), "vm-1"),
        ("s3://images/none", "vm-2"),
        (&url, "vm-3"),
    ] {
        let job = accepted(&daemon, image, volume, 32 * MIB).await;
        daemon.ended(&job).await.expect("it ends");
        jobs.insert(0, job);
    }
    let list = async |query: &str| {
        let list: JobList = daemon
            .get(&format!("/api/v1/jobs{query}"))
            .await
            .expect("a list");
        assert_eq!(list.count, list.jobs.len());
        (
            list.jobs
                .iter()
                .map(|job| job.job_id.to_string())
                .collect::<Vec<_>>(),
            list.total,
        )
    };
    assert_eq!(list("").await, (jobs.clone(), 3));
    assert_eq!(list("?limit=1&offset=1").await, (vec![jobs[1].clone()], 3));
    assert_eq!(list("?status=failed").await, (vec![jobs[1].clone()], 1));
    assert_eq!(list("?status=running").await, (vec![], 0));
}

#[tokio::test]
async fn ended_jobs_are_deleted_after_the_retention() {
    let world = World::new()
        .await
        .with("JOBS_RETENTION", "1ms")
        .with("CACHE_EVICTION_INTERVAL", "100ms");
    let daemon = world.start();
    let job = accepted(&daemon, "s3://images/none", "vm", 32 * MIB).await;
    wait_for("the job to be forgotten", async || {
        let answer = daemon
            .call("GET", &format!("/api/v1/jobs/{job}"), None)
            .await
            .ok()?;
        (answer.status == 404).then_some(())
    })
    .await;
}
