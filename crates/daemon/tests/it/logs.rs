//! Log lines, in both forms and in a file.

use std::fs;

use lvp_api::JobState;
use lvp_testkit::daemon::wait_for;
use lvp_testkit::fault::FaultProxy;
use lvp_testkit::s3::SECRET_KEY;
use serde_json::{Value, json};

use crate::support::{MIB, World, address, image};

#[tokio::test]
async fn every_line_within_a_job_leads_to_the_job_and_its_trace() {
    let world = World::new().await;
    let url = world.put("a.qcow2", &image(32 * MIB, 20, 51).build());
    let daemon = world.start();
    let body = json!({
        "image_url": url, "volume_name": "vm", "volume_size_bytes": 64 * MIB,
        "correlation_id": "provision-vm-001",
    });
    let job = daemon.submit("/api/v1/jobs", body).await.expect("a job");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed);
    for message in ["Job started", "Job completed"] {
        let lines = daemon.log();
        let line = lines.iter().find(|line| line["message"] == message);
        let line = line.unwrap_or_else(|| panic!("no {message:?}: {lines:?}"));
        assert_eq!(line["job_id"], job, "{line}");
        assert_eq!(line["correlation_id"], "provision-vm-001", "{line}");
        assert_eq!(line["level"], "info", "{line}");
        assert_eq!(line["component"], "provisioner", "{line}");
        assert_eq!(line["image_url"], url, "{line}");
        let length = |field: &str| line[field].as_str().map(str::len);
        assert_eq!(
            (length("trace_id"), length("span_id")),
            (Some(32), Some(16))
        );
        // 2026-01-27T10:30:45.123Z
        assert_eq!(length("timestamp"), Some(24), "{line}");
    }
}

#[tokio::test]
async fn a_line_has_the_form_of_the_guide_in_json_and_in_text() {
    let json = [
        "{\"timestamp\":\"",
        "\"level\":\"info\"",
        "\"component\":\"provisioner\"",
        "\"trace_id\":",
        "\"span_id\":",
        "\"job_id\":",
        "\"correlation_id\":\"c-1\"",
        "\"message\":\"Job started\"",
        "\"image_url\":",
    ];
    let text = [
        "Z [INFO] provisioner: Job started (trace_id=",
        ", span_id=",
        ", job_id=",
        ", correlation_id=c-1, image_url=",
    ];
    for (format, parts) in [("json", &json[..]), ("text", &text[..])] {
        let world = World::new().await;
        let path = world.home.path().join("log");
        let url = world.put("a.qcow2", &image(32 * MIB, 4, 53).build());
        let world = world.with("LOG_FILE", &path.display().to_string());
        let world = world.with("LOG_FORMAT", format);
        let daemon = world.start();
        let body = json!({
            "image_url": url, "volume_name": "vm", "volume_size_bytes": 32 * MIB,
            "correlation_id": "c-1",
        });
        let job = daemon.submit("/api/v1/jobs", body).await.expect("a job");
        daemon.ended(&job).await.expect("it ends");
        let log = fs::read_to_string(&path).expect("there is a log");
        let line = log.lines().find(|line| line.contains("Job started"));
        let mut rest = line.expect("the start is logged");
        for part in parts {
            let (_, after) = rest.split_once(part).unwrap_or_else(|| {
                panic!("{part:?} is not where it should be: {line:?}");
            });
            rest = after;
        }
    }
}

#[tokio::test]
async fn the_file_has_the_lines_too_and_is_opened_anew_on_sighup() {
    let world = World::new().await;
    let (path, moved) = (
        world.home.path().join("log"),
        world.home.path().join("log.1"),
    );
    let world = world.with("LOG_FILE", &path.display().to_string());
    let daemon = world.start();
    let text = |path| fs::read_to_string(path).unwrap_or_default();
    wait_for("the first lines", async || {
        text(&path).contains("Ready").then_some(())
    })
    .await;
    assert!(text(&path).lines().all(|line| {
        serde_json::from_str::<Value>(line).is_ok_and(|line| line["timestamp"].is_string())
    }));
    fs::rename(&path, &moved).expect("it is moved away");
    daemon.signal("HUP").expect("it is told");
    wait_for("a new file", async || {
        text(&path).contains("Log file opened anew").then_some(())
    })
    .await;
    assert!(!text(&moved).contains("Log file opened anew"));
    daemon.signal("TERM").expect("it is told");
    assert!(daemon.wait().expect("it ends").success());
    assert!(text(&path).contains("Stopping"), "{}", text(&path));
}

#[tokio::test]
async fn no_secret_is_ever_in_a_line() {
    let signature = "do-not-log-this-signature";
    let world = World::new().await;
    let web = FaultProxy::start(address(&world.s3))
        .await
        .expect("the web host starts");
    let host = web.endpoint().trim_start_matches("http://").to_owned();
    let world = world
        .with("LOG_LEVEL", "trace")
        .with("MINIO_ALLOWED_HOSTS", &host)
        .with("MINIO_RETRY_BACKOFF_MS", "1,1,1");
    let url = world.put("a.qcow2", &image(32 * MIB, 20, 52).build());
    let daemon = world.start();
    let job = daemon.provision(&url, "vm", 64 * MIB).await.expect("a job");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed);
    // Refused by the host, then not reached at all, then refused by the daemon.
    let signed = format!("http://{host}/images/a.qcow2?X-Amz-Signature={signature}");
    for volume in ["refused", "unreachable"] {
        let job = daemon.provision(&signed, volume, MIB).await.expect("a job");
        let status = daemon.ended(&job).await.expect("it ends");
        assert_eq!(status.status, JobState::Failed);
        web.go_down().await;
    }
    let with_password = format!("http://user:{signature}@{host}/images/a.qcow2");
    let refused = daemon.provision(&with_password, "vm-2", MIB).await;
    assert!(refused.is_err(), "{refused:?}");
    let log = daemon.log_text().join("\n");
    assert!(log.contains("Job failed"), "{log}");
    for secret in [signature, SECRET_KEY] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}
