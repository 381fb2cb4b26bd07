//! Log lines that the daemon itself sends: to Loki and to a webhook.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use lvp_api::JobState;
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::inbox::{Inbox, Manner};
use serde_json::{Value, json};

use crate::support::{MIB, World, accepted, image, metric};

const PASSWORD: &str = "do-not-log-this-password";
const TOKEN: &str = "do-not-log-this-token";

/// A world whose daemon sends its lines to both, with credentials.
async fn world(loki: &Inbox, webhook: &Inbox) -> World {
    let world = World::new().await;
    let file = world.home.path().join("log").display().to_string();
    world
        .with(
            "LOG_LOKI_URL",
            &format!("http://tenant:{PASSWORD}@{}", loki.authority()),
        )
        .with(
            "LOG_WEBHOOK_URL",
            &format!("http://{}/hook/{TOKEN}?key={TOKEN}", webhook.authority()),
        )
        .with("LOG_FILE", &file)
}

/// The lines of the log's file, sorted.
fn log_file(world: &World) -> Vec<String> {
    let text = fs::read_to_string(world.home.path().join("log")).expect("there is a log");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The lines that Loki got, sorted; checks what else it got.
fn loki_lines(loki: &Inbox) -> Vec<String> {
    let mut lines = Vec::new();
    for post in loki.taken() {
        assert_eq!(post.target, "/loki/api/v1/push");
        assert!(post.headers["authorization"].starts_with("Basic "));
        let body: Value = serde_json::from_slice(&post.body).expect("it is JSON");
        for stream in body["streams"].as_array().expect("there are streams") {
            let labels = stream["stream"].as_object().expect("there are labels");
            let names: BTreeSet<&str> = labels.keys().map(String::as_str).collect();
            assert_eq!(names, BTreeSet::from(["instance", "job", "level"]));
            for value in stream["values"].as_array().expect("there are values") {
                let line = value[1].as_str().expect("it is text");
                let parsed: Value = serde_json::from_str(line).expect("a line is JSON");
                assert_eq!(parsed["level"], labels["level"], "{line}");
                lines.push(line.to_owned());
            }
        }
    }
    lines.sort();
    lines
}

/// The lines that the webhook got.
fn webhook_lines(webhook: &Inbox) -> Vec<Value> {
    let posts = webhook.taken().into_iter();
    let lines = posts.flat_map(|post| {
        assert_eq!(post.target, format!("/hook/{TOKEN}?key={TOKEN}"));
        serde_json::from_slice::<Vec<Value>>(&post.body).expect("it is a JSON array")
    });
    lines.collect()
}

fn has(lines: &[Value], message: &str) -> bool {
    lines.iter().any(|line| line["message"] == message)
}

async fn run(world: &World, daemon: &Daemon, volume: &str) -> String {
    let url = world.put("a.qcow2", &image(32 * MIB, 20, 71).build());
    let body = json!({
        "image_url": url, "volume_name": volume, "volume_size_bytes": 64 * MIB,
        "correlation_id": "provision-vm-001",
    });
    let job = daemon.submit("/api/v1/jobs", body).await.expect("a job");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    job
}

// Waiting for the daemon's end blocks a thread; the receivers run on another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_reaches_loki_and_the_webhook_before_the_daemon_ends() {
    let (loki, webhook) = (Inbox::start().await, Inbox::start().await);
    let (loki, webhook) = (loki.expect("a server"), webhook.expect("a server"));
    let world = world(&loki, &webhook).await;
    let daemon = world.start();
    let job = run(&world, &daemon, "vm").await;
    wait_for("the lines to be counted", async || {
        let sent = metric(&daemon, r#"log_lines_sent_total{sink="loki"}"#).await?;
        (sent > 0.0).then_some(())
    })
    .await;
    daemon.signal("TERM").expect("it is told");
    assert!(daemon.wait().expect("it ends").success());
    let file = log_file(&world);
    assert!(file.iter().any(|line| line.contains("\"Stopping\"")));
    assert_eq!(loki_lines(&loki), file);
    let lines = webhook_lines(&webhook);
    assert_eq!(lines.len(), file.len());
    let of_job = |line: &&Value| line["job_id"] == job.as_str();
    let messages: Vec<_> = lines.iter().filter(of_job).collect();
    assert!(
        messages
            .iter()
            .any(|line| line["message"] == "Job completed")
    );
    assert!(messages.iter().all(|line| line["trace_id"].is_string()));
    let text = file.join("\n");
    assert!(!text.contains(PASSWORD) && !text.contains(TOKEN), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receivers_that_are_down_or_silent_delay_nothing_and_get_the_lines_when_they_are_back() {
    let (loki, webhook) = (Inbox::start().await, Inbox::start().await);
    let (mut loki, webhook) = (loki.expect("a server"), webhook.expect("a server"));
    loki.go_down().await;
    webhook.be(Manner::Silent);
    let world = world(&loki, &webhook).await;
    let daemon = world.start();
    let began = Instant::now();
    run(&world, &daemon, "vm-1").await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "the job took {took:?}");
    let trouble = "Cannot deliver to a receiver; trying again";
    // One line, however often delivery is tried, without their URLs.
    let complaints = wait_for("both to be complained of", async || {
        let lines = daemon.log().into_iter();
        let complaints: Vec<_> = lines.filter(|line| line["message"] == trouble).collect();
        let names: BTreeSet<_> = complaints
            .iter()
            .map(|c| c["receiver"].to_string())
            .collect();
        (names.len() == 2).then_some(complaints)
    })
    .await;
    assert_eq!(complaints.len(), 2, "{complaints:?}");
    loki.come_up().await.expect("its port is free");
    webhook.be(Manner::Answer(503));
    let asked = webhook.requests();
    wait_for("it to be tried again", async || {
        (webhook.requests() > asked).then_some(())
    })
    .await;
    webhook.be(Manner::Take);
    for again in ["loki", "webhook"] {
        wait_for(again, async || {
            let lines = daemon.log();
            let is_back = |line: &Value| {
                line["receiver"] == again && line["message"] == "Delivery to a receiver works again"
            };
            lines.iter().any(is_back).then_some(())
        })
        .await;
    }
    let lines = webhook_lines(&webhook);
    assert!(
        has(&lines, "Listening") && has(&lines, "Job completed"),
        "{lines:?}"
    );
    assert!(
        loki_lines(&loki)
            .iter()
            .any(|line| line.contains("Job completed"))
    );

    // Down again, now for the end.
    loki.go_down().await;
    webhook.be(Manner::Silent);
    daemon.signal("TERM").expect("it is told");
    let began = Instant::now();
    assert!(daemon.wait().expect("it ends").success());
    let took = began.elapsed();
    assert!(took < Duration::from_secs(6), "the end took {took:?}");
    let text = log_file(&world).join("\n");
    assert!(
        text.contains("The last lines could not be delivered"),
        "{text}"
    );
    assert!(!text.contains(PASSWORD) && !text.contains(TOKEN), "{text}");
}

#[tokio::test]
async fn refused_lines_are_counted_and_not_sent_again() {
    let webhook = Inbox::start().await.expect("a server");
    webhook.be(Manner::Answer(400));
    let url = format!("http://{}/hook", webhook.authority());
    let world = World::new().await.with("LOG_WEBHOOK_URL", &url);
    let daemon = world.start();
    let refused = r#"log_lines_dropped_total{sink="webhook",reason="refused"}"#;
    wait_for("refused lines to be counted", async || {
        (metric(&daemon, refused).await? > 0.0).then_some(())
    })
    .await;
    let full = r#"log_lines_dropped_total{sink="webhook",reason="queue_full"}"#;
    assert_eq!(metric(&daemon, full).await, Some(0.0));
    webhook.be(Manner::Take);
    daemon
        .call("POST", "/nowhere", None)
        .await
        .expect("it answers");
    wait_for("a later line", async || {
        (!webhook.taken().is_empty()).then_some(())
    })
    .await;
    let lines = webhook_of(&webhook);
    assert!(!has(&lines, "Listening"), "{lines:?}");
}

fn webhook_of(webhook: &Inbox) -> Vec<Value> {
    let posts = webhook.taken().into_iter();
    let lines = posts.map(|post| serde_json::from_slice::<Vec<Value>>(&post.body));
    lines
        .flat_map(|lines| lines.expect("it is a JSON array"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sampling_leaves_out_whole_traces_and_never_a_warning_an_error_or_an_audit_line() {
    let webhook = Inbox::start().await.expect("a server");
    let url = format!("http://{}/hook", webhook.authority());
    let world = World::new()
        .await
        .with("LOG_SAMPLING_RATE", "0.000000001")
        .with("LOG_FORMAT", "text")
        .with("LOG_WEBHOOK_URL", &url);
    let daemon = world.start();
    let job = run(&world, &daemon, "vm-1").await;
    let missing = accepted(&daemon, "s3://images/none", "vm-2", MIB).await;
    daemon.ended(&missing).await.expect("it ends");
    let log = daemon.log_text();
    daemon.signal("TERM").expect("it is told");
    assert!(daemon.wait().expect("it ends").success());
    let sent = webhook_of(&webhook);
    for message in ["Listening", "Job failed", "Request", "Stopping"] {
        assert!(has(&sent, message), "{message}: {sent:?}");
    }
    for message in ["Job started", "Job completed"] {
        assert!(!has(&sent, message), "{message}: {sent:?}");
    }
    let of_job: Vec<_> = log.iter().filter(|line| line.contains(&job)).collect();
    assert!(
        of_job.iter().all(|line| line.contains(" audit: ")),
        "{of_job:?}"
    );
    assert!(
        log.iter()
            .any(|line| line.contains("[ERROR] provisioner: Job failed"))
    );
    // The sinks get JSON, whatever the format of the log is.
    assert!(log.iter().all(|line| !line.starts_with('{')), "{log:?}");
    assert!(sent.iter().all(|line| line["timestamp"].is_string()));
}

#[tokio::test]
async fn a_malformed_url_is_refused_without_being_shown() {
    for name in ["LOG_LOKI_URL", "LOG_WEBHOOK_URL"] {
        let secret = format!("ftp://user:{PASSWORD}@logs.example.com");
        let world = World::new().await.with(name, &secret);
        let error = world.home.start().expect_err("it is no URL").to_string();
        assert!(error.contains("must be a URL"), "{error}");
        assert!(!error.contains(PASSWORD), "{error}");
    }
}
