//! The page for people, in a real browser (tests/page/drive.py), and as HTTP has it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::Stdio;

use lvp_api::JobState;
use lvp_testkit::require::{command, find_program, require};
use reqwest::Client;
use serde_json::{Value, json};

use crate::access::{FULL, READ};
use crate::certificates::{authority, https, issue, with_tls, with_tokens, write};
use crate::support::{MIB, World, completed, ended, image};

/// A world whose daemon asks for tokens.
async fn world() -> World {
    let tokens = format!("ci:provision:{FULL}\ngrafana:read:{READ}\n");
    with_tokens(World::new().await, &tokens)
}

fn small() -> Vec<u8> {
    image(8 * MIB, 20, 3).build()
}

/// Lets the browser play a scenario; `act` does what it asks for. False when there is no browser.
pub(crate) async fn play(scenario: &str, url: &str, act: impl AsyncFnMut(&str)) -> bool {
    play_with(scenario, url, json!({}), act).await
}

/// The same, and the scenario knows more.
async fn play_with(scenario: &str, url: &str, more: Value, mut act: impl AsyncFnMut(&str)) -> bool {
    if !require("browser") {
        return false;
    }
    let mut world = json!({
        "url": url,
        "full": FULL,
        "read": READ,
        "secrets": [FULL, READ],
        "image": "s3://images/debian.qcow2",
        "missing": "s3://images/missing.qcow2",
        "slow": "s3://images/slow.qcow2",
        "chromium": find_program("chromium"),
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        world[name] = value.clone();
    }
    let playwright = find_program("playwright").expect("it was required");
    // The Python that has the packages.
    let python = playwright.with_file_name("python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/drive.py");
    let mut driver = command(python)
        .arg(script)
        .args([scenario, &world.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let mut answers = driver.stdin.take().expect("it was piped");
    let (lines, mut said) = tokio::sync::mpsc::unbounded_channel();
    let output = BufReader::new(driver.stdout.take().expect("it was piped"));
    let reader = std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            lines.send(line).ok();
        }
    });
    while let Some(line) = said.recv().await {
        match line.strip_prefix("now: ") {
            Some(what) => {
                act(what).await;
                writeln!(answers, "done").expect("it listens");
            }
            #[expect(
                clippy::print_stderr,
                reason = "a failed test shows what the browser did"
            )]
            None => eprintln!("{line}"),
        }
    }
    reader.join().expect("it only reads");
    let status = driver.wait().expect("it ends");
    assert!(status.success(), "{scenario}: {status}");
    true
}

async fn no_act(what: &str) {
    panic!("the browser asks to {what}");
}

#[tokio::test]
async fn a_browser_signs_in_provisions_watches_cancels_retries_and_deletes() {
    let world = world().await.with("MINIO_MAX_READ_BYTES_PER_SEC", "4M");
    // Two seconds and more at the limit: a plot of rates needs several samples to draw.
    world.put("debian.qcow2", &image(16 * MIB, 160, 3).build());
    world.put("slow.qcow2", &image(256 * MIB, 3000, 5).build());
    let daemon = world.start().with_token(FULL);
    play("journey", daemon.url(), async |what| {
        assert_eq!(what, "put the missing image");
        world.put("missing.qcow2", &image(8 * MIB, 20, 9).build());
    })
    .await;
}

#[tokio::test]
async fn a_page_outlives_its_daemon_and_goes_on_when_it_is_back() {
    let world = world().await;
    let url = world.put("debian.qcow2", &small());
    // The same address for both: the page knows no other.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    drop(listener);
    let world = world.with("PORT", &port.to_string());
    let first = world.start().with_token(FULL);
    let address = first.url().to_owned();
    let mut running = Some(first);
    play("away", &address, async |what| match what {
        "kill the daemon" => {
            let daemon = running.take().expect("it runs");
            daemon.kill().expect("it is killed");
        }
        "start the daemon, and a job of back-1" => {
            let daemon = world.start().with_token(FULL);
            completed(&daemon, &url, "back-1", 8 * MIB).await;
            running = Some(daemon);
        }
        other => panic!("the browser asks to {other}"),
    })
    .await;
}

#[tokio::test]
async fn a_reader_sees_everything_and_is_told_what_it_may_not() {
    let world = world().await;
    let url = world.put("debian.qcow2", &small());
    let daemon = world.start().with_token(FULL);
    completed(&daemon, &url, "web-1", 8 * MIB).await;
    let status = ended(&daemon, "s3://images/none.qcow2", "web-2", 8 * MIB).await;
    assert_eq!(status.status, JobState::Failed, "{status:?}");
    play("reader", daemon.url(), no_act).await;
}

#[tokio::test]
async fn a_client_certificate_signs_in_without_a_token() {
    let (servers, clients) = (authority("servers"), authority("clients"));
    let world = with_tls(world().await, &servers, &clients);
    let daemon = world.start();
    let (certificate, key) = issue(&clients, "operator", 30);
    let file = |name, text: &str| write(world.home.path(), name, text, 0o600);
    let more = json!({
        "certificate": file("operator.pem", &certificate),
        "key": file("operator.key", &key),
    });
    play_with("certificate", &https(&daemon), more, no_act).await;
}

#[tokio::test]
async fn hostile_texts_in_every_field_are_shown_and_not_run() {
    let world = world().await;
    let daemon = world.start();
    play("hostile", daemon.url(), no_act).await;
}

#[tokio::test]
async fn ten_thousand_jobs_scroll() {
    let world = world().await;
    let daemon = world.start();
    play("many", daemon.url(), no_act).await;
}

#[tokio::test]
async fn what_the_daemon_says_is_there_soon_after_the_first_paint() {
    let world = world().await;
    let url = world.put("debian.qcow2", &small());
    let daemon = world.start().with_token(FULL);
    completed(&daemon, &url, "web-1", 8 * MIB).await;
    play("paint", daemon.url(), no_act).await;
}

#[tokio::test]
async fn changes_below_what_was_read_cost_no_list_each() {
    let world = world().await;
    let daemon = world.start();
    play("changes", daemon.url(), no_act).await;
}

#[tokio::test]
async fn the_page_fits_narrow_and_wide_windows_in_both_themes() {
    let world = world().await;
    let url = world.put("debian.qcow2", &small());
    let daemon = world.start().with_token(FULL);
    completed(
        &daemon,
        &url,
        "a-volume-with-a-name-that-is-rather-long-for-a-telephone",
        8 * MIB,
    )
    .await;
    play("narrow", daemon.url(), no_act).await;
}

#[tokio::test]
async fn below_a_proxys_path_nothing_is_asked_for_outside_of_it() {
    let world = world().await;
    let daemon = world.start();
    play("prefix", daemon.url(), no_act).await;
}

#[tokio::test]
async fn keys_alone_reach_everything_and_show_where_they_are() {
    let world = world().await;
    let url = world.put("debian.qcow2", &small());
    let daemon = world.start().with_token(FULL);
    completed(&daemon, &url, "web-1", 8 * MIB).await;
    play("keyboard", daemon.url(), no_act).await;
}

#[tokio::test]
async fn the_page_is_static_files_without_a_credential_that_run_no_other_code() {
    let world = world().await;
    let daemon = world.start();
    let client = Client::new();
    let get = async |path: &str, name: &str, value: &str| {
        let request = client.get(format!("{}{path}", daemon.url()));
        request.header(name, value).send().await.expect("an answer")
    };
    let page = get("/", "accept", "text/html").await;
    assert_eq!(page.status(), 200);
    let header = |answer: &reqwest::Response, name: &str| {
        let value = answer.headers().get(name).expect(name);
        value.to_str().expect("text").to_owned()
    };
    assert_eq!(header(&page, "content-type"), "text/html; charset=utf-8");
    let policy = header(&page, "content-security-policy");
    for part in [
        "default-src 'none'",
        "script-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(page.headers().get("set-cookie").is_none());
    let tag = header(&page, "etag");
    let again = get("/", "if-none-match", &tag).await;
    assert_eq!(again.status(), 304);
    assert_eq!(again.bytes().await.expect("no body").len(), 0);
    // Each form has a validator of its own.
    let packed = get("/ui/main.js", "accept-encoding", "gzip").await;
    assert_eq!(header(&packed, "content-encoding"), "gzip");
    let plain = get("/ui/main.js", "accept-encoding", "identity").await;
    assert!(plain.headers().get("content-encoding").is_none());
    assert_ne!(header(&packed, "etag"), header(&plain, "etag"));
    let (packed, plain) = (packed.bytes().await, plain.bytes().await);
    assert!(packed.expect("a body").len() < plain.expect("a body").len());
    // No other file, and no other method.
    for path in ["/ui/none.js", "/ui/..%2f..%2fetc%2fpasswd", "/ui/"] {
        assert_eq!(
            get(path, "accept", "*/*").await.status().as_u16() / 100,
            4,
            "{path}"
        );
    }
    let posted = client.post(format!("{}/", daemon.url())).send().await;
    assert_eq!(posted.expect("an answer").status(), 401);
}

#[tokio::test]
async fn a_page_that_is_switched_off_is_nothing_at_all() {
    let world = world().await.with("UI_ENABLED", "false");
    let daemon = world.start().with_token(FULL);
    for path in ["/", "/ui/main.js"] {
        let answer = daemon.call("GET", path, None).await.expect("an answer");
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
    }
    let anonymous = Client::new().get(format!("{}/", daemon.url())).send();
    assert_eq!(anonymous.await.expect("an answer").status(), 401);
}
