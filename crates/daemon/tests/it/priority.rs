//! Priorities: who begins first, and who is paused for whom.

use lvp_api::{JobList, JobState, JobStatus, Priority, WaitsFor};
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::fault::{Fault, FaultProxy, Rule};
use lvp_testkit::require::require;
use serde_json::{Value, json};

use crate::lvpctl::lvpctl;
use crate::support::{MIB, World, fetched, holds, image, metric, qemu_disk};

/// A disk with data all over it: an image of about 20 MiB.
const DISK: u64 = 64 * MIB;

/// Bytes per second of each connection for an image that is called slow.
const SLOW: u64 = 1_000_000;

async fn world(slots: &str) -> (World, FaultProxy) {
    let (world, proxy) = World::with_faults().await;
    let slow = |request: &lvp_testkit::fault::Request| {
        request.target.contains("slow")
            && request.method == "GET"
            && !request.target.contains("sha256")
    };
    proxy.inject(Rule::new(Fault::Slow(SLOW)).when(slow));
    (world.with("MAX_CONCURRENT", slots), proxy)
}

async fn submitted(daemon: &Daemon, url: &str, volume: &str, priority: &str) -> String {
    let body = json!({
        "image_url": url, "volume_name": volume, "volume_size_bytes": DISK, "priority": priority,
    });
    let job = daemon.submit("/api/v1/jobs", body).await;
    job.expect("it is accepted")
}

async fn status(daemon: &Daemon, job: &str) -> JobStatus {
    daemon.status(job).await.expect("a status")
}

async fn completed(daemon: &Daemon, job: &str) -> JobStatus {
    let status = daemon.ended(job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    status
}

/// Waits until a job's transfer is paused, as its status says.
async fn paused(daemon: &Daemon, job: &str) -> JobStatus {
    wait_for("the pause", async || {
        let status = daemon.status(job).await.ok()?;
        let waiting = status.waiting.as_ref()?;
        (waiting.on == WaitsFor::Slot).then_some(status)
    })
    .await
}

#[tokio::test]
async fn a_job_of_high_priority_pauses_a_low_one_that_goes_on_where_it_was() {
    if !require("qemu-img") {
        return;
    }
    let (world, _proxy) = world("1").await;
    let bytes = image(DISK, 1000, 1).build();
    let (low_url, high_url) = (
        world.put("slow-low.qcow2", &bytes),
        world.put("slow-high.qcow2", &bytes),
    );
    let daemon = world.start();
    let low = submitted(&daemon, &low_url, "low", "low").await;
    fetched(&daemon, &low, 5 * MIB).await;
    let high = submitted(&daemon, &high_url, "high", "high").await;
    let seen = paused(&daemon, &low).await;
    assert_eq!(
        (seen.status, seen.priority),
        (JobState::Running, Priority::Low)
    );
    assert_eq!(seen.attempts, 0, "a pause is no attempt");
    let waiting = seen.waiting.expect("it waits");
    assert!(
        waiting.attempt == 0 && waiting.reason.contains("paused"),
        "{waiting:?}"
    );
    assert_eq!(metric(&daemon, "paused_jobs").await, Some(1.0));
    assert_eq!(metric(&daemon, "active_jobs").await, Some(1.0));
    // What had arrived is on its way to the disk; then nothing moves.
    fetched(&daemon, &high, 2 * MIB).await;
    let moved = async || {
        let progress = status(&daemon, &low).await.progress.expect("it has begun");
        (progress.bytes_processed, progress.overall_percent)
    };
    let before = moved().await;
    assert!(before.0 > 0, "{before:?}");
    fetched(&daemon, &high, 8 * MIB).await;
    assert_eq!(moved().await, before);
    completed(&daemon, &high).await;
    let ended = completed(&daemon, &low).await;
    assert_eq!((ended.attempts, ended.waiting), (1, None));
    assert_eq!(metric(&daemon, "paused_jobs").await, Some(0.0));
    assert_eq!(metric(&daemon, "job_pauses_total").await, Some(1.0));
    let disk = qemu_disk(&world.s3.objects().path("images", "slow-low.qcow2"));
    for volume in ["low", "high"] {
        assert!(holds(&world.home.volume(volume), &disk), "{volume}");
    }
    // Every byte was taken once: the download did not begin anew.
    let read = metric(&daemon, r#"transferred_bytes_total{direction="read"}"#).await;
    assert_eq!(read, Some(2.0 * bytes.len() as f64));
    // Its course says where the time went.
    let timeline = daemon
        .call("GET", &format!("/api/v1/jobs/{low}/timeline"), None)
        .await;
    let timeline = timeline.expect("an answer").body;
    let queue = timeline["bound"]["queue"].as_f64().expect("a share");
    assert!(queue > 10.0, "{timeline}");
}

#[tokio::test]
async fn a_paused_job_survives_the_end_of_the_daemon_and_is_cancelled_like_any_other() {
    let (world, _proxy) = world("1").await;
    let bytes = image(DISK, 1000, 1).build();
    let url = world.put("slow.qcow2", &bytes);
    let daemon = world.start();
    let low = submitted(&daemon, &url, "low", "low").await;
    fetched(&daemon, &low, 5 * MIB).await;
    let other = world.put("slow-other.qcow2", &image(DISK, 1000, 2).build());
    let high = submitted(&daemon, &other, "high", "high").await;
    paused(&daemon, &low).await;
    wait_for("the pause to be recorded", async || {
        (status(&daemon, &low).await.attempts == 0).then_some(())
    })
    .await;
    daemon.kill().expect("it is killed");
    let daemon = world.start();
    // Both ask for the slot again: the urgent one first, and the low one has not begun.
    wait_for("the urgent job to run", async || {
        let status = daemon.status(&high).await.ok()?;
        (status.status == JobState::Running && status.progress.is_some()).then_some(())
    })
    .await;
    let answer = daemon
        .call("DELETE", &format!("/api/v1/cancel/{high}"), None)
        .await;
    assert_eq!(answer.expect("an answer").status, 200);
    wait_for("the low one to run again", async || {
        let status = daemon.status(&low).await.ok()?;
        (status.attempts == 1 && status.waiting.is_none()).then_some(())
    })
    .await;
    fetched(&daemon, &low, 8 * MIB).await;
    // Paused again by another one, and cancelled in the pause: nothing of it is left.
    let third = submitted(&daemon, &other, "third", "high").await;
    paused(&daemon, &low).await;
    let answer = daemon
        .call("DELETE", &format!("/api/v1/cancel/{low}"), None)
        .await;
    assert_eq!(answer.expect("an answer").status, 200);
    assert_eq!(status(&daemon, &low).await.status, JobState::Cancelled);
    assert!(!world.home.volume("low").exists());
    assert_eq!(metric(&daemon, "paused_jobs").await, Some(0.0));
    let answer = daemon
        .call("DELETE", &format!("/api/v1/cancel/{third}"), None)
        .await;
    assert_eq!(answer.expect("an answer").status, 200);
    wait_for("no job", async || {
        (metric(&daemon, "active_jobs").await? == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_orderly_end_of_the_daemon_during_a_pause_is_no_attempt() {
    let (world, _proxy) = world("1").await;
    // The urgent one does not end before the daemon does.
    let world = world.with("SHUTDOWN_GRACE", "1s");
    let url = world.put("slow.qcow2", &image(DISK, 1000, 1).build());
    let other = world.put("slow-other.qcow2", &image(DISK, 1000, 2).build());
    let daemon = world.start();
    let low = submitted(&daemon, &url, "low", "low").await;
    fetched(&daemon, &low, 5 * MIB).await;
    let high = submitted(&daemon, &other, "high", "high").await;
    paused(&daemon, &low).await;
    daemon.signal("TERM").expect("it is told to end");
    assert!(daemon.wait().expect("it ends").success());
    let daemon = world.start();
    // The urgent one begins first, so that this is what was recorded.
    assert_eq!(status(&daemon, &low).await.attempts, 0);
    for job in [low, high] {
        let route = format!("/api/v1/cancel/{job}");
        let answer = daemon.call("DELETE", &route, None).await;
        assert_eq!(answer.expect("an answer").status, 200);
    }
}

#[tokio::test]
async fn a_download_that_an_urgent_job_waits_for_is_not_paused_for_it() {
    let (world, _proxy) = world("1").await;
    let url = world.put("slow.qcow2", &image(DISK, 400, 1).build());
    let daemon = world.start();
    let body = json!({"image_url": url});
    let low = daemon
        .submit("/api/v1/cache/fetch", body)
        .await
        .expect("it is accepted");
    assert_eq!(status(&daemon, &low).await.priority, Priority::Low);
    fetched(&daemon, &low, MIB).await;
    // It takes the slot, finds that it needs what the low one fetches, and lets it go on.
    let high = submitted(&daemon, &url, "high", "high").await;
    let followed = completed(&daemon, &high).await;
    assert_eq!(followed.cache_hit, Some(false));
    completed(&daemon, &low).await;
    // It was fetched once, but for what was in memory when it was paused.
    let sent = world.s3.traffic().object("images/slow.qcow2");
    assert!(sent.sent_bytes > 0, "{sent:?}");
}

#[tokio::test]
async fn waiting_jobs_begin_by_priority_and_lists_and_plans_show_it() {
    let (world, _proxy) = world("1").await;
    let slow = world.put("slow.qcow2", &image(DISK, 1000, 1).build());
    let url = world.put("a.qcow2", &image(DISK, 4, 1).build());
    let daemon = world.start();
    let first = submitted(&daemon, &slow, "first", "normal").await;
    fetched(&daemon, &first, MIB).await;
    let mut jobs = Vec::new();
    for priority in ["low", "normal", "high", "normal"] {
        let volume = format!("{priority}-{}", jobs.len());
        jobs.push(submitted(&daemon, &url, &volume, priority).await);
    }
    let plan = async |priority: &str| -> Value {
        let body = json!({
            "image_url": url, "volume_name": "next", "volume_size_bytes": DISK, "priority": priority,
        });
        let answer = daemon.call("POST", "/api/v1/plan", Some(body)).await;
        answer.expect("an answer").body
    };
    for (priority, ahead) in [("high", 1), ("normal", 3), ("low", 4)] {
        let plan = plan(priority).await;
        assert_eq!(
            (&plan["priority"], &plan["jobs_ahead"]),
            (&json!(priority), &json!(ahead))
        );
    }
    for (query, count) in [("high", 1), ("low,high", 2), ("normal", 3)] {
        let list: JobList = daemon
            .get(&format!("/api/v1/jobs?priority={query}"))
            .await
            .expect("a list");
        assert_eq!(list.jobs.len(), count, "{query}");
    }
    let bad = daemon
        .call("GET", "/api/v1/jobs?priority=urgent", None)
        .await;
    assert_eq!(bad.expect("an answer").status, 400);
    let body =
        json!({"image_url": url, "volume_name": "x", "volume_size_gb": 1, "priority": "urgent"});
    let refused = daemon
        .call("POST", "/api/v1/jobs", Some(body))
        .await
        .expect("an answer");
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(
        refused.body["message"]
            .as_str()
            .is_some_and(|text| text.contains("low, normal")),
        "{refused:?}"
    );
    let answer = daemon
        .call("DELETE", &format!("/api/v1/cancel/{first}"), None)
        .await;
    assert_eq!(answer.expect("an answer").status, 200);
    let mut waited = Vec::new();
    for job in &jobs {
        completed(&daemon, job).await;
        let timeline = daemon
            .call("GET", &format!("/api/v1/jobs/{job}/timeline"), None)
            .await;
        let timeline = timeline.expect("an answer").body;
        let begin = timeline["stages"][1]["begin_sec"].as_f64();
        waited.push(begin.expect("a second stage"));
    }
    // All were accepted within a moment; the first of them waited longest.
    assert!(
        waited[2] < waited[1] && waited[1] < waited[0] && waited[3] < waited[0],
        "{waited:?}"
    );
}

// The store answers while the test waits for the program.
#[tokio::test(flavor = "multi_thread")]
async fn lvpctl_asks_for_a_priority_and_shows_it() {
    if !require("lvpctl") {
        return;
    }
    let world = World::new().await;
    let url = world.put("a.qcow2", &image(DISK, 4, 1).build());
    let daemon = world.start();
    let run = |arguments: &[&str]| {
        let output = lvpctl(daemon.url(), arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let job = run(&[
        "provision",
        &url,
        "vm",
        "--size",
        "64M",
        "--priority",
        "high",
        "--wait",
        "-o",
        "name",
    ]);
    let shown = run(&["status", job.trim()]);
    assert!(
        shown
            .lines()
            .any(|line| line.starts_with("Priority") && line.ends_with("high")),
        "{shown}"
    );
    let fetch = run(&["cache", "fetch", &url, "--wait", "-o", "name"]);
    let shown = run(&["status", fetch.trim()]);
    assert!(
        shown
            .lines()
            .any(|line| line.starts_with("Priority") && line.ends_with("low")),
        "{shown}"
    );
    let listed = run(&["jobs", "--priority", "high,normal", "-o", "name"]);
    assert_eq!(listed.trim(), job.trim());
    let plan = run(&[
        "plan",
        &url,
        "other",
        "--size",
        "64M",
        "--priority",
        "low",
        "-o",
        "json",
    ]);
    assert!(plan.contains(r#""priority": "low""#), "{plan}");
}
