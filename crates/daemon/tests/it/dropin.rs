//! What clients, files and operators of the Go program of the same name rely on.

use std::fs;
use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lvp_api::JobState;
use lvp_testkit::daemon::{DEADLINE, Daemon, wait_for};
use serde_json::{Value, json};

use crate::support::{MIB, World, image};

async fn post(daemon: &Daemon, route: &str, body: Value) -> (u16, Value) {
    let answer = daemon.call("POST", route, Some(body)).await;
    let answer = answer.expect("an answer");
    (answer.status, answer.body)
}

#[tokio::test]
async fn an_unknown_field_is_ignored_with_a_warning_in_the_answer_and_the_log() {
    let world = World::new().await;
    let url = world.put("a.qcow2", &image(4 * MIB, 2, 1).build());
    let daemon = world.start();
    let body = json!({
        "image_url": url, "volume_name": "vm", "volume_size_bytes": 8 * MIB,
        "image_type": "", "correlation_id": null, "adopt": null, "volume_size_gb": null,
        "tier": 7, "labels": {"a": [1]},
    });
    let (status, answer) = post(&daemon, "/provision", body).await;
    assert_eq!(status, 202, "{answer}");
    let warnings = [
        "tier: unknown field, ignored",
        "labels: unknown field, ignored",
    ];
    let mut told: Vec<_> = answer["warnings"].as_array().expect("a list").clone();
    told.sort_by_key(|warning| warning.as_str().map(|text| text.starts_with("labels")));
    assert_eq!(told, warnings);
    let job = answer["job_id"].as_str().expect("a job");
    assert_eq!(
        daemon.ended(job).await.expect("it ends").status,
        JobState::Completed
    );
    let logged = daemon.log().into_iter().any(|line| {
        line["level"] == "warn"
            && line["warnings"]
                .as_str()
                .is_some_and(|text| text.contains("tier"))
    });
    assert!(logged, "{:#?}", daemon.log_text());

    let (status, answer) = post(
        &daemon,
        "/api/v1/cache/fetch",
        json!({"image_url": url, "pool": "x"}),
    )
    .await;
    assert_eq!(
        (status, &answer["warnings"][0]),
        (202, &json!("pool: unknown field, ignored"))
    );
    // Nothing was ignored, so there is no warning.
    let (status, answer) = post(&daemon, "/api/v1/cache/fetch", json!({"image_url": url})).await;
    assert_eq!((status, answer.get("warnings")), (202, None), "{answer}");
}

#[tokio::test]
async fn lists_ignore_unknown_parameters_and_refuse_misspelt_ones() {
    let world = World::new().await;
    let daemon = world.start();
    for route in ["/api/v1/jobs", "/api/v1/cache/images"] {
        for (query, expected, found) in [
            ("?page=2&limit=5", 200, "page: unknown field"),
            (
                "?limit=many",
                400,
                "limit: must be a whole number, not the string \"many\"",
            ),
            ("?limit=-1", 400, "limit: must be a whole number"),
            ("?offest=1", 400, "offest: unknown field: use offset"),
        ] {
            let answer = daemon.call("GET", &format!("{route}{query}"), None).await;
            let answer = answer.expect("an answer");
            assert_eq!(answer.status, expected, "{route}{query}: {answer:?}");
            let said = match expected {
                200 => &answer.body["warnings"][0],
                _ => &answer.body["message"],
            };
            assert!(
                said.as_str().is_some_and(|said| said.starts_with(found)),
                "{answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_list_of_the_cache_counts_all_images_whatever_part_is_listed() {
    let world = World::new().await;
    let daemon = world.start();
    for seed in [1, 3, 5] {
        let url = world.put(&format!("{seed}.qcow2"), &image(4 * MIB, 2, seed).build());
        let body = json!({"image_url": url});
        let job = daemon
            .submit("/api/v1/cache/fetch", body)
            .await
            .expect("a job");
        assert_eq!(
            daemon.ended(&job).await.expect("it ends").status,
            JobState::Completed
        );
    }
    let answer = daemon
        .call("GET", "/api/v1/cache/images?limit=1&offset=1", None)
        .await;
    let list = answer.expect("an answer").body;
    assert_eq!(list["images"].as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(
        (&list["count"], &list["total"]),
        (&json!(3), &json!(3)),
        "{list}"
    );
}

#[tokio::test]
async fn every_answer_and_its_log_lines_have_a_request_id_the_clients_or_a_new_one() {
    let world = World::new().await;
    let daemon = world.start();
    let http = reqwest::Client::new();
    let ask = async |method: reqwest::Method, route: &str, id: Option<&str>| {
        let mut request = http.request(method, format!("{}{route}", daemon.url()));
        if let Some(id) = id {
            request = request.header("X-Request-ID", id);
        }
        let answer = request.send().await.expect("an answer");
        let id = answer.headers().get("x-request-id").expect("it has an id");
        id.to_str().expect("it is text").to_owned()
    };
    for route in [
        "/health",
        "/metrics",
        "/api/v1/jobs",
        "/nothing",
        "/api/v1/jobs/none",
    ] {
        assert_eq!(
            ask(reqwest::Method::GET, route, Some("req-42")).await,
            "req-42",
            "{route}"
        );
        let made = ask(reqwest::Method::GET, route, None).await;
        assert_eq!(made.len(), 36, "{made}");
        let made = ask(reqwest::Method::GET, route, Some("two words")).await;
        assert_eq!(made.len(), 36, "{made}");
    }
    ask(reqwest::Method::POST, "/api/v1/jobs", Some("req-43")).await;
    wait_for("a line with the id", async || {
        let lines = daemon.log();
        lines
            .iter()
            .any(|line| line["request_id"] == "req-43")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn errors_on_the_go_programs_routes_keep_its_words() {
    let world = World::new().await;
    let daemon = world.start();
    let none = "00000000-0000-4000-8000-000000000000";
    for (method, route, status, error) in [
        (
            "GET",
            format!("/api/v1/status/{none}"),
            404,
            "job not found",
        ),
        ("GET", format!("/api/v1/jobs/{none}"), 404, "job not found"),
        (
            "GET",
            "/api/v1/jobs/nonsense".to_owned(),
            404,
            "job not found",
        ),
        (
            "DELETE",
            format!("/api/v1/cancel/{none}"),
            404,
            "failed to cancel job",
        ),
        (
            "POST",
            format!("/api/v1/jobs/{none}/cancel"),
            404,
            "failed to cancel job",
        ),
        ("POST", "/provision".to_owned(), 400, "invalid request"),
        ("GET", "/nothing".to_owned(), 404, "not found"),
    ] {
        let answer = daemon.call(method, &route, None).await.expect("an answer");
        assert_eq!(answer.status, status, "{method} {route}: {answer:?}");
        assert_eq!(answer.body["error"], error, "{method} {route}: {answer:?}");
    }
}

#[tokio::test]
async fn config_check_and_the_start_refuse_the_same_with_64_and_the_keys_name() {
    let world = World::new().await;
    let home = world.home.path();
    let file = home.join("config.yaml");
    let config = file.display().to_string();
    for (name, value, key) in [
        ("MINIO_ENDPOINT", "ftp://x", "minio.endpoint"),
        ("MINIO_ENDPOINT", "http://a:b@h", "minio.endpoint"),
        ("MINIO_ENDPOINT", "::1:9000", "minio.endpoint"),
        ("MINIO_ENDPOINT", "http://h/minio?x=1", "minio.endpoint"),
        ("MINIO_ALLOWED_HOSTS", "*.org", "minio.allowed_hosts"),
        ("MINIO_SECRET_KEY", "", "minio.secret_key"),
        ("MINIO_ACCESS_KEY", "two\nlines", "minio.access_key"),
        ("MINIO_CA_CERT", "/no/ca.pem", "/no/ca.pem"),
        ("HOST", "kvm1.example.com", "server.host"),
        ("API_TOKENS_FILE", "/no/tokens", "/no/tokens"),
        ("API_TOKENS_FILE", "/etc/hostname", "/etc/hostname"),
        ("MINIO_CA_CERT", "/etc/hostname", "/etc/hostname"),
        ("TLS_CERT_FILE", "/no/cert", "server.tls_key"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "grpc://otel:4317",
            "tracing.endpoint",
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "http://u:p@otel:4317",
            "tracing.endpoint",
        ),
        ("LVM_VOLUME_GROUP", "/dev/vg0", "lvm.volume_group"),
        ("LOG_FILE", "/no/daemon.log", "/no/daemon.log"),
        ("LOKI_URL", "loki:3100", "logging.loki_url"),
        ("LOG_WEBHOOK_URL", "ftp://logs", "logging.webhook_url"),
        ("WEBHOOK_URLS", "http://", "webhooks.urls"),
        ("LOG_SAMPLING_RATE", "-1", "logging.sampling_rate"),
        ("CACHE_MAX_AGE", "9000000h", "cache.max_age"),
        ("MINIO_IDLE_TIMEOUT", "0", "minio.idle_timeout"),
    ] {
        let mut changed = world.home.environment().clone();
        changed.insert(name.to_owned(), value.to_owned());
        let keys: Vec<_> = changed
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        fs::write(&file, "").expect("there is room");
        for arguments in [
            &["config", "check", "--config", &config][..],
            &["serve", "--config", &config],
        ] {
            let mut command = lvp_testkit::require::command(crate::support::BINARY);
            let ended = command
                .args(arguments)
                .env_clear()
                .envs(keys.clone())
                .output();
            let ended = ended.expect("it starts");
            let said = format!(
                "{}{}",
                String::from_utf8_lossy(&ended.stdout),
                String::from_utf8_lossy(&ended.stderr)
            );
            // The content of a file may be fixed while the service tries again.
            let is_file = value.starts_with("/no/") && key.starts_with('/');
            let status = if is_file && arguments[0] == "serve" {
                1
            } else {
                64
            };
            assert_eq!(
                ended.status.code(),
                Some(status),
                "{arguments:?} {name}={value}: {said}"
            );
            assert!(said.contains(key), "{arguments:?} {name}={value}: {said}");
            assert!(!said.contains("panicked"), "{said}");
        }
    }
}

#[tokio::test]
async fn credentials_with_line_ends_from_secret_files_work() {
    let world = World::new()
        .await
        .with(
            "MINIO_ACCESS_KEY",
            &format!("{}\n", lvp_testkit::s3::ACCESS_KEY),
        )
        .with(
            "MINIO_SECRET_KEY",
            &format!("{}\r\n", lvp_testkit::s3::SECRET_KEY),
        )
        .with("MINIO_REGION", "us-east-1\n");
    let url = world.put("a.qcow2", &image(4 * MIB, 2, 1).build());
    let daemon = world.start();
    let job = daemon.provision(&url, "vm", 8 * MIB).await.expect("a job");
    assert_eq!(
        daemon.ended(&job).await.expect("it ends").status,
        JobState::Completed
    );
    crate::dependencies::becomes(&daemon, "minio", 1.0).await;
}

#[tokio::test]
async fn logging_file_may_name_a_stream_and_every_nth_line_is_written() {
    let world = World::new()
        .await
        .with("LOG_FILE", "stderr")
        .with("LOG_LEVEL", "INFO")
        .with("LOG_SAMPLING_RATE", "1");
    let daemon = world.start();
    assert!(!world.home.path().join("stderr").exists());
    drop(daemon);
    let world = world.with("LOG_SAMPLING_RATE", "1000000");
    let mut child = world
        .home
        .command()
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stderr = child.stderr.take().expect("it is piped");
    // Only the first line of the start is written, which says how the value was understood.
    let mut first = [0; 4096];
    let read = stderr.read(&mut first).expect("it can be read");
    let text = String::from_utf8_lossy(&first[..read]);
    assert!(text.contains("one line in 1000000 is written"), "{text}");
    child.kill().expect("it is killed");
    child.wait().expect("it ends");
}

#[tokio::test]
async fn a_standard_error_that_nobody_reads_delays_no_request() {
    let world = World::new()
        .await
        .with("PORT", "0")
        .with("LOG_FILE", "daemon.log");
    let mut child = world
        .home
        .command()
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let log = world.home.path().join("daemon.log");
    let address = wait_for("the address in the log's file", async || {
        let text = fs::read_to_string(&log).ok()?;
        let line = text.lines().find(|line| line.contains("\"Listening\""))?;
        let line: Value = serde_json::from_str(line).ok()?;
        line["address"].as_str().map(str::to_owned)
    })
    .await;
    let http = reqwest::Client::new();
    let started = Instant::now();
    // Each leaves a line of some hundred bytes; a pipe holds 64 KiB.
    for number in 0..1500 {
        let answer = http
            .post(format!("http://{address}/api/v1/jobs"))
            .timeout(Duration::from_secs(10))
            .json(&json!({"image_url": "s3://b/k", format!("zz{number}"): "x"}))
            .send()
            .await;
        assert_eq!(
            answer.expect("it answers").status(),
            400,
            "request {number}"
        );
        assert!(
            started.elapsed() < DEADLINE,
            "{number} requests took a minute"
        );
    }
    child.kill().expect("it is killed");
    child.wait().expect("it ends");
}
