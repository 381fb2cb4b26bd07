//! The daemon's support for OpenTelemetry's variables.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use lvp_testkit::daemon::wait_for;
use lvp_testkit::inbox::Inbox;
use serde_json::Value;

use crate::collector::Collector;
use crate::support::World;

const SOON: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "50");

fn contains(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|part| part == text.as_bytes())
}

#[tokio::test]
async fn spans_are_posted_as_protocol_buffers_if_configured() {
    let inbox = Inbox::start().await.expect("a server");
    let base = format!("http://{}/base", inbox.authority());
    let world = World::new()
        .await
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &base)
        .with("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        .with("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=hypervisors")
        .with("OTEL_RESOURCE_ATTRIBUTES", "service.name=shop,site=north")
        .with(SOON.0, SOON.1);
    let daemon = world.start();
    let ask = async || {
        daemon
            .call("GET", "/api/v1/jobs", None)
            .await
            .expect("an answer")
    };
    assert_eq!(ask().await.status, 200);
    let post = wait_for("a batch", async || inbox.taken().into_iter().next()).await;
    assert_eq!(post.target, "/base/v1/traces");
    assert_eq!(post.headers["content-type"], "application/x-protobuf");
    assert_eq!(post.headers["x-tenant"], "hypervisors");
    for text in ["GET /api/v1/jobs", "shop", "north"] {
        assert!(contains(&post.body, text), "{text}");
    }
    drop(daemon);

    let exactly = format!("http://{}/exactly", inbox.authority());
    let world = world
        .with("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &exactly)
        .with("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip");
    let daemon = world.start();
    let answer = daemon.call("GET", "/api/v1/jobs", None).await;
    assert_eq!(answer.expect("an answer").status, 200);
    let post = wait_for("a batch", async || {
        inbox
            .taken()
            .into_iter()
            .find(|post| post.target == "/exactly")
    })
    .await;
    assert_eq!(post.headers["content-encoding"], "gzip");
    assert!(!contains(&post.body, "GET /api/v1/jobs"));
}

#[tokio::test]
async fn requests_that_only_read_do_not_crowd_out_the_others() {
    let collector = Collector::start().await;
    let world = World::new()
        .await
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())
        .with(SOON.0, SOON.1);
    let daemon = world.start();
    for _ in 0..200 {
        let answer = daemon.call("GET", "/api/v1/jobs/none", None).await;
        assert_eq!(answer.expect("an answer").status, 404);
    }
    let answer = daemon.call("GET", "/api/v1/jobs", None).await;
    assert_eq!(answer.expect("an answer").status, 200);
    collector.span("GET /api/v1/jobs").await;
    // One in a hundred of those is kept.
    let polls = collector
        .spans()
        .into_iter()
        .filter(|span| span.name == "GET /api/v1/jobs/{id}");
    assert!(polls.count() < 30);
}

#[tokio::test]
async fn spans_on_standard_output_are_json_and_unsupported_variables_are_warned_of() {
    let world = World::new()
        .await
        .with("OTEL_TRACES_EXPORTER", "console")
        .with("OTEL_TRACES_SAMPLER", "jaeger_remote")
        .with("OTEL_PROPAGATORS", "b3")
        .with("LOG_FILE", "daemon.log")
        .with(SOON.0, SOON.1);
    let mut child = world
        .home
        .command()
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let log = world.home.path().join("daemon.log");
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    let address = wait_for("the address", async || {
        let text = text();
        let line = text.lines().find(|line| line.contains("\"Listening\""))?;
        let line: Value = serde_json::from_str(line).ok()?;
        line["address"].as_str().map(str::to_owned)
    })
    .await;
    let answer = reqwest::get(format!("http://{address}/api/v1/jobs")).await;
    assert_eq!(answer.expect("an answer").status(), 200);
    let stdout = child.stdout.take().expect("it is piped");
    let line = BufReader::new(stdout)
        .lines()
        .next()
        .expect("a line")
        .expect("text");
    let span: Value = serde_json::from_str(&line).expect("it is JSON");
    assert_eq!(span["span"], "GET /api/v1/jobs", "{span}");
    assert_eq!(
        span["attributes"]["http.response.status_code"], "200",
        "{span}"
    );
    for told in [
        "OTEL_TRACES_SAMPLER is ignored",
        "OTEL_PROPAGATORS is set but has no effect",
    ] {
        assert!(text().contains(told), "{told}: {}", text());
    }
    child.kill().expect("it is killed");
    child.wait().expect("it ends");
}
