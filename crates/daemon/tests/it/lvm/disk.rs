//! A disk that fails under the volume group.

use std::fs::{self, File};
use std::io::Read as _;

use lvp_api::{JobState, JobStatus};
use lvp_image::builder::ImageBuilder;
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::fault::{Fault, Rule};
use lvp_testkit::lvm::{self, broken, device, segment, slice};

use super::{DISK_MIB, has_tag, is_clear, world};
use crate::support::{MIB, image};

/// This part of the disk fails as the table's line in the middle says.
fn break_disk(at_mib: u64, mib: u64, middle: &str) {
    let end = at_mib + mib;
    let front = segment(0, at_mib, "linear", 1, "");
    let back = segment(end, DISK_MIB - end, "linear", 1 + end, "");
    lvm::map("lvp-disk", &(front + middle + &back));
}

fn mend() {
    lvm::map("lvp-disk", &slice(1, DISK_MIB));
}

async fn provision(daemon: &Daemon, url: &str, volume: &str) -> JobStatus {
    let job = daemon.provision(url, volume, 32 * MIB).await;
    let job = job.expect("it is accepted");
    daemon.ended(&job).await.expect("it ends")
}

fn holds(volume: &str, image: &ImageBuilder) -> bool {
    let (bytes, disk) = (fs::read(device(volume)).expect("it is read"), image.disk());
    bytes.starts_with(&disk) && is_clear(&bytes[disk.len()..]) && has_tag(volume, "lvp.state=ready")
}

fn check_left_not_ready(status: &JobStatus) {
    assert_eq!(
        (status.status, status.error_code),
        (JobState::Failed, Some(503)),
        "{status:?}"
    );
    let error = status.error.as_deref().unwrap_or_default();
    assert!(error.contains("vm-1"), "{error}");
    let left_not_ready = |note: &String| note.contains("is not ready now");
    assert!(
        status.notes.iter().any(left_not_ready),
        "{:?}",
        status.notes
    );
    assert!(has_tag("vm-1", "lvp.state=populating"));
}

pub(crate) async fn a_disk_that_cannot_be_written_fails_the_job_and_a_repeat_mends_it() {
    let (world, _proxy) = world().await;
    let (old, new) = (image(24 * MIB, 100, 1), image(24 * MIB, 100, 3));
    let (old_url, new_url) = (
        world.put("old.qcow2", &old.build()),
        world.put("new.qcow2", &new.build()),
    );
    let daemon = world.start();
    let status = provision(&daemon, &old_url, "vm-1").await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    // In the middle of the first volume, which begins behind a MiB of metadata: writes fail, and so
    // do flushes, the first of which comes before the first write.
    let flaky = segment(10, 4, "flakey", 11, "0 3600 1 error_writes");
    break_disk(10, 4, &flaky);
    check_left_not_ready(&provision(&daemon, &new_url, "vm-1").await);
    // Now only what is written to that place fails, half-way through the copy.
    break_disk(10, 4, &broken(10, 4));
    check_left_not_ready(&provision(&daemon, &new_url, "vm-1").await);
    let mut head = vec![1; 1 << 20];
    let mut volume = File::open(device("vm-1")).expect("it opens");
    volume.read_exact(&mut head).expect("it is read");
    assert!(is_clear(&head), "vm-1 looks bootable");
    drop(volume);
    // In the middle of one that is made for the job.
    break_disk(32 + 10, 4, &broken(32 + 10, 4));
    let status = provision(&daemon, &new_url, "vm-2").await;
    assert_eq!(status.status, JobState::Failed, "{status:?}");
    assert!(
        lvm::volume("vm-2").is_none(),
        "a failed job's volume is left"
    );
    mend();
    for volume in ["vm-1", "vm-2"] {
        let status = provision(&daemon, &new_url, volume).await;
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        assert!(holds(volume, &new), "the repeat did not mend {volume}");
    }
}

pub(crate) async fn a_disk_that_goes_away_fails_the_job_and_what_it_made_is_removed_later() {
    let (world, proxy) = world().await;
    let world = world.with("CACHE_EVICTION_INTERVAL", "1s");
    let builder = image(24 * MIB, 100, 1);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    proxy.inject(Rule::new(Fault::Slow(400_000)).method("GET"));
    let job = daemon.provision(&url, "vm", 32 * MIB).await;
    let job = job.expect("it is accepted");
    wait_for("the first bytes", async || {
        let progress = daemon.status(&job).await.ok()?.progress?;
        (progress.bytes_processed > 0).then_some(())
    })
    .await;
    lvm::map("lvp-disk", &broken(0, DISK_MIB));
    proxy.clear();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Failed, "{status:?}");
    let health = daemon.call("GET", "/health", None).await;
    assert_eq!(health.expect("it lives").status, 200);
    mend();
    wait_for("the rest of the job to be removed", async || {
        lvm::volume("vm").is_none().then_some(())
    })
    .await;
    let status = provision(&daemon, &url, "vm").await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(holds("vm", &builder), "the repeat did not mend it");
}
