//! A golden volume serves the object that it was made from, and no other.

use lvp_api::{JobState, Method};
use lvp_testkit::daemon::wait_for;
use lvp_testkit::require::require;
use serde_json::json;

use super::{DISK, Sharing, asked, forget_cached, golden, says};
use crate::restore::{back_up, restore};
use crate::support::{completed, ended, holds, image};

#[tokio::test]
async fn a_golden_volume_that_the_database_does_not_know_is_used_once_the_object_was_read() {
    if !require("xfs") {
        return;
    }
    let world = Sharing::on("xfs").await;
    let builder = image(DISK, 100, 9);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let copy = back_up(&world, "nightly.db");
    completed(&daemon, &url, "vm", DISK).await;
    daemon.kill().expect("it is killed");
    restore(&world, &copy);
    world.s3.traffic().reset();
    let daemon = world.start();
    wait_for("the golden volume", async || {
        let listed = golden(&daemon).await;
        listed.volumes.first()?.made_at.clone()
    })
    .await;
    // Its digest is announced, but nobody has read this object.
    let second = completed(&daemon, &url, "vm-2", DISK).await;
    assert_eq!(second.method, Some(Method::Clone));
    assert!(!says(&second, "golden volume on the way"), "{second:?}");
    assert!(world.sent("a.qcow2") > 0);
    assert!(holds(&world.home.volume("vm-2"), &builder.disk()));
    world.s3.traffic().reset();
    completed(&daemon, &url, "vm-3", DISK).await;
    assert_eq!(world.sent("a.qcow2"), 0);
}

#[tokio::test]
async fn an_object_with_other_bytes_is_never_served_from_the_golden_volume_of_the_former_ones() {
    if !require("xfs") {
        return;
    }
    let world = Sharing::on("xfs").await;
    let (first, second) = (image(DISK, 100, 11), image(DISK, 100, 13));
    let url = world.put("a.qcow2", &first.build());
    let daemon = world.start();
    completed(&daemon, &url, "vm-1", DISK).await;
    // Without its sidecar it is not what it should be; with it, it is another image.
    let objects = world.s3.objects();
    objects
        .put("images", "a.qcow2", &second.build())
        .expect("it is put");
    let status = ended(&daemon, &url, "vm-2", DISK).await;
    assert_eq!(
        status.error_type.as_deref(),
        Some("digest_mismatch"),
        "{status:?}"
    );
    assert!(!world.home.volume("vm-2").exists());
    objects.put_sidecar("images", "a.qcow2").expect("it is put");
    let status = completed(&daemon, &url, "vm-2", DISK).await;
    assert_eq!(status.method, Some(Method::Clone));
    assert!(holds(&world.home.volume("vm-2"), &second.disk()));
    // A checksum of the request that is not the image's.
    let wrong = format!("sha256:{}", "0".repeat(64));
    let status = asked(&daemon, &url, "vm-3", json!({ "checksum": wrong })).await;
    assert_eq!(status.status, JobState::Failed, "{status:?}");
    let wrong = format!("sha512:{}", "0".repeat(128));
    let status = asked(&daemon, &url, "vm-3", json!({ "checksum": wrong })).await;
    assert_eq!(
        status.error_type.as_deref(),
        Some("digest_mismatch"),
        "{status:?}"
    );
    assert!(!world.home.volume("vm-3").exists());
}

#[tokio::test]
async fn a_sha512_is_compared_before_the_first_clone_and_remembered() {
    if !require("xfs") {
        return;
    }
    let world = Sharing::on("xfs").await;
    let bytes = image(DISK, 100, 12).build();
    let url = world.put("a.qcow2", &bytes);
    let daemon = world.start();
    completed(&daemon, &url, "vm-1", DISK).await;
    let sha512 = <sha2::Sha512 as sha2::Digest>::digest(&bytes);
    let sha512 = sha512
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    let checksum = json!({ "checksum": format!("sha512:{sha512}") });
    // From the cached file.
    let status = asked(&daemon, &url, "vm-2", checksum.clone()).await;
    assert_eq!(status.method, Some(Method::Clone), "{status:?}");
    assert_eq!(status.cache_hit, Some(true));
    forget_cached(&daemon, &status).await;
    world.s3.traffic().reset();
    let status = asked(&daemon, &url, "vm-3", checksum).await;
    assert_eq!(status.method, Some(Method::Clone), "{status:?}");
    assert_eq!(world.sent("a.qcow2"), 0);
}
