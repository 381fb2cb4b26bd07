//! The requests that are sent, and how answers are handled.

mod offline;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::fake::{Fake, JOB, error, lvpctl};

const PROVISION: [&str; 5] = [
    "provision",
    "s3://images/debian-12.qcow2",
    "vm-01",
    "--size",
    "50G",
];

fn accepting() -> Router {
    Router::new().route(
        "/api/v1/jobs",
        post(async || {
            (
                axum::http::StatusCode::ACCEPTED,
                Json(json!({"job_id": JOB})),
            )
        }),
    )
}

#[tokio::test]
async fn provision_prints_the_job_s_id_and_nothing_else() {
    let fake = Fake::start(accepting()).await;
    for format in ["table", "name"] {
        let outcome = fake
            .lvpctl(&[&PROVISION[..], &["-o", format]].concat())
            .run()
            .await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(outcome.stdout, format!("{JOB}\n"));
        assert_eq!(outcome.stderr, "");
    }
    let outcome = fake
        .lvpctl(&[&PROVISION[..], &["-o", "json"]].concat())
        .run()
        .await;
    let answer: Value = serde_json::from_str(&outcome.stdout).expect("it is JSON");
    assert_eq!(answer, json!({"job_id": JOB}));
}

#[tokio::test]
async fn warnings_of_the_daemon_are_printed_on_standard_error() {
    let warning = "colour: unknown field, ignored";
    let answer = post(async move || Json(json!({"job_id": JOB, "warnings": [warning]})));
    let fake = Fake::start(Router::new().route("/api/v1/jobs", answer)).await;
    let outcome = fake.lvpctl(&PROVISION).run().await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stdout, format!("{JOB}\n"));
    assert_eq!(outcome.stderr, format!("warning: {warning}\n"));
}

#[tokio::test]
async fn the_request_has_what_the_command_line_has() {
    let fake = Fake::start(accepting()).await;
    let more = [
        "--image-type",
        "raw",
        "--correlation-id",
        "ticket 7",
        "--idempotency-key",
        "vm-01-first",
        "--adopt",
    ];
    fake.lvpctl(&[&PROVISION[..], &more].concat()).run().await;
    let seen = &fake.seen()[0];
    let body: Value = serde_json::from_slice(&seen.body).expect("it is JSON");
    assert_eq!(
        body,
        json!({
            "image_url": "s3://images/debian-12.qcow2",
            "volume_name": "vm-01",
            "volume_size_gb": 50,
            "image_type": "raw",
            "correlation_id": "ticket 7",
            "adopt": true,
        })
    );
    assert_eq!(seen.headers["idempotency-key"], "vm-01-first");
    assert_eq!(seen.headers["content-type"], "application/json");
}

#[tokio::test]
async fn volumes_are_handed_over_one_by_one_until_one_is_refused() {
    let adopted = json!({
        "name": "vm-01", "path": "/dev/vg0/vm-01", "size_bytes": 1_u64 << 30, "state": "adopted",
    });
    let refusal = "The volume /dev/vg0/snap is not written: it is a copy-on-write snapshot";
    let routes = Router::new()
        .route("/api/v1/volumes/vm-01/adopt", post(async || Json(adopted)))
        .route(
            "/api/v1/volumes/snap/adopt",
            post(async move || error(409, "conflict", refusal)),
        );
    let fake = Fake::start(routes).await;
    let arguments = ["volumes", "adopt", "vm-01", "snap", "vm-02"];
    let outcome = fake.lvpctl(&arguments).run().await;
    assert_eq!(outcome.code, Some(5), "{outcome:?}");
    assert_eq!(outcome.stdout, "vm-01 adopted\n");
    assert!(outcome.stderr.contains(refusal), "{outcome:?}");
    assert_eq!(fake.calls().len(), 2, "{:?}", fake.calls());
    let outcome = fake.lvpctl(&["volumes", "adopt", "vm-01", "-o", "name"]);
    assert_eq!(outcome.run().await.stdout, "vm-01\n");
}

#[tokio::test]
async fn a_size_that_is_no_whole_gib_is_sent_in_bytes() {
    let fake = Fake::start(accepting()).await;
    let args = ["provision", "s3://images/a", "vm-01", "--size", "1536M"];
    fake.lvpctl(&args).run().await;
    let body: Value = serde_json::from_slice(&fake.seen()[0].body).expect("it is JSON");
    assert_eq!(body["volume_size_bytes"], 1536 << 20);
    assert_eq!(body.get("volume_size_gb"), None);
}

#[tokio::test]
async fn after_a_lost_answer_the_request_is_repeated_with_the_same_key() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
    let server = std::thread::spawn(move || {
        let mut keys = Vec::new();
        for is_answered in [false, true] {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            // The body is the end of the request; its last field is known.
            while !request.ends_with(b"}") {
                let count = stream.read(&mut buffer).expect("the request arrives");
                assert_ne!(count, 0, "the request is whole");
                request.extend_from_slice(&buffer[..count]);
            }
            let request = String::from_utf8(request).expect("it is text");
            let key = request
                .lines()
                .find_map(|line| line.strip_prefix("idempotency-key: "))
                .expect("it has a key");
            keys.push(key.to_owned());
            if is_answered {
                let body = format!("{{\"job_id\":\"{JOB}\"}}");
                let length = body.len();
                write!(
                    stream,
                    "HTTP/1.1 202 Accepted\r\nContent-Length: {length}\r\n\
                     Connection: close\r\n\r\n{body}"
                )
                .expect("the answer goes out");
            }
        }
        keys
    });
    let outcome = lvpctl(&PROVISION)
        .env("LVP_ENDPOINT", &endpoint)
        .run()
        .await;
    assert_eq!(outcome.stdout, format!("{JOB}\n"), "{outcome:?}");
    let keys = server.join().expect("the server is done");
    assert_eq!(keys[0], keys[1]);
}

#[tokio::test]
async fn a_refusal_is_one_clear_line_and_an_exit_code_of_its_own() {
    for (status, phrase, code) in [
        (400, "invalid request", 1),
        (401, "authentication required", 6),
        (403, "forbidden", 6),
        (404, "not found", 4),
        (409, "conflict", 5),
        (413, "payload too large", 1),
        (422, "unprocessable image", 1),
        (429, "too many requests", 7),
        (500, "internal error", 1),
        (503, "service unavailable", 7),
        (507, "insufficient storage", 1),
    ] {
        let refusing = post(async move || error(status, phrase, "The reason\nand \u{1b}[31mmore"));
        let fake = Fake::start(Router::new().route("/api/v1/jobs", refusing)).await;
        let outcome = fake.lvpctl(&PROVISION).run().await;
        assert_eq!(outcome.code, Some(code), "{status}: {outcome:?}");
        assert_eq!(outcome.stdout, "");
        let line = format!("error: The reason and  [31mmore ({status}: {phrase})");
        assert!(outcome.stderr.starts_with(&line), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }
}

#[tokio::test]
async fn an_answer_of_another_server_is_reported_as_such() {
    let routes = Router::new()
        .route(
            "/health",
            get(async || (axum::http::StatusCode::BAD_GATEWAY, "<html>\nno</html>")),
        )
        .route("/api/v1/volumes", get(async || "<html>welcome</html>"));
    let fake = Fake::start(routes).await;

    let outcome = fake.lvpctl(&["health"]).run().await;
    assert_eq!(outcome.code, Some(7));
    let expected = format!("error: {} answered 502 Bad Gateway\n", fake.endpoint());
    assert_eq!(outcome.stderr, expected);

    let outcome = fake.lvpctl(&["volumes"]).run().await;
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stderr.contains("is not one that lvpctl"),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn an_unreachable_daemon_is_reported_with_its_address() {
    // Port 1 (tcpmux) is privileged and long out of use: nothing listens there.
    let address = "http://127.0.0.1:1";
    let outcome = lvpctl(&["jobs"]).env("LVP_ENDPOINT", address).run().await;
    assert_eq!(outcome.code, Some(7), "{outcome:?}");
    let expected = format!("error: Cannot reach {address}: Connection refused");
    assert!(outcome.stderr.starts_with(&expected), "{outcome:?}");
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_is_given_up_in_time() {
    let silent = get(async || futures::future::pending::<String>().await);
    let fake = Fake::start(Router::new().route("/api/v1/jobs", silent)).await;
    let outcome = fake.lvpctl(&["jobs", "--timeout", "100ms"]).run().await;
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(outcome.stderr.contains("within 100ms"), "{outcome:?}");
}

#[tokio::test]
async fn the_token_goes_into_the_header_from_wherever_it_is_configured() {
    let routes = Router::new().route(
        "/api/v1/jobs/{id}/cancel",
        post(async || {
            Json(json!({
                "status": "cancelled", "job_id": JOB
            }))
        }),
    );
    let fake = Fake::start(routes).await;
    let home = tempfile::tempdir().expect("a directory");
    let config = home.path().join("config.yaml");
    let token_file = home.path().join("token");
    std::fs::write(&config, "token_file: token\n").expect("a file");
    std::fs::write(&token_file, "from-file\n").expect("a file");
    let config = config.to_str().expect("an ASCII path");

    let cancel = ["cancel", JOB];
    let outcome = fake.lvpctl(&cancel).run().await;
    assert_eq!(outcome.stdout, format!("{JOB} cancelled\n"), "{outcome:?}");
    let by_config = fake.lvpctl(&cancel).env("LVP_CONFIG", config);
    by_config.run().await;
    let by_env = fake.lvpctl(&cancel).env("LVP_CONFIG", config);
    by_env.env("LVP_TOKEN", "from-env").run().await;
    let option = ["cancel", JOB, "--token", "from-option"];
    fake.lvpctl(&option).env("LVP_TOKEN", "env").run().await;

    let seen = fake.seen();
    let sent: Vec<_> = seen
        .iter()
        .map(|seen| seen.headers.get("authorization").map(|v| v.to_str()))
        .map(|value| value.map(|text| text.expect("it is ASCII")))
        .collect();
    assert_eq!(
        sent,
        [
            None,
            Some("Bearer from-file"),
            Some("Bearer from-env"),
            Some("Bearer from-option")
        ]
    );
}

#[tokio::test]
async fn a_plan_is_shown_and_its_exit_code_says_whether_provisioning_would_fail() {
    for (fits, problems, code) in [(true, json!([]), 0), (false, json!(["It is full"]), 5)] {
        let plan = json!({
            "fits": fits, "problems": problems, "warnings": ["vm-01 exists"],
            "image_url": "s3://images/debian-12.qcow2", "format": "qcow2",
            "object_bytes": 1 << 20, "virtual_bytes": 1_u64 << 31, "cache": "miss",
            "bytes_to_fetch": 1 << 20, "bytes_to_write": 3 << 20, "volume_name": "vm-01",
            "volume_bytes": 1_u64 << 31, "expected_seconds": 1.25,
        });
        let routes = Router::new().route("/api/v1/plan", post(async move || Json(plan)));
        let fake = Fake::start(routes).await;
        let asked = [
            "plan",
            "s3://images/debian-12.qcow2",
            "vm-01",
            "--size",
            "2G",
        ];
        let outcome = fake.lvpctl(&asked).run().await;
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        for part in ["miss: 1 MiB are fetched", "vm-01 exists", "2 GiB"] {
            assert!(outcome.stdout.contains(part), "{part}: {outcome:?}");
        }
        assert_eq!(outcome.stdout.contains("It is full"), !fits, "{outcome:?}");
        let body: Value = serde_json::from_slice(&fake.seen()[0].body).expect("it is JSON");
        assert_eq!(body["volume_size_gb"], json!(2));
    }
}

#[tokio::test]
async fn retrying_prints_the_new_job_s_id_and_refuses_what_has_not_failed() {
    const OLD: &str = "0d6f6c8a-5b4e-4a53-9d5b-0f4e1f6b7a02";
    let router = Router::new().route(
        "/api/v1/jobs/{id}/retry",
        post(
            async |axum::extract::Path(id): axum::extract::Path<String>| {
                if id == OLD {
                    Ok((
                        axum::http::StatusCode::ACCEPTED,
                        Json(json!({"job_id": JOB})),
                    ))
                } else {
                    let message = "only a failed or cancelled job can be retried";
                    Err(error(400, "invalid request", message))
                }
            },
        ),
    );
    let fake = Fake::start(router).await;
    let outcome = fake.lvpctl(&["retry", OLD]).run().await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stdout, format!("{JOB}\n"));
    let outcome = fake.lvpctl(&["retry", JOB]).run().await;
    assert_eq!(outcome.code, Some(5), "{outcome:?}");
    assert!(outcome.stderr.contains("only a failed"), "{outcome:?}");
}

#[tokio::test]
async fn cancelling_a_job_that_has_ended_is_a_conflict() {
    let message = "The job has already ended: it is completed";
    let routes = Router::new().route(
        "/api/v1/jobs/{id}/cancel",
        post(async move || error(400, "invalid request", message)),
    );
    let fake = Fake::start(routes).await;
    let outcome = fake.lvpctl(&["cancel", JOB]).run().await;
    assert_eq!(outcome.code, Some(5));
    assert!(outcome.stderr.contains(message), "{outcome:?}");
}

#[tokio::test]
async fn upload_streams_the_file_with_its_length() {
    let routes = Router::new().route(
        "/api/v1/volumes/upload-content",
        put(async || Json(json!({"status": "uploaded"}))),
    );
    let fake = Fake::start(routes).await;
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let content: Vec<u8> = (0..3_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    file.write_all(&content).expect("it is written");
    let path = file.path().to_str().expect("an ASCII path");

    let outcome = fake
        .lvpctl(&["upload", path, "vm-01-seed", "--pool", "seeds"])
        .run()
        .await;
    assert_eq!(
        outcome.stdout, "2.8 MiB written to vm-01-seed in pool seeds\n",
        "{outcome:?}"
    );
    let seen = &fake.seen()[0];
    assert_eq!(seen.headers["x-volume-name"], "vm-01-seed");
    assert_eq!(seen.headers["x-pool-name"], "seeds");
    assert_eq!(seen.headers["content-length"], "3000000");
    assert!(seen.body == content, "the bytes are the file's");
}
