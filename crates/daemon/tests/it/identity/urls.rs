//! URLs whose query names an object, and URLs whose query signs a request.

use super::*;

/// The signature in the URLs of these tests.
const SIGNATURE: &str = "c2VjcmV0LW9mLWEtcHJlLXNpZ25lZC11cmw";

#[tokio::test]
async fn objects_whose_urls_differ_only_in_the_query_do_not_get_each_others_bytes() {
    let host = Host::new().await;
    let (one, other) = (vec![b'A'; 1 << 20], vec![b'B'; 1 << 20]);
    let url = host.put("file", &one);
    let daemon = host.home.start().expect("the daemon starts");
    // One path, one size and one tag, as of a script that serves files.
    host.proxy.inject(
        Rule::new(Fault::OtherBytes(other.clone().into()))
            .when(|request| request.target.contains("file=b")),
    );
    for (name, bytes, hit) in [
        ("a", &one, false),
        ("b", &other, false),
        ("a", &one, true),
        ("b", &other, true),
    ] {
        let status = raw(&daemon, &format!("{url}?file={name}"), name, 1 << 20).await;
        assert_eq!(
            (status.status, status.cache_hit),
            (JobState::Completed, Some(hit)),
            "{name}: {status:?}"
        );
        assert!(
            fs::read(host.home.volume(name)).expect("a volume") == **bytes,
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_url_that_is_signed_anew_is_the_same_object() {
    let host = Host::new().await;
    let url = host.put("a.raw", &vec![b'A'; 1 << 20]);
    let daemon = host.home.start().expect("the daemon starts");
    for (signature, hit) in [("one", false), ("two", true)] {
        let url = format!("{url}?sv=2022-11-02&se=2030&sig={signature}");
        let status = raw(&daemon, &url, "vm", 1 << 20).await;
        assert_eq!(
            (status.status, status.cache_hit),
            (JobState::Completed, Some(hit)),
            "{status:?}"
        );
    }
}

/// Everything that a daemon has written, by file.
fn written(home: &Home) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(home.path()).expect("a directory").flatten() {
        if entry.path().is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push((name, fs::read(entry.path()).expect("it can be read")));
        }
    }
    files
}

fn assert_is_secret(home: &Home, daemon: &Daemon) {
    for (name, bytes) in written(home) {
        let found = bytes
            .windows(SIGNATURE.len())
            .any(|window| window == SIGNATURE.as_bytes());
        assert!(!found, "{name} has the signature in clear");
    }
    let log = daemon.log_text().join("\n");
    assert!(!log.contains(SIGNATURE), "{log}");
}

#[tokio::test]
async fn a_urls_signature_survives_a_restart_without_being_stored_unencrypted() {
    let host = Host::new().await;
    let bytes = vec![b'A'; 8 << 20];
    let url = format!("{}?sv=2022&sig={SIGNATURE}", host.put("a.raw", &bytes));
    host.proxy
        .inject(Rule::new(Fault::StallAt(1000)).method("GET"));
    let daemon = host.home.start().expect("the daemon starts");
    let request = json!({
        "image_url": url, "volume_name": "vm", "volume_size_bytes": bytes.len(),
        "image_type": "raw",
    });
    let job = daemon.submit("/api/v1/jobs", request).await;
    let job = job.expect("it is accepted");
    wait_for("the server to stall", async || {
        (host.proxy.injected() > 0).then_some(())
    })
    .await;
    assert_is_secret(&host.home, &daemon);
    let shown = daemon.call("GET", "/api/v1/jobs", None).await;
    let shown = shown.expect("an answer").body.to_string();
    assert!(
        !shown.contains(SIGNATURE) && shown.contains("/images/a.raw"),
        "{shown}"
    );
    daemon.kill().expect("it is killed");
    let backup = host
        .home
        .run(&["db", "backup", "copy.db"])
        .expect("it runs");
    assert!(backup.status.success(), "{backup:?}");

    host.proxy.clear();
    let daemon = host.home.start().expect("the daemon starts");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(
        host.proxy
            .requests()
            .iter()
            .all(|request| request.target.contains(SIGNATURE)),
        "the whole URL is asked for"
    );
    assert!(fs::read(host.home.volume("vm")).expect("a volume") == bytes);
    assert_is_secret(&host.home, &daemon);
    let images: CachedImages = daemon.get("/api/v1/cache/images").await.expect("a list");
    assert!(!images.images[0].image_url.contains('?'));
}

#[tokio::test]
async fn a_job_whose_url_can_no_longer_be_decrypted_fails_with_a_remedy() {
    let host = Host::new().await;
    let url = format!(
        "{}?sv=2022&sig={SIGNATURE}",
        host.put("a.raw", &[b'A'; 4096])
    );
    host.proxy
        .inject(Rule::new(Fault::StallAt(10)).method("GET"));
    let daemon = host.home.start().expect("the daemon starts");
    let fetch = json!({"image_url": url, "image_type": "raw"});
    let job = daemon.submit("/api/v1/cache/fetch", fetch).await;
    let job = job.expect("it is accepted");
    wait_for("the server to stall", async || {
        (host.proxy.injected() > 0).then_some(())
    })
    .await;
    daemon.kill().expect("it is killed");
    host.proxy.clear();
    fs::remove_file(host.home.path().join("jobs.db.key")).expect("it was made");
    let daemon = host.home.start().expect("the daemon starts");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(
        (status.status, status.error_type.as_deref()),
        (JobState::Failed, Some("url_unreadable")),
        "{status:?}"
    );
    assert!(host.proxy.requests().is_empty());
    assert_is_secret(&host.home, &daemon);
}
