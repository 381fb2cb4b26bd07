//! Waiting for jobs: outcomes, lost connections, restarts, timeouts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::routing::{get, post};
use axum::{Json, Router};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::fake::{
    Fake, JOB, Outcome, completed, endless_events, error, events, finish, running, status,
};

const PROVISION: [&str; 6] = [
    "provision",
    "s3://images/debian-12.qcow2",
    "vm-01",
    "--size",
    "50G",
    "--wait",
];

const STATUS: &str = "GET /api/v1/jobs/6c8a5b4e-0d6f-4a53-9d5b-0f4e1f6b7a01";
const EVENTS: &str = "GET /api/v1/jobs/6c8a5b4e-0d6f-4a53-9d5b-0f4e1f6b7a01/events";

/// A daemon that accepts the job and then streams these statuses.
pub(crate) fn streaming(statuses: Vec<Value>) -> Router {
    let last = statuses.last().cloned().unwrap_or_default();
    Router::new()
        .route("/api/v1/jobs", post(async || Json(json!({"job_id": JOB}))))
        .route("/api/v1/jobs/{id}", get(async || Json(last)))
        .route("/api/v1/jobs/{id}/events", get(async || events(statuses)))
}

/// A daemon whose job runs and never ends.
fn stuck() -> Router {
    let now = running("downloading", 10.0);
    let same = now.clone();
    Router::new()
        .route("/api/v1/jobs", post(async || Json(json!({"job_id": JOB}))))
        .route("/api/v1/jobs/{id}", get(async || Json(now)))
        .route(
            "/api/v1/jobs/{id}/events",
            get(async || endless_events(vec![same])),
        )
}

fn ended(state: &str, error: Option<&str>) -> Value {
    let mut value = status(state);
    value["error"] = json!(error);
    value
}

#[tokio::test]
async fn wait_reports_stages_on_stderr_and_the_result_on_stdout() {
    let statuses = vec![
        status("pending"),
        running("initializing", 0.0),
        running("downloading", 1.0),
        running("downloading", 9.0),
        running("downloading", 55.0),
        running("finalizing", 99.0),
        completed(),
    ];
    let fake = Fake::start(streaming(statuses)).await;
    let outcome = fake.lvpctl(&PROVISION).run().await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    insta::assert_snapshot!(outcome.stderr, @r"
    Job 6c8a5b4e-0d6f-4a53-9d5b-0f4e1f6b7a01
    pending: waiting for a free job slot
    initializing: 0.0 %, 1 GiB of 4 GiB, 12s left
    downloading: 1.0 %, 1 GiB of 4 GiB, 12s left
    downloading: 55.0 %, 1 GiB of 4 GiB, 12s left
    finalizing: 99.0 %, 1 GiB of 4 GiB, 12s left
    completed
    ");
    insta::assert_snapshot!(outcome.stdout, @r"
    Job:      6c8a5b4e-0d6f-4a53-9d5b-0f4e1f6b7a01
    Kind:     provision
    Status:   completed
    Image:    s3://images/debian-12.qcow2
    Cache:    miss
    Volume:   vm-01
    Path:     /dev/vg0/vm-01
    Created:  2026-01-02T03:04:05Z
    Updated:  2026-01-02T03:04:06Z
    Note:     The tail of the volume was zeroed
    ");
    assert_eq!(fake.calls(), ["POST /api/v1/jobs", EVENTS]);
}

#[tokio::test]
async fn the_exit_code_shows_how_the_job_ended() {
    for (end, code, line) in [
        (completed(), 0, None),
        (
            ended("failed", Some("The image's digest is wrong")),
            1,
            Some("error: The job failed: The image's digest is wrong\n"),
        ),
        (
            ended("cancelled", None),
            2,
            Some("error: The job was cancelled\n"),
        ),
    ] {
        let fake = Fake::start(streaming(vec![end.clone()])).await;
        let calls: [&[&str]; 2] = [&PROVISION, &["watch", JOB]];
        for args in calls {
            let args = [args, &["-o", "json"]].concat();
            let outcome = fake.lvpctl(&args).run().await;
            assert_eq!(outcome.code, Some(code), "{outcome:?}");
            if let Some(line) = line {
                assert!(outcome.stderr.ends_with(line), "{outcome:?}");
            }
            let shown: Value = serde_json::from_str(&outcome.stdout).expect("it is JSON");
            assert_eq!(shown["status"], end["status"]);
        }
    }
}

#[tokio::test]
async fn watch_as_json_is_one_line_for_every_change() {
    let first = running("downloading", 1.0);
    let statuses = vec![
        first.clone(),
        first,
        running("downloading", 2.0),
        completed(),
    ];
    let fake = Fake::start(streaming(statuses)).await;
    let outcome = fake.lvpctl(&["watch", JOB, "-o", "json"]).run().await;
    let percents: Vec<Value> = outcome
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"))
        .map(|status| status["progress"]["percent"].clone())
        .collect();
    assert_eq!(percents, [1.0, 2.0, 100.0]);
}

#[tokio::test]
async fn a_job_that_does_not_exist_is_not_waited_for() {
    let gone = || error(404, "not found", "There is no job of this id");
    let routes = Router::new()
        .route("/api/v1/jobs/{id}", get(async move || gone()))
        .route("/api/v1/jobs/{id}/events", get(async move || gone()));
    let fake = Fake::start(routes).await;
    for command in ["watch", "status"] {
        let outcome = fake.lvpctl(&[command, JOB]).run().await;
        assert_eq!(outcome.code, Some(4), "{outcome:?}");
        assert_eq!(
            outcome.stderr,
            "error: There is no job of this id (404: not found)\n"
        );
    }
}

#[tokio::test]
async fn without_a_stream_the_job_is_polled() {
    let asked = Arc::new(AtomicUsize::new(0));
    let routes = Router::new().route(
        "/api/v1/jobs/{id}",
        get(async move || match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Json(running("downloading", 10.0)),
            _ => Json(completed()),
        }),
    );
    let fake = Fake::start(routes).await;
    let outcome = fake.lvpctl(&["watch", JOB]).run().await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(fake.calls(), [EVENTS, STATUS, STATUS]);
}

#[tokio::test]
async fn a_daemon_that_restarts_does_not_end_the_wait() {
    let first = Fake::start(stuck()).await;
    let child = first.lvpctl(&PROVISION).spawn();
    first.wait_for(EVENTS).await;
    let address = first.address;
    drop(first);
    // The first attempt to reconnect is after a second: this is down before and up after it.
    let refusing = Router::new().fallback(async || error(503, "service unavailable", "Starting"));
    let second = Fake::start_at(address, refusing).await;
    second.wait_for(STATUS).await;
    drop(second);
    let third = Fake::start_at(address, streaming(vec![completed()])).await;

    let outcome = finish(child).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(
        outcome.stderr.matches("trying again").count(),
        1,
        "{outcome:?}"
    );
    assert!(!third.calls().is_empty());
}

#[tokio::test]
async fn a_daemon_that_stays_away_is_given_up() {
    let fake = Fake::start(stuck()).await;
    let args = [&PROVISION[..], &["--reconnect-for", "1s"]].concat();
    let child = fake.lvpctl(&args).spawn();
    fake.wait_for(EVENTS).await;
    drop(fake);
    let outcome = finish(child).await;
    assert_eq!(outcome.code, Some(7), "{outcome:?}");
    let last = outcome.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: No contact for 1s"), "{outcome:?}");
    assert!(
        last.ends_with(&format!("lvpctl watch {JOB}")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_job_that_takes_too_long_continues_after_the_timeout() {
    let fake = Fake::start(stuck()).await;
    let args = [&PROVISION[..], &["--timeout", "1s", "-o", "name"]].concat();
    let outcome = fake.lvpctl(&args).run().await;
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert_eq!(outcome.stdout, format!("{JOB}\n"));
    assert!(outcome.stderr.contains("continues"), "{outcome:?}");
}

#[tokio::test]
async fn ctrl_c_says_that_the_job_continues_and_how_to_stop_it() {
    let fake = Fake::start(stuck()).await;
    let child = fake.lvpctl(&PROVISION).spawn();
    fake.wait_for(EVENTS).await;
    let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    kill_process(pid.expect("it runs"), Signal::INT).expect("it is ours");
    let outcome = finish(child).await;
    assert_eq!(outcome.code, Some(130), "{outcome:?}");
    let stop = format!("lvpctl cancel {JOB}");
    assert!(outcome.stderr.contains(&stop), "{outcome:?}");
    // The job was not cancelled.
    assert_eq!(fake.calls(), ["POST /api/v1/jobs", EVENTS]);
}

#[tokio::test]
async fn filling_the_cache_can_be_waited_for() {
    let mut end = completed();
    end["kind"] = json!("cache");
    let routes = streaming(vec![end]).route(
        "/api/v1/cache/fetch",
        post(async || Json(json!({"job_id": JOB}))),
    );
    let fake = Fake::start(routes).await;
    let args = ["cache", "fetch", "s3://images/a", "--wait", "-o", "name"];
    let outcome: Outcome = fake.lvpctl(&args).run().await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stdout, format!("{JOB}\n"));
    let body: Value = serde_json::from_slice(&fake.seen()[0].body).expect("it is JSON");
    assert_eq!(
        body,
        json!({"image_url": "s3://images/a", "image_type": "qcow2"})
    );
}
