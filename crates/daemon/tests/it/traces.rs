//! Traces, as a collector receives them.

mod collector;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lvp_api::JobState;
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::fault::{Fault, Request, Rule};
use lvp_testkit::port::Port;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::json;
use tokio::net::TcpListener;

use crate::certificates::{authority, issue, write};
use crate::collector::{Collector, Received, tls_before};
use crate::support::{MIB, World, completed, ended, image, metric};

/// A span's attributes as texts.
fn attributes(span: &Span) -> BTreeMap<String, String> {
    let text = |value: Value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(yes) => yes.to_string(),
        other => format!("{other:?}"),
    };
    span.attributes
        .iter()
        .filter_map(|attribute| {
            let value = attribute.value.clone()?.value?;
            Some((attribute.key.clone(), text(value)))
        })
        .collect()
}

/// Posts a job within the trace of a client.
async fn provision_within(daemon: &Daemon, url: &str, volume: &str, traceparent: &str) -> String {
    let body = json!({
        "image_url": url, "volume_name": volume, "volume_size_bytes": 64 * MIB,
        "correlation_id": "provision-vm-001",
    });
    let answer = reqwest::Client::new()
        .post(format!("{}/api/v1/jobs", daemon.url()))
        .header("traceparent", traceparent)
        .json(&body)
        .send()
        .await
        .expect("the daemon answers");
    assert_eq!(answer.status(), 202);
    let accepted: lvp_api::JobAccepted = answer.json().await.expect("it is JSON");
    accepted.job_id.to_string()
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT_SPAN: &str = "00f067aa0ba902b7";

#[tokio::test]
async fn a_job_is_one_trace_from_the_clients_span_to_the_volumes() {
    let collector = Collector::start().await;
    let world = World::new()
        .await
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())
        .with("OTEL_BSP_SCHEDULE_DELAY", "50")
        .with("OTEL_SERVICE_NAME", "provisioner-under-test")
        .with(
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        )
        .with("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=hypervisors");
    let url = world.put("debian.qcow2", &image(64 * MIB, 40, 31).build());
    let daemon = world.start();
    let traceparent = format!("00-{TRACE}-{CLIENT_SPAN}-01");
    let job = provision_within(&daemon, &url, "vm-1", &traceparent).await;
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    let scrape = daemon.call("GET", "/metrics", None).await;
    assert_eq!(scrape.expect("it answers").status, 200);

    // The last span to end, so that all others came before.
    let run = collector.span("runJob").await;
    let server = collector.span("POST /api/v1/jobs").await;
    let download = collector.span("DownloadImageToPath").await;
    let create = collector.span("CreateVolume").await;
    let populate = collector.span("PopulateVolume").await;
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    for span in [&server, &run, &download, &create, &populate] {
        assert_eq!(hex(&span.trace_id), TRACE, "{span:?}");
    }
    assert_eq!(hex(&server.parent_span_id), CLIENT_SPAN);
    assert_eq!(server.kind(), SpanKind::Server);
    assert_eq!(run.parent_span_id, server.span_id);
    for span in [&download, &create, &populate] {
        assert_eq!(span.parent_span_id, run.span_id, "{span:?}");
    }
    assert!(run.end_time_unix_nano > server.end_time_unix_nano);

    let server = attributes(&server);
    assert_eq!(server["http.route"], "/api/v1/jobs");
    assert_eq!(server["http.response.status_code"], "202");
    let run = attributes(&run);
    assert_eq!(run["job_id"], job);
    assert_eq!(run["correlation_id"], "provision-vm-001");
    assert_eq!(run["image_url"], url);
    assert_eq!(run["volume"], "vm-1");
    assert_eq!(run["job.status"], "completed");
    assert_eq!(run["cache.hit"], "false");
    let size = image(64 * MIB, 40, 31).build().len().to_string();
    assert_eq!(run["bytes.read"], size);
    assert_eq!(attributes(&download)["image.size"], size);
    assert_eq!(attributes(&create)["volume.name"], "vm-1");
    assert_eq!(attributes(&populate)["volume.size"], (64 * MIB).to_string());
    let names: Vec<String> = collector.spans().into_iter().map(|s| s.name).collect();
    assert!(
        !names.iter().any(|name| name.contains("metrics")),
        "{names:?}"
    );
    let resource = collector.requests()[0].resource_spans[0].resource.clone();
    let service = resource.expect("there is a resource").attributes;
    let service = format!("{service:?}");
    assert!(service.contains("provisioner-under-test"), "{service}");
    assert!(service.contains("deployment.environment.name"), "{service}");
    let tenant = collector.received.tenant.lock().expect("no panic").clone();
    assert_eq!(tenant.as_deref(), Some("hypervisors"));

    // The lines of the job lead to its trace.
    let lines = daemon.log();
    let line = lines.iter().find(|line| line["message"] == "Job started");
    let line = line.expect("the job's start is logged");
    assert_eq!(line["trace_id"], TRACE, "{line}");
    assert_eq!(line["job_id"], job, "{line}");
    assert_eq!(line["span_id"].as_str().map(str::len), Some(16), "{line}");
}

#[tokio::test]
async fn a_failed_job_marks_its_spans_and_has_one_for_the_rollback() {
    let collector = Collector::start().await;
    let world = World::new()
        .await
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())
        .with("OTEL_BSP_SCHEDULE_DELAY", "50");
    let url = world.put("wrong.qcow2", &image(32 * MIB, 20, 32).build());
    world
        .s3
        .objects()
        .put("images", "wrong.qcow2.sha256", "0".repeat(64).as_bytes())
        .expect("the sidecar is written");
    let daemon = world.start();
    let status = ended(&daemon, &url, "vm", 64 * MIB).await;
    assert_eq!(status.status, JobState::Failed);
    for name in ["runJob", "DownloadImageToPath", "PopulateVolume"] {
        let span = collector.span(name).await;
        let status = span.status.clone().expect("it has a status");
        assert_eq!(status.code(), StatusCode::Error, "{span:?}");
        assert!(status.message.contains("SHA-256"), "{span:?}");
        assert_eq!(attributes(&span)["error.type"], "digest_mismatch");
    }
    let delete = attributes(&collector.span("DeleteVolume").await);
    assert_eq!(delete["volume.removed"], "true");
    let answer = daemon
        .submit("/api/v1/cache/fetch", json!({ "image_url": url }))
        .await
        .expect("it is accepted");
    daemon.ended(&answer).await.expect("it ends");
    collector.span("runCacheJob").await;
}

#[tokio::test]
async fn a_job_that_is_resumed_after_a_restart_stays_in_its_trace() {
    let collector = Collector::start().await;
    let world = World::new()
        .await
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())
        .with("OTEL_BSP_SCHEDULE_DELAY", "50")
        .with("MINIO_MAX_READ_BYTES_PER_SEC", "1M");
    let url = world.put("slow.qcow2", &image(64 * MIB, 60, 33).build());
    let daemon = world.start();
    let traceparent = format!("00-{TRACE}-{CLIENT_SPAN}-01");
    let job = provision_within(&daemon, &url, "vm", &traceparent).await;
    wait_for("the job to run", async || {
        let status = daemon.status(&job).await.ok()?;
        (status.status == JobState::Running).then_some(())
    })
    .await;
    daemon.kill().expect("it is killed");
    let daemon = world.start();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    let run = collector.span("runJob").await;
    let trace: String = run.trace_id.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(trace, TRACE);
    assert_eq!(attributes(&run)["job.attempts"], "2");
}

#[tokio::test]
async fn a_jobs_span_has_the_number_of_repeated_requests() {
    let collector = Collector::start().await;
    let (world, proxy) = World::with_faults().await;
    let world = world
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())
        .with("OTEL_BSP_SCHEDULE_DELAY", "50");
    let daemon = world.start();
    let status = |status| Fault::Status {
        status,
        retry_after: None,
        code: None,
    };
    for (key, faults) in [("a.qcow2", 0), ("b.qcow2", 2)] {
        let url = world.put(key, &image(32 * MIB, 20, 36 + u64::from(faults)).build());
        let of_image = move |request: &Request| request.target.ends_with(key);
        proxy.inject(Rule::new(status(503)).when(of_image).times(faults));
        // The answer that says what the image is breaks off.
        let cut = Rule::new(Fault::CutAt(1000)).when(of_image);
        proxy.inject(cut.times(faults / 2));
        completed(&daemon, &url, key, 64 * MIB).await;
        let run = wait_for(key, async || {
            let spans = collector.spans().into_iter();
            let mut runs = spans
                .filter(|span| span.name == "runJob")
                .map(|s| attributes(&s));
            runs.find(|run| run["volume"] == key)
        })
        .await;
        assert_eq!(run["retries"], (faults + faults / 2).to_string(), "{run:?}");
    }
    let download = attributes(&collector.span("DownloadImageToPath").await);
    assert_eq!(download["retries"], "0");
}
