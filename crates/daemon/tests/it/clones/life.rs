//! The life of a golden volume: made ahead, listed, removed, flawed, pushed out; and its verification.

use std::fs;
use std::os::unix::fs::FileExt as _;

use lvp_api::{JobState, Method};
use lvp_testkit::require::require;
use serde_json::json;

use super::{DISK, Sharing, asked, golden, says, verified};
use crate::support::{MIB, completed, holds, image, metric};

#[tokio::test]
async fn golden_volumes_are_made_ahead_listed_removed_and_made_anew_when_they_are_flawed() {
    if !require("btrfs") {
        return;
    }
    let world = Sharing::on("btrfs").await.with("GOLDEN_MAX_COUNT", "2");
    let builders: Vec<_> = (0..3).map(|seed| image(DISK, 50, 21 + 2 * seed)).collect();
    let urls: Vec<_> = (0..3)
        .map(|number| world.put(&format!("{number}.qcow2"), &builders[number].build()))
        .collect();
    let daemon = world.start();
    let make = async |url: &str| {
        let body = json!({ "image_url": url });
        let job = daemon
            .submit("/api/v1/golden", body)
            .await
            .expect("accepted");
        let status = daemon.ended(&job).await.expect("it ends");
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        assert_eq!(status.kind.as_str(), "golden");
        status
    };
    let made = make(&urls[0]).await;
    assert_eq!((made.method, made.volume_name.clone()), (None, None));
    // It is there: nothing is fetched or written.
    world.s3.traffic().reset();
    make(&urls[0]).await;
    assert_eq!(world.sent("0.qcow2"), 0);
    let status = completed(&daemon, &urls[0], "vm-0", DISK).await;
    assert_eq!(status.method, Some(Method::Clone));
    assert_eq!(world.sent("0.qcow2"), 0);

    let cached: lvp_api::CachedImages = daemon.get("/api/v1/cache/images").await.expect("a list");
    assert!(cached.images[0].golden);

    // The longest unused goes.
    make(&urls[1]).await;
    completed(&daemon, &urls[0], "vm-0b", DISK).await;
    make(&urls[2]).await;
    let keys = async || {
        let listed = golden(&daemon).await.volumes;
        listed
            .into_iter()
            .map(|volume| volume.image_url)
            .collect::<Vec<_>>()
    };
    assert_eq!(keys().await, [urls[2].clone(), urls[0].clone()]);
    assert_eq!(metric(&daemon, "golden_dropped_total").await, Some(1.0));

    // One that somebody wrote to.
    let name = format!(
        "lvp-golden-{}-qcow2",
        made.image_digest.as_deref().expect("one")
    );
    fs::write(world.golden_dir().join(&name), b"changed").expect("root may");
    let listed = golden(&daemon).await.volumes;
    assert!(
        listed.iter().any(|volume| volume.flaw.is_some()),
        "{listed:?}"
    );
    let status = completed(&daemon, &urls[0], "vm-0c", DISK).await;
    assert_eq!(status.method, Some(Method::Clone));
    assert!(says(&status, "golden volume on the way"), "{status:?}");
    assert!(holds(&world.home.volume("vm-0c"), &builders[0].disk()));
    assert!(
        daemon
            .log_text()
            .iter()
            .any(|line| line.contains("will be made anew"))
    );

    // Removing it leaves its clones.
    let key = made.image_digest.expect("it has one");
    let remove = async |key: &str| {
        let route = format!("/api/v1/golden/{key}");
        let answer = daemon.call("DELETE", &route, None).await;
        answer.expect("it answers").status
    };
    assert_eq!(remove(&key).await, 200);
    assert_eq!(remove(&key).await, 404);
    assert_eq!(remove("x").await, 400);
    assert_eq!(keys().await, [urls[2].clone()]);
    assert!(holds(&world.home.volume("vm-0c"), &builders[0].disk()));
}

#[tokio::test]
async fn a_golden_volume_gives_way_before_a_request_is_refused_for_want_of_room() {
    if !require("xfs") {
        return;
    }
    let world = Sharing::on("xfs").await;
    // Of bytes that take room.
    let builder = image(64 * MIB, 900, 30);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let body = json!({ "image_url": url });
    let job = daemon
        .submit("/api/v1/golden", body)
        .await
        .expect("accepted");
    daemon.ended(&job).await.expect("it ends");
    assert_eq!(golden(&daemon).await.count, 1);
    let room = rustix::fs::statvfs(world.home.path()).expect("it has room");
    let free = room.f_bavail * room.f_frsize;
    let other = world.put("b.qcow2", &image(DISK, 4, 31).build());
    let put = async |url: &str, size_bytes: u64, clone: &str| {
        let body = json!({
            "image_url": url, "volume_name": "vm", "volume_size_bytes": size_bytes, "clone": clone,
        });
        let job = daemon.submit("/api/v1/jobs", body).await.expect("accepted");
        daemon.ended(&job).await.expect("it ends")
    };
    // Not for what would not fit even then.
    for (url, clone) in [(&url, "auto"), (&url, "require"), (&other, "never")] {
        let status = put(url, free + 1024 * MIB, clone).await;
        assert_eq!(status.status, JobState::Failed, "{status:?}");
        let error = status.error.expect("it says why");
        assert!(error.contains("free") && error.contains("needs"), "{error}");
        assert_eq!(golden(&daemon).await.count, 1, "{clone}");
    }
    let status = put(&other, free + 4 * MIB, "never").await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert_eq!(golden(&daemon).await.count, 0);
}

#[tokio::test]
async fn a_volume_is_compared_with_what_was_written_to_it() {
    if !require("xfs") {
        return;
    }
    let world = Sharing::on("xfs").await;
    let builder = image(DISK, 100, 15);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let written = asked(&daemon, &url, "vm-0", json!({ "clone": "never" })).await;
    assert_eq!(written.status, JobState::Completed);
    // Nobody has recorded what it is.
    let (status, text) = verified(&daemon, "vm-0").await.expect_err("it is refused");
    assert_eq!(status, 409, "{text}");
    assert!(text.contains("POST /api/v1/verifications"), "{text}");
    let status = completed(&daemon, &url, "vm-1", 2 * DISK).await;
    let digest = status.image_digest.expect("it has one");
    let golden_name = format!("lvp-golden-{digest}-qcow2");
    for volume in ["vm-0", "vm-1", &golden_name] {
        let found = verified(&daemon, volume).await.expect("it is read");
        assert!(found.matches && found.differences.is_empty(), "{found:?}");
        assert_eq!((&found.image_digest, found.disk_bytes), (&digest, DISK));
        assert_eq!(found.expected_digest, found.found_digest);
    }

    // A guest's writes: within the image's disk, and behind it.
    let guest = world.home.volume("vm-1");
    let file = fs::File::options().write(true).open(guest);
    let file = file.expect("it opens");
    file.write_all_at(&[1; 10], 5 * 4096 + 7).expect("written");
    file.write_all_at(&[1; 10], DISK + 3 * 4096)
        .expect("written");
    file.sync_all().expect("synced");
    let (status, text) = verified(&daemon, "vm-1").await.expect_err("it is open");
    assert_eq!(status, 409, "{text}");
    drop(file);
    let found = verified(&daemon, "vm-1").await.expect("it is read");
    assert!(!found.matches);
    assert_ne!(found.expected_digest, found.found_digest);
    let parts: Vec<_> = found
        .differences
        .iter()
        .map(|part| (part.offset, part.length))
        .collect();
    assert_eq!(parts, [(5 * 4096, 4096), (DISK + 3 * 4096, 4096)]);
    for (volume, expected) in [("absent", 404), ("..", 404), ("a%20b", 400)] {
        let (status, text) = verified(&daemon, volume).await.expect_err("there is none");
        assert_eq!(status, expected, "{volume}: {text}");
    }
}
