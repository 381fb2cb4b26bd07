//! The real `lvpctl` against the real daemon: every call, and the certificates that it makes.

use std::path::Path;
use std::process::Output;

use lvp_testkit::daemon::wait_for;
use lvp_testkit::require::{command, require};
use serde_json::Value;

use crate::access::audit;
use crate::certificates::{https, write};
use crate::support::{MIB, World, holds, image};

pub(crate) fn lvpctl(endpoint: &str, arguments: &[&str]) -> Output {
    command("lvpctl")
        .args(arguments)
        .env_clear()
        .env("LVP_ENDPOINT", endpoint)
        .output()
        .expect("lvpctl starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_the_api_works_from_the_command_line() {
    if !require("lvpctl") {
        return;
    }
    let world = World::new().await;
    let builder = image(4 * MIB, 8, 1);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    // It listens before it has looked at what it depends on.
    wait_for("readiness", async || {
        let answer = daemon.call("GET", "/readyz", None).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    let run = |arguments: &[&str], code: i32| {
        let output = lvpctl(daemon.url(), arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        stdout(&output)
    };
    wait_for("the first probes", async || {
        let answer = daemon.call("GET", "/readyz", None).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    run(&["health"], 0);
    let fetched = run(&["cache", "fetch", &url, "--wait", "-o", "json"], 0);
    assert!(fetched.contains("\"completed\""), "{fetched}");
    let provision = ["provision", &url, "vm-1", "--size", "4M"];
    let job = run(&[&provision[..], &["-o", "name"]].concat(), 0);
    let job = job.trim();
    let watched = run(&["watch", job], 0);
    assert!(watched.contains("completed"), "{watched}");
    assert!(holds(&world.home.volume("vm-1"), &builder.disk()));
    let status: Value =
        serde_json::from_str(&run(&["status", job, "-o", "json"], 0)).expect("JSON");
    assert_eq!(status["cache_hit"], true, "{status}");
    let again = run(
        &[&provision[..], &["--wait", "--timeout", "60s"]].concat(),
        0,
    );
    assert!(again.contains("  completed\n"), "{again}");
    assert_eq!(run(&["jobs", "-o", "name"], 0).lines().count(), 3);
    assert_eq!(run(&["volumes", "-o", "name"], 0).trim(), "vm-1");
    let key = run(&["cache", "ls", "-o", "name"], 0);
    run(&["cache", "rm", key.trim()], 0);
    run(&["cache", "rm", key.trim()], 4);
    run(&["cancel", job], 5);
    run(&["status", "6c8a5b4e-0d6f-4a53-9d5b-0f4e1f6b7a01"], 4);
    let none = [
        "provision",
        "s3://images/none.qcow2",
        "vm-2",
        "--size",
        "4M",
        "--wait",
    ];
    let failed = run(&none, 1);
    assert!(failed.contains("not_found"), "{failed}");
    // This daemon has no libvirt.
    let file = world.home.path().join("seed.iso");
    std::fs::write(&file, "seed").expect("there is room");
    run(&["upload", &file.display().to_string(), "seed.iso"], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_tokens_made_by_lvpctl_are_accepted_and_nothing_less_is() {
    if !require("lvpctl") {
        return;
    }
    let world = World::new().await;
    let directory = world.home.path().join("tls");
    let path = |name: &str| directory.join(name).display().to_string();
    let made = lvpctl(
        "",
        &[
            "cert",
            "init",
            &directory.display().to_string(),
            "--client",
            "ci",
        ],
    );
    assert!(made.status.success(), "{made:?}");
    let token = lvpctl("", &["token", "new", "--name", "grafana", "--role", "read"]);
    let tokens = world.home.path().join("tokens");
    write(world.home.path(), "tokens", &stdout(&token), 0o600);
    let world = world
        .with("TLS_CERT_FILE", &path("server.pem"))
        .with("TLS_KEY_FILE", &path("server.key"))
        .with("CLIENT_CA_CERT", &path("ca.pem"))
        .with("API_TOKENS_FILE", &tokens.display().to_string());
    let daemon = world.start();
    let endpoint = https(&daemon);
    let (ca, cert, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
    let identity = [
        "--ca-cert",
        &ca,
        "--client-cert",
        &cert,
        "--client-key",
        &key,
    ];
    let run = |arguments: &[&str], code: i32| {
        let output = lvpctl(&endpoint, arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
    };
    run(&[&["jobs"], &identity[..]].concat(), 0);
    let unknown = ["cancel", "6c8a5b4e-0d6f-4a53-9d5b-0f4e1f6b7a01"];
    run(&[&unknown[..], &identity[..]].concat(), 4);
    run(&["jobs", "--ca-cert", &ca], 6);
    let secret = stdout(&token);
    let secret = secret.trim().rsplit(':').next().expect("a token");
    run(&["jobs", "--ca-cert", &ca, "--token", secret], 0);
    run(
        &[&unknown[..], &["--ca-cert", &ca, "--token", secret]].concat(),
        6,
    );
    // Without its authority the server is not believed.
    run(&["jobs"], 7);
    let lines = audit(&daemon);
    assert_eq!(lines[0]["principal"], "cert:ci", "{lines:#?}");
    assert_eq!(lines[1]["principal"], "token:grafana", "{lines:#?}");
    assert!(Path::new(&ca).exists());
    let report = crate::doctor::report(&world.home, &[]);
    for name in ["access", "access.tls", "access.tokens"] {
        assert_eq!(crate::doctor::check(&report, name).0, "ok", "{report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_tls_say_the_true_reason() {
    if !require("lvpctl") || !require("openssl") {
        return;
    }
    let cases = lvp_testkit::openssl::Cases::start().await;
    for case in &cases.expect("the servers start").cases {
        let ca = case.ca.as_ref().map(|ca| ca.display().to_string());
        let mut arguments = vec!["jobs"];
        arguments.extend(
            ca.as_deref()
                .map_or_else(Vec::new, |ca| vec!["--ca-cert", ca]),
        );
        let output = lvpctl(&case.endpoint, &arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        for word in case.words {
            assert!(
                said.contains(word),
                "{}: {word:?} is not in {said:?}",
                case.name
            );
        }
        assert_eq!(
            output.status.code() == Some(7),
            !case.words.is_empty(),
            "{}: {said}",
            case.name
        );
    }
}
