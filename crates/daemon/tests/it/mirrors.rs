//! Jobs whose images come from caches near the host.

use std::fs;

use lvp_api::JobState;
use lvp_testkit::fault::{Fault, FaultProxy, Rule};

use crate::support::{MIB, World, accepted, completed, ended, fetched, holds, image, metric};

const DISK: u64 = 24 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_of_a_mirror_fail_no_job_and_are_told() {
    let world = World::new().await;
    let mirror = FaultProxy::start(world.s3.address())
        .await
        .expect("a mirror");
    let url = mirror.endpoint();
    let world = world.with("MINIO_MIRRORS", &url);
    let builder = image(DISK, 300, 1);
    let source = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    // In the second range: the map is right, and a cluster is not.
    mirror.inject(Rule::new(Fault::WrongByte(70_000)).range_from(4 * MIB));
    let status = completed(&daemon, &source, "vm1", DISK).await;
    assert!(mirror.injected() > 0, "the fault was not met");
    let note = status.notes.iter().find(|note| note.contains("mirror"));
    assert_eq!(
        note.map(String::as_str),
        Some(
            "The image was refused, and bytes of it came from a mirror: the download started over \
             from the endpoint"
        ),
        "{status:?}"
    );
    assert!(holds(&world.home.volume("vm1"), &builder.disk()));
    let log = daemon.log_text().join("\n");
    assert!(log.contains("did not match its digest"), "{log}");
    // It is not asked for the next image.
    let asked = mirror.requests().len();
    let next = world.put("b.qcow2", &image(DISK, 300, 2).build());
    completed(&daemon, &next, "vm2", DISK).await;
    assert_eq!(mirror.requests().len(), asked);
    let series = |name: &str| format!("mirror_{name}{{mirror=\"{url}\"}}");
    let requests = metric(&daemon, &series("requests_total")).await;
    assert_eq!(requests, Some(asked as f64));
    let received = metric(&daemon, &series("received_bytes_total")).await;
    assert!(received > Some(0.0), "{received:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_bad_everywhere_is_not_the_mirrors_fault() {
    let world = World::new().await;
    let mirror = FaultProxy::start(world.s3.address())
        .await
        .expect("a mirror");
    let world = world.with("MINIO_MIRRORS", &mirror.endpoint());
    let source = world.put("a.qcow2", &image(DISK, 300, 1).build());
    let sidecar = world.s3.objects().path("images", "a.qcow2.sha256");
    fs::write(sidecar, "0".repeat(64)).expect("a wrong sidecar");
    let daemon = world.start();
    for volume in ["vm1", "vm2"] {
        let before = mirror.requests().len();
        let status = ended(&daemon, &source, volume, DISK).await;
        assert_eq!(status.status, JobState::Failed);
        assert_eq!(
            status.error_type.as_deref(),
            Some("digest_mismatch"),
            "{status:?}"
        );
        assert!(
            mirror.requests().len() > before,
            "the mirror is asked still"
        );
    }
    assert!(world.home.volume_files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_down_costs_no_attempt() {
    let world = World::new().await;
    let mirror = FaultProxy::start(world.s3.address())
        .await
        .expect("a mirror");
    let world = world.with("MINIO_MIRRORS", &mirror.endpoint());
    mirror.go_down().await;
    let builder = image(DISK, 300, 1);
    let source = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let status = completed(&daemon, &source, "vm", DISK).await;
    assert!(
        !status.notes.iter().any(|note| note.contains("mirror")),
        "{status:?}"
    );
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
    assert_eq!(metric(&daemon, "source_retries_total").await, Some(0.0));
    let lines = daemon.log_text();
    let warned = lines
        .iter()
        .filter(|line| line.contains("A mirror is not asked for a while"));
    assert_eq!(warned.count(), 1, "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_a_mirror_has_spoilt_before_a_crash_is_fetched_again() {
    let world = World::new().await;
    let mirror = FaultProxy::start(world.s3.address())
        .await
        .expect("a mirror");
    let world = world.with("MINIO_MIRRORS", &mirror.endpoint());
    let builder = image(256 * MIB, 1500, 1);
    let bytes = builder.build();
    let source = world.put("a.qcow2", &bytes);
    mirror.inject(
        Rule::new(Fault::WrongByte(70_000))
            .range_from(4 * MIB)
            .also(Fault::Slow(8_000_000)),
    );
    mirror.inject(Rule::new(Fault::Slow(8_000_000)));
    let daemon = world.start();
    let job = accepted(&daemon, &source, "vm", 256 * MIB).await;
    fetched(&daemon, &job, bytes.len() as u64 / 2).await;
    daemon.kill().expect("it is killed");
    mirror.go_down().await;
    let daemon = world.start();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    let note = status
        .notes
        .iter()
        .find(|note| note.contains("an earlier download"));
    assert!(note.is_some(), "{status:?}");
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_a_digest_comes_from_the_store() {
    let world = World::new().await;
    let mirror = FaultProxy::start(world.s3.address())
        .await
        .expect("a mirror");
    let world = world
        .with("MINIO_MIRRORS", &mirror.endpoint())
        .with("CACHE_REQUIRE_CHECKSUM", "false");
    let builder = image(DISK, 300, 1);
    let source = world.put("a.qcow2", &builder.build());
    let sidecar = world.s3.objects().path("images", "a.qcow2.sha256");
    fs::remove_file(sidecar).expect("there was a sidecar");
    let daemon = world.start();
    let body = serde_json::json!({
        "image_url": source, "volume_name": "vm", "volume_size_bytes": DISK,
    });
    let plan = daemon.call("POST", "/api/v1/plan", Some(body)).await;
    assert_eq!(plan.expect("an answer").status, 200);
    completed(&daemon, &source, "vm", DISK).await;
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
    assert!(mirror.requests().is_empty(), "{:?}", mirror.requests());
}
