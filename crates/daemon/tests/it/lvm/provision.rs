//! A volume's whole life.

use std::fs;

use lvp_api::{JobState, VolumeList};
use lvp_testkit::daemon::wait_for;
use lvp_testkit::fault::{Fault, Rule};
use lvp_testkit::lvm::{self, device};

use super::{has_tag, world};
use crate::support::{MIB, image};

pub(crate) async fn volumes_are_provisioned_rolled_back_and_resumed() {
    let (world, proxy) = world().await;
    lvm::fill_with_marker(160);
    let builder = image(24 * MIB, 100, 1);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();

    // A new volume holds the image, zeros behind it, and says so.
    let job = daemon
        .provision(&url, "vm-1", 30 * MIB)
        .await
        .expect("it is accepted");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    let zeroed = |note: &String| note.starts_with("Zeroed ");
    assert!(status.notes.iter().any(zeroed), "{:?}", status.notes);
    let bytes = fs::read(device("vm-1")).expect("the volume is read");
    assert_eq!(
        bytes.len() as u64,
        32 * MIB,
        "rounded up to whole extents of 4 MiB"
    );
    assert!(bytes[..24 << 20] == builder.disk(), "the disk is wrong");
    assert!(
        bytes[24 << 20..].iter().all(|byte| *byte == 0),
        "the marker is left behind the disk"
    );
    assert!(has_tag("vm-1", "lvp.state=ready"));
    let digest = status.image_digest.expect("it is known");
    assert!(has_tag("vm-1", &format!("lvp.image={digest}")));
    let listed: VolumeList = daemon.get("/api/v1/volumes").await.expect("a list");
    assert_eq!(listed.volumes[0].state, "ready");

    // One that does not fit the volume group fails with both numbers, and leaves nothing.
    let job = daemon
        .provision(&url, "vm-2", 1 << 40)
        .await
        .expect("it is accepted");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(
        (status.status, status.error_code),
        (JobState::Failed, Some(507)),
        "{status:?}"
    );
    assert!(!device("vm-2").exists());

    // One whose digest is wrong is removed; a reused volume stays, not ready, and a repeat mends it.
    let other = image(24 * MIB, 80, 3);
    world.put("b.qcow2", &other.build());
    let wrong = format!("{}  b.qcow2", "2".repeat(64));
    world
        .s3
        .objects()
        .put("images", "b.qcow2.sha256", wrong.as_bytes())
        .expect("written");
    for volume in ["vm-3", "vm-1"] {
        let job = daemon
            .provision("s3://images/b.qcow2", volume, 32 * MIB)
            .await
            .expect("a job");
        let status = daemon.ended(&job).await.expect("it ends");
        assert_eq!(
            (status.status, status.error_code),
            (JobState::Failed, Some(422)),
            "{status:?}"
        );
    }
    assert!(
        !device("vm-3").exists(),
        "a volume with the wrong bytes is left"
    );
    assert!(has_tag("vm-1", "lvp.state=populating"));
    let head = fs::read(device("vm-1")).expect("the volume is read");
    assert!(
        head[..1 << 20].iter().all(|byte| *byte == 0),
        "vm-1 looks bootable"
    );
    let job = daemon
        .provision(&url, "vm-1", 30 * MIB)
        .await
        .expect("it is accepted");
    assert_eq!(
        daemon.ended(&job).await.expect("it ends").status,
        JobState::Completed
    );
    let bytes = fs::read(device("vm-1")).expect("the volume is read");
    assert!(
        bytes[..24 << 20] == builder.disk(),
        "the repeat did not mend it"
    );

    // Killed half-way, a volume is not ready; the next daemon finishes it.
    let url = world.put("c.qcow2", &other.build());
    proxy.inject(Rule::new(Fault::Slow(400_000)).method("GET"));
    let job = daemon
        .provision(&url, "vm-4", 32 * MIB)
        .await
        .expect("it is accepted");
    wait_for("the download", async || {
        let progress = daemon.status(&job).await.ok()?.progress?;
        (progress.bytes_processed > 0).then_some(())
    })
    .await;
    daemon.kill().expect("it is killed");
    assert!(has_tag("vm-4", "lvp.state=populating"));
    proxy.clear();
    let daemon = world.start();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(
        (status.status, status.attempts),
        (JobState::Completed, 2),
        "{status:?}"
    );
    let bytes = fs::read(device("vm-4")).expect("the volume is read");
    assert!(bytes[..24 << 20] == other.disk(), "the disk is wrong");
    assert!(
        bytes[24 << 20..].iter().all(|byte| *byte == 0),
        "the marker is left"
    );
    assert!(has_tag("vm-4", "lvp.state=ready"));
}
