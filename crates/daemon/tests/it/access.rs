//! Who gets in: every credential on every class of route, over plain HTTP and over TLS.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lvp_testkit::daemon::{Answer, Daemon, answer, wait_for};
use lvp_testkit::require::command;
use serde_json::{Value, json};

use crate::certificates::{authority, client, https, issue, with_tls, with_tokens, write};
use crate::support::{World, metric};

pub(crate) const FULL: &str = "full-0123456789abcdef0123456789abcdef";
pub(crate) const READ: &str = "read-0123456789abcdef0123456789abcdef";

/// A route of each class, and a request for it that changes nothing when it is let through.
const ROUTES: [(&str, &str, &str); 9] = [
    ("health", "GET", "/health"),
    ("health", "GET", "/healthz"),
    ("health", "GET", "/livez"),
    ("health", "GET", "/readyz"),
    ("read", "GET", "/api/v1/jobs"),
    ("read", "GET", "/openapi.json"),
    ("nowhere", "GET", "/no/such/path"),
    ("change", "POST", "/api/v1/jobs"),
    ("change", "DELETE", "/api/v1/cache/images/x"),
];

/// What a route of a class answers to one who is let through.
fn let_through(class: &str) -> u16 {
    match class {
        "health" | "read" => 200,
        "nowhere" => 404,
        // The request has no body, or names no image.
        _ => 400,
    }
}

/// A caller's right, by the class of a route.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Caller {
    Nobody,
    Reader,
    Full,
}

fn expected(caller: Caller, class: &str) -> u16 {
    match (caller, class) {
        (_, "health") | (Caller::Full, _) | (Caller::Reader, "read" | "nowhere") => {
            let_through(class)
        }
        (Caller::Reader, _) => 403,
        (Caller::Nobody, _) => 401,
    }
}

fn both_tokens() -> String {
    format!("# who may do what\nci:{FULL}\ngrafana:read:{READ}\n")
}

async fn call(
    client: &reqwest::Client,
    base: &str,
    (method, route): (&str, &str),
    header: Option<(&str, &str)>,
) -> Answer {
    wait_for("an answer after the first probe", async || {
        let method = method.parse().expect("a method");
        let mut request = client.request(method, format!("{base}{route}"));
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let response = request.send().await.expect("an answer");
        let answer = answer(response).await.expect("a body");
        let is_early = route == "/readyz" && answer.status == 503;
        Some(answer).filter(|_| !is_early)
    })
    .await
}

pub(crate) fn audit(daemon: &Daemon) -> Vec<Value> {
    let lines = daemon.log().into_iter();
    lines.filter(|line| line["component"] == "audit").collect()
}

#[tokio::test]
async fn tokens_allow_what_their_role_permits_and_nothing_else_does() {
    let world = with_tokens(World::new().await, &both_tokens());
    let daemon = world.start();
    let client = reqwest::Client::new();
    let bearer = |token: &str| Some(("authorization", format!("Bearer {token}")));
    let key = |token: &str| Some(("x-api-token", token.to_owned()));
    for (credential, caller) in [
        (None, Caller::Nobody),
        (bearer("wrong"), Caller::Nobody),
        (key(&FULL[1..]), Caller::Nobody),
        // The line's name and role are no part of the token.
        (bearer(&format!("ci:{FULL}")), Caller::Nobody),
        (Some(("authorization", FULL.to_owned())), Caller::Nobody),
        (bearer(READ), Caller::Reader),
        (key(READ), Caller::Reader),
        (bearer(FULL), Caller::Full),
        (key(FULL), Caller::Full),
    ] {
        // Wrong tokens are limited: one address cannot try all routes with them.
        let routes = match (caller, &credential) {
            (Caller::Nobody, Some(_)) => &ROUTES[6..8],
            _ => &ROUTES[..],
        };
        for (class, method, route) in routes {
            let header = credential
                .as_ref()
                .map(|(name, value)| (*name, value.as_str()));
            let answer = call(&client, daemon.url(), (method, route), header).await;
            let expected = expected(caller, class);
            assert_eq!(
                answer.status, expected,
                "{credential:?} {route}: {answer:?}"
            );
            if expected == 401 {
                assert_eq!(
                    answer.body["error"], "authentication required",
                    "{answer:?}"
                );
                assert_eq!(answer.body["code"], 401, "{answer:?}");
                assert_eq!(answer.body["message"], answer.body["details"]);
                assert!(answer.headers["www-authenticate"].starts_with("Bearer"));
            }
        }
    }
    let log = daemon.log_text().join("\n");
    assert!(
        !log.contains(FULL) && !log.contains(READ),
        "a token is in the log"
    );
}

#[tokio::test]
async fn health_can_be_closed() {
    let world = with_tokens(World::new().await, &both_tokens()).with("OPEN_HEALTH", "false");
    let daemon = world.start();
    let client = reqwest::Client::new();
    for (class, method, route) in ROUTES.iter().filter(|route| route.0 == "health") {
        let answer = call(&client, daemon.url(), (method, route), None).await;
        assert_eq!(answer.status, 401, "{class} {route}");
        let header = Some(("x-api-token", READ));
        let answer = call(&client, daemon.url(), (method, route), header).await;
        assert_eq!(answer.status, 200, "{class} {route}");
    }
}

#[tokio::test]
async fn without_credentials_only_this_host_is_listened_on_and_pages_of_other_sites_are_refused() {
    let world = World::new().await.with("HOST", "0.0.0.0");
    let daemon = world.start();
    assert!(
        daemon.url().starts_with("http://127.0.0.1:"),
        "{}",
        daemon.url()
    );
    let said = |line: &Value| {
        let message = line["message"].as_str();
        message.is_some_and(|text| text.contains("listening on loopback only"))
    };
    assert!(daemon.log().iter().any(said));
    let client = reqwest::Client::new();
    for (class, method, route) in ROUTES {
        let answer = call(&client, daemon.url(), (method, route), None).await;
        assert_eq!(answer.status, let_through(class), "{method} {route}");
        let header = Some(("sec-fetch-site", "cross-site"));
        let answer = call(&client, daemon.url(), (method, route), header).await;
        let expected = if class == "health" { 200 } else { 403 };
        assert_eq!(answer.status, expected, "{method} {route}");
    }
}

#[tokio::test]
async fn a_tokens_file_that_cannot_be_used_keeps_the_daemon_from_starting() {
    let world = World::new().await;
    let directory = world.home.path().to_owned();
    let missing = directory.join("missing");
    let cases = [
        (missing, "Cannot read the tokens file"),
        (
            write(&directory, "empty", "# none\n", 0o600),
            "There is no token",
        ),
        (
            write(&directory, "open", &both_tokens(), 0o644),
            "open to every user",
        ),
        (
            write(&directory, "line", &format!("a:{FULL}\nc d\n"), 0o600),
            "Line 2 of the tokens",
        ),
        (
            write(
                &directory,
                "weak",
                &format!("a:{FULL}\nold:hunter2\n"),
                0o600,
            ),
            "The token old in line 2",
        ),
        (fifo(&directory, "fifo"), "a FIFO"),
        (directory.clone(), "a directory"),
    ];
    let mut world = world;
    for (path, expected) in cases {
        world = world.with("API_TOKENS_FILE", &path.display().to_string());
        let error = world.home.start().expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
        assert!(
            !error.contains(FULL) && !error.contains("hunter2"),
            "{error}"
        );
    }
}

/// A FIFO, which holds up whoever opens it as if it were a file.
pub(crate) fn fifo(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    let made = command("mkfifo").arg("-m").arg("0600").arg(&path).status();
    assert!(made.expect("mkfifo starts").success());
    path
}

#[tokio::test]
async fn guessing_delays_wrong_tokens_and_never_a_correct_one() {
    let world = with_tokens(World::new().await, &both_tokens());
    let daemon = world.start();
    let client = reqwest::Client::new();
    let mut statuses = Vec::new();
    for guess in 0..12 {
        let guess = format!("Bearer guess-{guess}");
        let header = Some(("authorization", guess.as_str()));
        let began = Instant::now();
        let answer = call(&client, daemon.url(), ("GET", "/api/v1/jobs"), header).await;
        statuses.push(answer.status);
        if answer.status == 429 {
            assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
            assert!(
                began.elapsed() >= Duration::from_secs(1),
                "{:?}",
                began.elapsed()
            );
        }
    }
    assert_eq!(statuses[..10], [401; 10]);
    assert!(statuses.contains(&429), "{statuses:?}");
    // While wrong ones wait for their answers, too.
    let wrong = Some(("authorization", "Bearer guess-12"));
    let wrong = call(&client, daemon.url(), ("GET", "/api/v1/jobs"), wrong);
    let right = async {
        for (token, method, route, status) in [
            (READ, "GET", "/api/v1/jobs", 200),
            (FULL, "POST", "/api/v1/jobs", 400),
            (FULL, "GET", "/api/v1/jobs", 200),
        ] {
            let header = Some(("x-api-token", token));
            let answer = call(&client, daemon.url(), (method, route), header).await;
            assert_eq!(answer.status, status, "{answer:?}");
        }
    };
    let (wrong, ()) = tokio::join!(wrong, right);
    assert_eq!(
        wrong.status, 429,
        "what is wrong stays slow after what is right"
    );
    let answer = call(&client, daemon.url(), ("GET", "/health"), None).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn changed_tokens_take_effect_without_a_restart_and_invalid_files_change_nothing() {
    let world = with_tokens(World::new().await, &both_tokens());
    let daemon = world.start();
    let client = reqwest::Client::new();
    let status = async |token: &str| {
        let header = Some(("x-api-token", token));
        let answer = call(&client, daemon.url(), ("GET", "/api/v1/jobs"), header).await;
        answer.status
    };
    assert_eq!(status(FULL).await, 200);
    // By the change of the file.
    let new = "new-0123456789abcdef0123456789abcdef";
    write(world.home.path(), "tokens", &format!("ops:{new}\n"), 0o600);
    wait_for("the new token to count", async || {
        // Reading what is known says when, and guesses nothing.
        let read = daemon
            .log()
            .iter()
            .any(|line| line["message"] == "Tokens read again");
        read.then_some(())
    })
    .await;
    assert_eq!((status(new).await, status(FULL).await), (200, 401));
    // By SIGHUP; what is broken leaves what was.
    write(world.home.path(), "tokens", "# none\n", 0o600);
    daemon.signal("HUP").expect("it is sent");
    let complaints = || {
        let log = daemon.log().into_iter();
        let complained = |line: &Value| {
            let message = line["message"].as_str();
            message.is_some_and(|text| text.contains("stay in force"))
        };
        log.filter(complained)
            .map(|line| line["error"].to_string())
            .collect::<Vec<_>>()
    };
    wait_for("the complaint", async || {
        (!complaints().is_empty()).then_some(())
    })
    .await;
    assert_eq!(status(new).await, 200);
    // Whatever stands there instead of the file.
    let path = world.home.path().join("tokens");
    std::fs::remove_file(&path).expect("it is there");
    fifo(world.home.path(), "tokens");
    wait_for("the complaint of a FIFO", async || {
        complaints()
            .iter()
            .any(|error| error.contains("a FIFO"))
            .then_some(())
    })
    .await;
    assert_eq!(status(new).await, 200);
    std::fs::remove_file(&path).expect("it is there");
    std::fs::create_dir(&path).expect("there is room");
    wait_for("the complaint of a directory", async || {
        complaints()
            .iter()
            .any(|error| error.contains("a directory"))
            .then_some(())
    })
    .await;
    assert_eq!(status(new).await, 200);
    daemon.signal("TERM").expect("it is sent");
    assert!(daemon.wait().expect("it ends").success(), "nothing hangs");
}

#[tokio::test]
async fn a_fifo_in_place_of_a_configured_file_does_not_block_the_daemon() {
    let ours = authority("ours");
    for (variable, expected) in [
        ("TLS_CERT_FILE", "Cannot read certificates"),
        ("TLS_KEY_FILE", "Cannot read a private key"),
        ("CLIENT_CA_CERT", "Cannot read certificates"),
        ("MINIO_CA_CERT", "minio.ca_cert"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "tracing.ca_cert"),
        ("LOG_FILE", "logging.file"),
    ] {
        let world = with_tls(World::new().await, &ours, &ours);
        let path = fifo(world.home.path(), "fifo").display().to_string();
        let world = world.with("OTEL_EXPORTER_OTLP_ENDPOINT", "https://localhost:1");
        let world = world.with(variable, &path);
        let error = world.home.start().expect_err(variable).to_string();
        assert!(
            error.contains(expected) && error.contains("a FIFO"),
            "{variable}: {error}"
        );
    }
    let world = World::new().await;
    let path = fifo(world.home.path(), "config.yaml").display().to_string();
    let output = world
        .home
        .run(&["config", "check", "--config", &path])
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("a FIFO"),
        "{said}"
    );
}

#[tokio::test]
async fn readiness_shows_states_to_everybody_and_reasons_to_those_who_may_read() {
    let (world, proxy) = World::with_faults().await;
    let world = with_tokens(world, &both_tokens());
    proxy.go_down().await;
    let daemon = world.start();
    let client = reqwest::Client::new();
    let ready = async |header: Option<(&str, &str)>| {
        wait_for("the first probe", async || {
            let mut request = client.get(format!("{}/readyz", daemon.url()));
            if let Some((name, value)) = header {
                request = request.header(name, value);
            }
            let answer = answer(request.send().await.ok()?).await.ok()?;
            assert_eq!(answer.status, 503, "{answer:?}");
            let minio = answer.body["dependencies"]["minio"].clone();
            (minio["up"] == false).then_some(answer)
        })
        .await
    };
    for header in [None, Some(("x-api-token", "wrong"))] {
        let answer = ready(header).await;
        let text = answer.body.to_string();
        let address = proxy.endpoint();
        let address = address.trim_start_matches("http://");
        assert!(
            !text.contains(address) && !text.contains("\"error\""),
            "{text}"
        );
        assert_eq!(answer.body["dependencies"]["dir"]["up"], true, "{text}");
    }
    for token in [READ, FULL] {
        let answer = ready(Some(("x-api-token", token))).await;
        let error = answer.body["dependencies"]["minio"]["error"].as_str();
        assert!(
            error.is_some_and(|error| error.contains("127.0.0.1")),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn every_change_is_audited_with_caller_address_subject_and_result() {
    let world = with_tokens(World::new().await, &both_tokens());
    let daemon = world.start();
    let client = reqwest::Client::new();
    let url = format!("{}/api/v1/jobs", daemon.url());
    let body = json!({"image_url": "s3://images/none.qcow2", "volume_name": "vm-1",
        "volume_size_gb": 1});
    for token in [FULL, READ, "wrong"] {
        let request = client.post(&url).bearer_auth(token).json(&body);
        request.send().await.expect("an answer");
        client
            .get(&url)
            .bearer_auth(token)
            .send()
            .await
            .expect("an answer");
    }
    let lines = wait_for("three lines", async || {
        Some(audit(&daemon)).filter(|lines| lines.len() >= 3)
    })
    .await;
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (line, (principal, status, result)) in lines.iter().zip([
        ("token:ci", 202, "done"),
        ("token:grafana", 403, "refused"),
        ("unknown", 401, "refused"),
    ]) {
        assert_eq!(line["principal"], principal, "{line}");
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["result"], result, "{line}");
        assert_eq!(line["method"], "POST", "{line}");
        assert_eq!(line["path"], "/api/v1/jobs", "{line}");
        let address = line["address"].as_str().unwrap_or_default();
        assert!(address.starts_with("127.0.0.1:"), "{line}");
    }
    assert_eq!(lines[0]["subject"], "volume vm-1");
    let fetch = client.post(format!("{}/api/v1/cache/fetch", daemon.url()));
    let body = json!({"image_url": "s3://images/none.qcow2"});
    let sent = fetch.bearer_auth(FULL).json(&body).send().await;
    sent.expect("an answer");
    let fetched = wait_for("a fourth line", async || audit(&daemon).into_iter().nth(3)).await;
    assert_eq!(fetched["subject"], "image s3://images/none.qcow2");
    assert!(lines[0]["job_id"].is_string(), "{}", lines[0]);
}

#[tokio::test]
async fn over_tls_a_valid_certificate_or_a_token_is_accepted_and_an_invalid_certificate_ends_the_connection()
 {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let world = with_tls(
        with_tokens(World::new().await, &both_tokens()),
        &ours,
        &ours,
    );
    let daemon = world.start();
    let base = https(&daemon);
    let bearer_full = format!("Bearer {FULL}");
    let bearer_read = format!("Bearer {READ}");
    let good = issue(&ours, "terraform", 30);
    for (certificate, token, caller) in [
        (None, None, Caller::Nobody),
        (None, Some(&bearer_read), Caller::Reader),
        (None, Some(&bearer_full), Caller::Full),
        (Some(&good), None, Caller::Full),
        (Some(&good), Some(&bearer_read), Caller::Full),
    ] {
        let client = client(&ours, certificate);
        for (class, method, route) in ROUTES {
            let header = token.map(|token| ("authorization", token.as_str()));
            let answer = call(&client, &base, (method, route), header).await;
            let expected = expected(caller, class);
            assert_eq!(
                answer.status, expected,
                "{caller:?} {method} {route}: {answer:?}"
            );
        }
    }
    let bad = [
        ("another CA's", issue(&theirs, "terraform", 30)),
        ("expired", issue(&ours, "terraform", -1)),
    ];
    for (what, certificate) in &bad {
        let client = client(&ours, Some(certificate));
        // Not even with a token, nor where anybody may go: what is shown must be valid.
        for route in ["/health", "/api/v1/jobs"] {
            let request = client.get(format!("{base}{route}")).bearer_auth(FULL);
            let sent = request.send().await;
            assert!(sent.is_err(), "{what} certificate on {route}: {sent:?}");
        }
    }
    let principals: Vec<_> = audit(&daemon)
        .iter()
        .map(|line| line["principal"].clone())
        .collect();
    for expected in ["unknown", "token:grafana", "token:ci", "cert:terraform"] {
        assert!(principals.contains(&expected.into()), "{principals:?}");
    }
    // Nobody listens for plain HTTP on this port.
    assert!(
        reqwest::get(format!("{}/health", daemon.url()))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_new_certificate_and_a_new_client_ca_take_effect_without_a_restart() {
    let (old, new) = (authority("old"), authority("new"));
    let world = with_tls(World::new().await, &old, &old);
    let daemon = world.start();
    let base = https(&daemon);
    let route = ("GET", "/api/v1/jobs");
    let (old_client, new_client) = (issue(&old, "old", 30), issue(&new, "new", 30));
    let answer = call(&client(&old, Some(&old_client)), &base, route, None).await;
    assert_eq!(answer.status, 200);
    let refused = client(&old, Some(&new_client)).get(format!("{base}/health"));
    assert!(refused.send().await.is_err());

    let (certificate, key) = issue(&new, "server", 30);
    write(world.home.path(), "server.pem", &certificate, 0o600);
    write(world.home.path(), "server.key", &key, 0o600);
    write(world.home.path(), "ca.pem", &new.pem(), 0o600);
    daemon.signal("HUP").expect("it is sent");
    wait_for("the new certificates to count", async || {
        let client = client(&new, Some(&new_client));
        let request = client.get(format!("{base}/api/v1/jobs")).send();
        let status = request.await.ok()?.status();
        (status == 200).then_some(())
    })
    .await;
    let refused = client(&new, Some(&old_client)).get(format!("{base}/health"));
    assert!(refused.send().await.is_err());
}

#[tokio::test]
async fn a_client_ca_without_a_server_certificate_is_refused_by_name() {
    let world = World::new().await.with("CLIENT_CA_CERT", "/etc/ca.pem");
    let error = world.home.start().expect_err("no TLS to show it on");
    let error = error.to_string();
    assert!(
        error.contains("server.ca_cert needs server.tls_cert"),
        "{error}"
    );
}

#[tokio::test]
async fn certificate_expiry_and_failed_attempts_are_in_the_metrics() {
    let ours = authority("ours");
    let world = with_tls(
        with_tokens(World::new().await, &both_tokens()),
        &ours,
        &ours,
    );
    let daemon = world.start().over_tls(client(&ours, None));
    let anonymous = client(&ours, None);
    let jobs = format!("{}/api/v1/jobs", daemon.url());
    for token in [None, Some("wrong"), Some(READ)] {
        let mut request = anonymous.post(&jobs);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.expect("an answer");
    }
    let expired = client(&ours, Some(&issue(&ours, "terraform", -1)));
    assert!(expired.get(&jobs).send().await.is_err());
    for reason in ["missing", "token", "role", "certificate"] {
        let series = format!("access_failures_total{{reason=\"{reason}\"}}");
        // The server may learn after its client that a handshake failed.
        wait_for(reason, async || {
            (metric(&daemon, &series).await? == 1.0).then_some(())
        })
        .await;
    }
    let limited = metric(&daemon, r#"access_failures_total{reason="limited"}"#).await;
    assert_eq!(limited, Some(0.0));
    let now = time::OffsetDateTime::now_utc().unix_timestamp() as f64;
    let series = |name| format!("certificate_expiry_timestamp_seconds{{certificate=\"{name}\"}}");
    let days = async |name| (metric(&daemon, &series(name)).await.expect(name) - now) / 86_400.0;
    let server = days("server").await;
    assert!((29.9..30.1).contains(&server), "{server} days");
    assert!(days("client_ca").await > 365.0);

    // A renewed one is seen without a restart.
    let (certificate, key) = issue(&ours, "server", 90);
    write(world.home.path(), "server.pem", &certificate, 0o600);
    write(world.home.path(), "server.key", &key, 0o600);
    daemon.signal("HUP").expect("it is sent");
    wait_for("the new end", async || {
        (days("server").await > 89.0).then_some(())
    })
    .await;
}
