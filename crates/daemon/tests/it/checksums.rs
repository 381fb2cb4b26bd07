//! What an image is verified against: the request, its own checksum file, its directory's, or nothing.

use std::fs;

use lvp_api::{JobState, JobStatus, Verified};
use lvp_testkit::daemon::Daemon;
use lvp_testkit::require::command;
use serde_json::{Value, json};

use crate::support::{MIB, World, holds, image};

const WRONG: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// The output of `sha256sum` or a similar tool for these bytes.
fn sum(program: &str, world: &World, bytes: &[u8]) -> String {
    let file = world.home.path().join("summed");
    fs::write(&file, bytes).expect("there is room");
    let output = command(program).arg(&file).output().expect("it starts");
    let text = String::from_utf8(output.stdout).expect("it is text");
    text.split(' ').next().expect("it has a digest").to_owned()
}

fn put(world: &World, key: &str, bytes: &[u8]) {
    let objects = world.s3.objects();
    objects.put("images", key, bytes).expect("it is written");
}

async fn run(daemon: &Daemon, key: &str, checksum: Option<&str>) -> JobStatus {
    let mut body = json!({
        "image_url": format!("s3://images/{key}"), "volume_name": key.replace(['/', '.'], "-"),
        "volume_size_bytes": 32 * MIB,
    });
    if let Some(checksum) = checksum {
        body["checksum"] = json!(checksum);
    }
    let job = daemon
        .submit("/provision", body)
        .await
        .expect("it is accepted");
    daemon.ended(&job).await.expect("it ends")
}

#[tokio::test]
async fn a_job_reports_what_its_image_was_verified_against() {
    let world = World::new().await;
    let daemon = world.start();
    let builder = image(8 * MIB, 20, 5);
    let bytes = builder.build();
    let (sha256, sha512) = (
        sum("sha256sum", &world, &bytes),
        sum("sha512sum", &world, &bytes),
    );
    let named = |digest: &str| format!("{WRONG}  other\n{digest}  a.qcow2\n");
    let (of_256, of_512) = (format!("sha256:{sha256}"), format!("sha512:{sha512}"));
    let cases: [(&str, &str, String, Option<&str>, Verified); 11] = [
        ("n", "", String::new(), None, Verified::None),
        ("r", "", String::new(), Some(&of_256), Verified::Request),
        ("q", "", String::new(), Some(&of_512), Verified::Request),
        (
            "a",
            "a.qcow2.sha256",
            format!("{sha256}  build-6.qcow2\n"),
            None,
            Verified::Sidecar,
        ),
        (
            "b",
            "a.qcow2.SHA256",
            format!("SHA2-256(x)= {sha256}\n"),
            None,
            Verified::Sidecar,
        ),
        (
            "c",
            "a.qcow2.sha256sum",
            format!("{sha256} *a.qcow2\r\n"),
            None,
            Verified::Sidecar,
        ),
        (
            "d",
            "a.qcow2.sha512",
            format!("{sha512}  a.qcow2\n"),
            None,
            Verified::Sidecar,
        ),
        ("e", "SHA256SUMS", named(&sha256), None, Verified::Sums),
        ("f", "SHA512SUMS", named(&sha512), None, Verified::Sums),
        (
            "g",
            "CHECKSUM",
            format!("SHA256 (a.qcow2) = {sha256}\n"),
            None,
            Verified::Sums,
        ),
        (
            "h",
            "SHA256SUMS",
            format!("{WRONG}  other\n"),
            None,
            Verified::None,
        ),
    ];
    for (directory, file, text, checksum, verified) in cases {
        let key = format!("{directory}/a.qcow2");
        put(&world, &key, &bytes);
        if !file.is_empty() {
            put(&world, &format!("{directory}/{file}"), text.as_bytes());
        }
        let status = run(&daemon, &key, checksum).await;
        assert_eq!(status.status, JobState::Completed, "{file}: {status:?}");
        assert_eq!(status.verified, Some(verified), "{file}");
        let volume = world.home.volume(&key.replace(['/', '.'], "-"));
        assert!(
            holds(&volume, &builder.disk()),
            "{file}: the volume is wrong"
        );
    }
    let metrics = daemon.call("GET", "/metrics", None).await;
    let metrics = metrics.expect("it answers").body;
    let metrics = metrics.as_str().expect("it is text");
    for (word, count) in [("none", 2), ("request", 2), ("sidecar", 4), ("sums", 3)] {
        let line = format!("images_verified_total{{verified=\"{word}\"}} {count}");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
    let said = |line: &Value| line["verified"] == "sums";
    assert!(daemon.log().iter().any(said), "the log says it");
}

#[tokio::test]
async fn a_wrong_digest_from_any_source_keeps_an_image_off_its_volume() {
    let world = World::new().await;
    let daemon = world.start();
    let bytes = image(8 * MIB, 20, 6).build();
    let sha256 = sum("sha256sum", &world, &bytes);
    let zeros = "0".repeat(128);
    let (request_256, request_512) = (format!("sha256:{WRONG}"), format!("sha512:{zeros}"));
    let cases: [(&str, &str, String, Option<&str>, &str); 8] = [
        (
            "r",
            "",
            String::new(),
            Some(&request_256),
            "the request's checksum",
        ),
        ("q", "", String::new(), Some(&request_512), "SHA-512"),
        (
            "a",
            "a.qcow2.sha256",
            WRONG.to_owned(),
            None,
            "its .sha256 object",
        ),
        (
            "b",
            "a.qcow2.SHA256",
            WRONG.to_owned(),
            None,
            "its .SHA256 object",
        ),
        (
            "c",
            "a.qcow2.sha256sum",
            WRONG.to_owned(),
            None,
            "its .sha256sum object",
        ),
        (
            "d",
            "a.qcow2.sha512",
            zeros.clone(),
            None,
            "its .sha512 object",
        ),
        (
            "e",
            "SHA256SUMS",
            format!("{WRONG}  a.qcow2\n"),
            None,
            "its directory's SHA256SUMS",
        ),
        (
            "f",
            "CHECKSUM",
            format!("SHA512 (a.qcow2) = {zeros}\n"),
            None,
            "its directory's CHECKSUM",
        ),
    ];
    for (directory, file, text, checksum, words) in cases {
        let key = format!("{directory}/a.qcow2");
        put(&world, &key, &bytes);
        if !file.is_empty() {
            put(&world, &format!("{directory}/{file}"), text.as_bytes());
        }
        let status = run(&daemon, &key, checksum).await;
        assert_eq!(
            status.error_type.as_deref(),
            Some("digest_mismatch"),
            "{file}: {status:?}"
        );
        let error = status.error.expect("there is one");
        assert!(error.contains(words), "{file}: {error}");
    }
    assert_eq!(world.home.cache_files(), Vec::<String>::new());
    // Two that disagree count as none.
    put(&world, "z/a.qcow2", &bytes);
    put(&world, "z/a.qcow2.sha256", sha256.as_bytes());
    put(
        &world,
        "z/SHA256SUMS",
        format!("{WRONG}  a.qcow2\n").as_bytes(),
    );
    for checksum in [None, Some(format!("sha256:{sha256}"))] {
        let status = run(&daemon, "z/a.qcow2", checksum.as_deref()).await;
        assert_eq!(
            status.error_type.as_deref(),
            Some("sidecar_invalid"),
            "{status:?}"
        );
        assert!(status.error.expect("there is one").contains("disagree"));
    }
}

#[tokio::test]
async fn a_cached_image_has_to_have_its_sha512_too() {
    let world = World::new().await;
    let daemon = world.start();
    let bytes = image(8 * MIB, 20, 7).build();
    put(&world, "a.qcow2", &bytes);
    let right = format!("sha512:{}", sum("sha512sum", &world, &bytes));
    let first = run(&daemon, "a.qcow2", None).await;
    assert_eq!(
        (first.status, first.cache_hit),
        (JobState::Completed, Some(false))
    );
    let wrong = run(
        &daemon,
        "a.qcow2",
        Some(&format!("sha512:{}", "0".repeat(128))),
    )
    .await;
    assert_eq!(
        wrong.error_type.as_deref(),
        Some("digest_mismatch"),
        "{wrong:?}"
    );
    let again = run(&daemon, "a.qcow2", Some(&right)).await;
    assert_eq!(
        (again.status, again.cache_hit),
        (JobState::Completed, Some(true)),
        "{again:?}"
    );
    let refused = daemon
        .submit("/provision", json!({
            "image_url": "s3://images/a.qcow2", "volume_name": "v", "volume_size_bytes": 32 * MIB,
            "checksum": "md5:00",
        }))
        .await
        .expect_err("it is no checksum");
    assert!(refused.to_string().contains("sha256:HEX"), "{refused}");
}
