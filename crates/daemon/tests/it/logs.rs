//! Log lines, in both formats and in a file.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Stdio;

use lvp_api::JobState;
use lvp_testkit::daemon::wait_for;
use lvp_testkit::fault::FaultProxy;
use lvp_testkit::inbox::Inbox;
use lvp_testkit::s3::SECRET_KEY;
use serde_json::{Value, json};

use crate::certificates::with_tokens;
use crate::support::{MIB, World, address, ended, image};

const TOKEN: &str = "do-not-log-this-token-0123456789abcdef";

#[tokio::test]
async fn every_line_of_a_job_has_the_ids_of_the_job_and_its_trace() {
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
async fn the_file_gets_the_lines_too_and_is_reopened_on_sighup() {
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
        text(&path).contains("Log file reopened").then_some(())
    })
    .await;
    assert!(!text(&moved).contains("Log file reopened"));
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
    // One that accepts the lines, one that does not exist.
    let inbox = Inbox::start().await.expect("a server");
    let world = with_tokens(world, &format!("ci:{TOKEN}\n"));
    let world = world
        .with(
            "LOG_LOKI_URL",
            &format!("http://u:{signature}@127.0.0.1:1/{signature}"),
        )
        .with(
            "LOG_WEBHOOK_URL",
            &format!("http://u:{signature}@{}/{signature}", inbox.authority()),
        )
        .with("LOG_LEVEL", "trace")
        .with("MINIO_ALLOWED_HOSTS", &host)
        .with("MINIO_RETRY_BACKOFF_MS", "1,1,1");
    let url = world.put("a.qcow2", &image(32 * MIB, 20, 52).build());
    let daemon = world.start().with_token(TOKEN);
    let job = daemon.provision(&url, "vm", 64 * MIB).await.expect("a job");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed);
    // Refused by the host, then unreachable, then refused by the daemon.
    let signed = format!("http://{host}/images/a.qcow2?X-Amz-Signature={signature}");
    for volume in ["refused", "unreachable"] {
        let status = ended(&daemon, &signed, volume, MIB).await;
        assert_eq!(status.status, JobState::Failed);
        web.go_down().await;
    }
    let with_password = format!("http://user:{signature}@{host}/images/a.qcow2");
    let refused = daemon.provision(&with_password, "vm-2", MIB).await;
    assert!(refused.is_err(), "{refused:?}");
    let sent = wait_for("the lines to be sent", async || {
        let bodies = inbox.taken().into_iter().map(|post| post.body);
        let sent = String::from_utf8_lossy(&bodies.collect::<Vec<_>>().concat()).into_owned();
        sent.contains("\"receiver\":\"loki\"").then_some(sent)
    })
    .await;
    let log = daemon.log_text().join("\n");
    for text in [log, sent] {
        assert!(text.contains("Job failed"), "{text}");
        for secret in [signature, SECRET_KEY, TOKEN] {
            assert!(!text.contains(secret), "{secret} is in the log:\n{text}");
        }
    }
}

#[tokio::test]
async fn lines_go_to_the_configured_stream_and_give_the_journal_their_priority() {
    for (output, is_journal) in [("stderr", true), ("stdout", true), ("stdout", false)] {
        let world = World::new().await.with("LOG_OUTPUT", output);
        // Which is worth a warning, as there are no credentials.
        let world = world.with("HOST", "0.0.0.0");
        let path = world.home.path().join("stream");
        let stream = fs::File::create(&path).expect("there is room");
        let meta = stream.metadata().expect("it is open");
        let mut command = world.home.command();
        if is_journal {
            command.env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()));
        }
        let (stdout, stderr) = match output {
            "stdout" => (Stdio::from(stream), Stdio::null()),
            _ => (Stdio::null(), Stdio::from(stream)),
        };
        let mut child = command
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .expect("it starts");
        let text = wait_for("it to be ready", async || {
            let text = fs::read_to_string(&path).ok()?;
            text.contains("\"Ready\"").then_some(text)
        })
        .await;
        child.kill().expect("it runs");
        child.wait().expect("it has ended");
        let mark = if is_journal { "<6>" } else { "" };
        let line = text.lines().find(|line| line.contains("\"Listening\""));
        let line = line.and_then(|line| line.strip_prefix(mark));
        let line: Value = serde_json::from_str(line.unwrap_or_default()).expect("it is JSON");
        assert_eq!(line["level"], "info");
        let mark = if is_journal { "<4>{" } else { "{" };
        let warning = text
            .lines()
            .find(|line| line.contains("listening on loopback only"));
        assert!(warning.is_some_and(|line| line.starts_with(mark)), "{text}");
    }
}

#[tokio::test]
async fn no_request_can_forge_a_line_or_make_an_overlong_one() {
    let forged = "2026-01-01T00:00:00.000Z [ERROR] audit: Forged";
    let evil = format!("vm, status=200)\n{forged}\r\n\u{1b}[2K\u{2028}{forged}\u{85}\u{202e}\" ");
    for format in ["text", "json"] {
        let world = World::new().await.with("LOG_FORMAT", format);
        let daemon = world.start();
        // By the name, which is refused, and by what is free text and goes with the job.
        for (name, correlation_id) in [
            (evil.repeat(900_000 / evil.len()), "c".to_owned()),
            (evil.clone(), "c".to_owned()),
            ("vm".to_owned(), evil.chars().take(128).collect()),
        ] {
            let body = json!({
                "image_url": "s3://images/none", "volume_name": name, "volume_size_gb": 1,
                "correlation_id": correlation_id,
            });
            daemon
                .call("POST", "/api/v1/jobs", Some(body))
                .await
                .expect("an answer");
        }
        // What a path says, too.
        let path = "/api/v1/cache/images/x%0A%1b%5b2K";
        daemon.call("DELETE", path, None).await.expect("an answer");
        let lines = wait_for("four lines of the audit", async || {
            let lines = daemon.log_text();
            let audit = lines
                .iter()
                .filter(|line| line.contains("audit") && line.contains("Request"));
            (audit.count() >= 4).then_some(lines)
        })
        .await;
        for line in &lines {
            assert!(line.len() < 48 << 10, "{} bytes", line.len());
            assert!(!line.starts_with(forged), "{line}");
            let odd = |c: char| c.is_control() || "\u{2028}\u{2029}\u{202e}".contains(c);
            assert!(!line.contains(odd), "{line:?}");
            let is_line = match format {
                "json" => serde_json::from_str::<Value>(line)
                    .is_ok_and(|line| line["timestamp"].is_string()),
                _ => line.starts_with("20") && line.contains("Z ["),
            };
            assert!(is_line, "{line:?}");
        }
        if format == "text" {
            let line = lines
                .iter()
                .find(|line| line.contains("subject=\"volume vm, status=200)\\n"));
            assert!(line.is_some(), "the value is in quotes: {lines:#?}");
        }
    }
}
