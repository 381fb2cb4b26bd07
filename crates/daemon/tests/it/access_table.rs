//! Tries each credential on each call that the API describes; the result is the table of
//! docs/security.md.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use lvp_testkit::daemon::Daemon;
use lvp_testkit::docs::check_section;
use lvp_testkit::require::{command, require};
use reqwest::{Client, Method};
use serde_json::Value;

use crate::access::{FULL, READ};
use crate::certificates::{authority, https, issue, with_tls, with_tokens};
use crate::support::World;

const BARE: &str = "bare-0123456789abcdef0123456789abcdef";

/// The classes of calls, as far as access is concerned: the columns of the table.
const CLASSES: [&str; 5] = [
    "health and `/metrics`",
    "the same, closed (1)",
    "`GET` of anything else",
    "changes",
    "paths that do not exist",
];

struct Credential {
    name: &'static str,
    token: Option<&'static str>,
    /// Certificate and key.
    certificate: Option<(String, String)>,
}

/// Every call in the daemon's own description, and two that are not in it.
async fn calls(daemon: &Daemon, client: &Client) -> Vec<(usize, Method, String)> {
    let document = client
        .get(format!("{}/openapi.json", https(daemon)))
        .bearer_auth(FULL)
        .send()
        .await
        .expect("an answer");
    let document: Value = document.json().await.expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let mut calls = Vec::new();
    for (path, methods) in paths {
        for method in methods.as_object().expect("methods").keys() {
            let class = match (path.as_str(), method.as_str()) {
                ("/health" | "/healthz" | "/livez" | "/readyz" | "/metrics", "get") => 0,
                (_, "get") => 2,
                _ => 3,
            };
            let path = path
                .replace("{id}", "6c8a5b4e-0d6f-4a53-9d5b-0f4e1f6b7a01")
                .replace("{key}", &"0".repeat(64));
            let method = method.to_uppercase().parse().expect("a method");
            calls.push((class, method, path));
        }
    }
    assert!(calls.len() >= 20, "{calls:?}");
    // The description itself is not part of it.
    for path in ["/openapi.json", "/docs"] {
        calls.push((2, Method::GET, path.to_owned()));
    }
    for path in ["/no/such/path", "/api/v1/nothing"] {
        calls.push((4, Method::GET, path.to_owned()));
    }
    calls
}

/// Clients of one credential, each call from another of this host's addresses: wrong tokens are
/// limited by address.
fn client(server: &str, certificate: Option<&(String, String)>, number: usize) -> Client {
    let root = reqwest::Certificate::from_pem(server.as_bytes()).expect("a certificate");
    let last = u8::try_from(number % 250 + 1).expect("it is small");
    let mut builder = Client::builder()
        .tls_certs_only([root])
        .local_address(std::net::IpAddr::from(Ipv4Addr::new(127, 0, 77, last)));
    if let Some((certificate, key)) = certificate {
        let pem = format!("{certificate}{key}");
        let identity = reqwest::Identity::from_pem(pem.as_bytes()).expect("an identity");
        builder = builder.identity(identity);
    }
    builder.build().expect("a client")
}

#[tokio::test]
async fn the_docs_hold_the_access_table_as_a_daemon_answers_it() {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let tokens = format!("ci:provision:{FULL}\ngrafana:read:{READ}\n{BARE}\n");
    let open = with_tls(with_tokens(World::new().await, &tokens), &ours, &ours);
    let open = (open.start(), open);
    let closed = with_tls(with_tokens(World::new().await, &tokens), &ours, &ours);
    let closed = closed
        .with("OPEN_HEALTH", "false")
        .with("OPEN_METRICS", "false");
    let closed = (closed.start(), closed);
    let plain = |name, token| Credential {
        name,
        token,
        certificate: None,
    };
    let certified = |name, token, certificate| Credential {
        name,
        token,
        certificate: Some(certificate),
    };
    let credentials = [
        plain("none", None),
        plain("wrong token", Some("wrong-0123456789abcdef0123456789")),
        plain("token with role `read`", Some(READ)),
        plain("token with role `provision`", Some(FULL)),
        plain("token without a role", Some(BARE)),
        certified(
            "client certificate of the CA",
            None,
            issue(&ours, "terraform", 30),
        ),
        certified(
            "client certificate of the CA, and a token with role `read`",
            Some(READ),
            issue(&ours, "terraform", 30),
        ),
        certified(
            "client certificate that has expired, even with a good token",
            Some(FULL),
            issue(&ours, "terraform", -1),
        ),
        certified(
            "client certificate of another CA, even with a good token",
            Some(FULL),
            issue(&theirs, "terraform", 30),
        ),
    ];
    let root = ours.pem();
    let calls = calls(&open.0, &client(&root, None, 0)).await;
    let mut table = format!("| credential | {} |\n", CLASSES.join(" | "));
    table.push_str(&format!("|---|{}\n", "---|".repeat(CLASSES.len())));
    let mut number = 0;
    for credential in &credentials {
        let mut found: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for (class, method, path) in &calls {
            let daemons: &[(usize, &Daemon)] = match class {
                0 => &[(0, &open.0), (1, &closed.0)],
                _ => &[(*class, &open.0)],
            };
            for (class, daemon) in daemons {
                number += 1;
                let client = client(&root, credential.certificate.as_ref(), number);
                let url = format!("{}{path}", https(daemon));
                let mut request = client.request(method.clone(), url);
                if let Some(token) = credential.token {
                    request = request.bearer_auth(token);
                }
                let outcome = match request.send().await {
                    Ok(answer) if matches!(answer.status().as_u16(), 401 | 403) => {
                        answer.status().as_str().to_owned()
                    }
                    Ok(answer) if *class == 4 => answer.status().as_str().to_owned(),
                    // Let through: the handler's answer to an empty request does not matter.
                    Ok(answer) => {
                        assert_ne!(answer.status().as_u16(), 429, "{path}");
                        "yes".to_owned()
                    }
                    Err(_) => "no connection".to_owned(),
                };
                found.entry(*class).or_default().insert(outcome);
            }
        }
        let cells: Vec<_> = found
            .values()
            .map(|outcomes| {
                // All calls of a class are treated alike.
                assert_eq!(outcomes.len(), 1, "{}: {outcomes:?}", credential.name);
                outcomes.iter().cloned().collect::<String>()
            })
            .collect();
        table.push_str(&format!(
            "| {} | {} |\n",
            credential.name,
            cells.join(" | ")
        ));
    }
    check_section("docs/security.md", "access", &table);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_of_tls_are_refused() {
    if !require("openssl") {
        return;
    }
    let ours = authority("ours");
    let world = with_tls(
        with_tokens(World::new().await, &format!("{FULL}\n")),
        &ours,
        &ours,
    );
    let daemon = world.start();
    let address = daemon.url().trim_start_matches("http://");
    for (version, works) in [("-tls1_3", true), ("-tls1_2", true), ("-tls1_1", false)] {
        let output = command("openssl")
            .args([
                "s_client",
                "-brief",
                version,
                "-cipher",
                "DEFAULT@SECLEVEL=0",
            ])
            .args(["-connect", address])
            .stdin(std::process::Stdio::null())
            .output()
            .expect("openssl starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), works, "{version}: {said}");
        if !works {
            // The server's alert, not openssl's own refusal.
            assert!(said.contains("SSL alert number"), "{said}");
        }
    }
}
