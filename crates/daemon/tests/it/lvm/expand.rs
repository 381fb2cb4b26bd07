//! `expand: gpt` on logical volumes.

use std::fs;

use lvp_api::{JobState, Method};
use lvp_testkit::lvm::{self, device, tool};
use lvp_testkit::require::require;
use serde_json::json;

use super::{DISK_MIB, has_tag};
use crate::expand::{check, disk};
use crate::support::{MIB, World};

pub(crate) async fn the_backup_gpt_is_moved_on_clones_and_on_linear_volumes() {
    if !require("sgdisk") || !require("sfdisk") {
        return;
    }
    lvm::remove_group();
    lvm::make_group(&lvm::slice(1, DISK_MIB));
    lvm::fill_with_marker(100);
    tool(
        "lvcreate -qq --yes --type thin-pool --size 300M --poolmetadatasize 4M --chunksize 64k --name pool0 vg0",
    );
    tool("lvcreate -qq --yes -L 48M -n linear --addtag lvp vg0");
    let world = World::new()
        .await
        .with("VOLUME_BACKEND", "lvm")
        .with("LVM_VOLUME_GROUP", "vg0")
        .with("LVM_THIN_POOL", "pool0")
        .with("LVM_RETRY_BACKOFF_MS", "50,400");
    let image = world.home.path().join("disk.raw");
    disk(&image, 24 * MIB, 512);
    let url = world.put("a.raw", &fs::read(&image).expect("it is read"));
    let daemon = world.start();
    for (volume, method) in [
        ("vm-1", Method::Clone),
        ("vm-2", Method::Clone),
        ("vm-1", Method::Clone),
        ("linear", Method::Copy),
    ] {
        let body = json!({
            "image_url": url, "volume_name": volume, "volume_size_bytes": 40 * MIB,
            "image_type": "raw", "expand": "gpt",
        });
        let job = daemon.submit("/api/v1/jobs", body).await.expect("accepted");
        let status = daemon.ended(&job).await.expect("it ends");
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        assert_eq!(status.method, Some(method), "{status:?}");
        check(&device(volume), &image, 512);
        assert!(has_tag(volume, "lvp.expanded=gpt"));
        assert!(has_tag(volume, "lvp.state=ready"));
    }
    let path = "/api/v1/volumes/vm-1/verify";
    let answer = daemon.call("POST", path, None).await.expect("it answers");
    assert!(answer.body["matches"] == true, "{answer:?}");
    // A job that writes it without says so no longer.
    let body = json!({
        "image_url": url, "volume_name": "linear", "volume_size_bytes": 40 * MIB, "image_type": "raw",
    });
    let job = daemon.submit("/api/v1/jobs", body).await.expect("accepted");
    assert_eq!(
        daemon.ended(&job).await.expect("it ends").status,
        JobState::Completed
    );
    assert!(!has_tag("linear", "lvp.expanded=gpt"));
}
