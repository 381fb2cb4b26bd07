//! Who gets in: every credential on every class of route, over plain HTTP and over TLS.

mod files;
mod tls;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lvp_testkit::daemon::{Answer, Daemon, answer, wait_for};
use lvp_testkit::require::command;
use serde_json::{Value, json};

use crate::certificates::{authority, client, https, issue, with_tls, with_tokens, write};
use crate::support::{World, metric};

pub(crate) const FULL: &str = "full-0123456789abcdef0123456789abcdef";
pub(crate) const READ: &str = "read-0123456789abcdef0123456789abcdef";

/// A route of each class, with a request that changes nothing if it is accepted.
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

/// The status of a class of routes for a caller who is let through.
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
        // The name and role in the line are not part of the token.
        (bearer(&format!("ci:{FULL}")), Caller::Nobody),
        (Some(("authorization", FULL.to_owned())), Caller::Nobody),
        (bearer(READ), Caller::Reader),
        (key(READ), Caller::Reader),
        (bearer(FULL), Caller::Full),
        (key(FULL), Caller::Full),
    ] {
        // Wrong tokens are rate-limited: one address cannot try all routes with them.
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
    // Even while wrong ones wait for their answers.
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
        "a wrong token is still slow after a correct one"
    );
    let answer = call(&client, daemon.url(), ("GET", "/health"), None).await;
    assert_eq!(answer.status, 200);
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
