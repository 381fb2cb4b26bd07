//! Following all jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::header;
use axum::routing::get;
use axum::{Json, Router};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::fake::{Fake, completed, error, finish, running};

fn event(name: &str, id: u32, data: &Value) -> String {
    format!("event: {name}\nid: run-{id}\ndata: {data}\n\n")
}

/// A daemon that sends the first stream, then the second, and then is silent.
fn daemon(first: String, second: String) -> Router {
    let streams = Arc::new(AtomicUsize::new(0));
    let events = async move || {
        let body = match streams.fetch_add(1, Ordering::SeqCst) {
            0 => axum::body::Body::from(first),
            1 => axum::body::Body::from(second),
            _ => {
                let silence = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
                axum::body::Body::from_stream(silence)
            }
        };
        ([(header::CONTENT_TYPE, "text/event-stream")], body)
    };
    let list = json!({
        "jobs": [running("downloading", 41.5)], "count": 1, "total": 1, "offset": 0, "limit": 1000,
    });
    Router::new()
        .route("/api/v1/events", get(events))
        .route("/api/v1/jobs", get(async || Json(list)))
}

#[tokio::test]
async fn every_change_is_a_line_and_a_cut_stream_is_continued() {
    let first = event("reset", 4, &json!({})) + &event("job", 5, &running("converting", 80.0));
    let second = event("job", 6, &completed()) + &event("later", 7, &json!({"x": 1}));
    let fake = Fake::start(daemon(first, second)).await;
    let child = fake.lvpctl(&["top"]).spawn();
    // It asks for the third after it has read the second.
    let asked = tokio::time::timeout(std::time::Duration::from_secs(60), async {
        while fake
            .calls()
            .iter()
            .filter(|call| call.ends_with("/events"))
            .count()
            < 3
        {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    asked.await.expect("it goes on in time");
    let pid = i32::try_from(child.id().expect("it runs")).expect("a pid");
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::INT).expect("it is told");
    let outcome = finish(child).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{outcome:?}");
    for (line, part) in lines.iter().zip(["41.5 %", "80.0 %", "completed"]) {
        assert!(line.contains(part) && line.contains("vm-01"), "{line}");
    }
    let ids: Vec<_> = fake
        .seen()
        .iter()
        .filter(|seen| seen.uri.path().ends_with("/events"))
        .map(|seen| seen.headers.get("last-event-id").cloned())
        .collect();
    assert_eq!(ids[0], None);
    assert_eq!(ids[1].as_ref().expect("an id"), "run-5");
    assert_eq!(ids[2].as_ref().expect("an id"), "run-7");
    let listed = "GET /api/v1/jobs?limit=1000&status=pending%2Crunning".to_owned();
    assert!(fake.calls().contains(&listed), "{:?}", fake.calls());
}

#[tokio::test]
async fn a_refusal_is_not_retried() {
    let refusing = Router::new().route(
        "/api/v1/events",
        get(async || error(401, "unauthorized", "The token is not known")),
    );
    let fake = Fake::start(refusing).await;
    let outcome = fake.lvpctl(&["top"]).run().await;
    assert_eq!(outcome.code, Some(6), "{outcome:?}");
    assert!(
        outcome.stderr.contains("The token is not known"),
        "{outcome:?}"
    );
    assert_eq!(fake.calls().len(), 1);
    // A daemon that was never reachable is reported at once.
    let outcome = crate::fake::lvpctl(&["top"])
        .env("LVP_ENDPOINT", "http://127.0.0.1:9")
        .run()
        .await;
    assert_ne!(outcome.code, Some(0), "{outcome:?}");
}
