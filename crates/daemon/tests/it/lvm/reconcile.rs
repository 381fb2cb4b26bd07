//! Volumes and jobs that do not agree: each case has one answer (docs/operations.md).

use std::fs::File;

use lvp_api::JobState;
use lvp_testkit::daemon::wait_for;
use lvp_testkit::fault::{Fault, Rule};
use lvp_testkit::lvm::{self, device, tool};

use super::{has_tag, world};
use crate::reconcile::{CANNOT, NOT_READY, REMOVED, UNKNOWN_JOB, said};
use crate::support::{MIB, image};

pub(crate) async fn volumes_without_jobs_are_removed_or_left_as_their_tags_say() {
    let (world, _proxy) = world().await;
    // LVM itself tries for 5 s to remove a volume that is open.
    let world = world
        .with("CACHE_EVICTION_INTERVAL", "1s")
        .with("LVM_RETRY_BACKOFF_MS", "10");
    let populating =
        format!("--addtag lvp --addtag lvp.state=populating --addtag lvp.job={UNKNOWN_JOB}");
    let created = format!("{populating} --addtag lvp.created={UNKNOWN_JOB}");
    let ready = format!("--addtag lvp --addtag lvp.state=ready --addtag lvp.job={UNKNOWN_JOB}");
    let image = "1".repeat(64);
    for (name, tags) in [
        ("made", created.as_str()),
        ("made-and-open", created.as_str()),
        ("found", populating.as_str()),
        ("ready", &format!("{ready} --addtag lvp.image={image}")),
        ("handed-over", "--addtag lvp"),
        ("plain", ""),
        ("foreign", "--addtag ceph.osd_id=1"),
        // Both: somebody else's for certain, and not to be removed.
        ("both", &format!("{created} --addtag ceph.osd_id=1")),
    ] {
        tool(&format!("lvcreate -qq --yes -L 4M -n {name} {tags} vg0"));
    }
    let holder = File::open(device("made-and-open")).expect("it opens");
    let daemon = world.start();
    assert_eq!(daemon.until_said(REMOVED).await["job_id"], UNKNOWN_JOB);
    daemon.until_said(NOT_READY).await;
    // In use: an error in the log, and another attempt at the next interval.
    let cannot = daemon.until_said(CANNOT).await;
    assert_eq!(cannot["volume"], "/dev/vg0/made-and-open");
    drop(holder);
    wait_for("the other one to be removed", async || {
        lvm::volume("made-and-open").is_none().then_some(())
    })
    .await;
    let mut left: Vec<_> = lvm::volumes().into_iter().map(|found| found.name).collect();
    left.sort();
    assert_eq!(
        left,
        ["both", "foreign", "found", "handed-over", "plain", "ready"]
    );
    // LVM shows it before lvremove has ended, and that is before the daemon says so.
    wait_for("both removals in the log", async || {
        (said(&daemon, REMOVED).len() == 2).then_some(())
    })
    .await;
}

pub(crate) async fn a_job_without_its_volume_makes_it_again() {
    let (world, proxy) = world().await;
    let url = world.put("a.qcow2", &image(24 * MIB, 100, 1).build());
    proxy.inject(Rule::new(Fault::Slow(400_000)).method("GET"));
    let daemon = world.start();
    let job = daemon.provision(&url, "vm", 32 * MIB).await;
    let job = job.expect("it is accepted");
    wait_for("the volume", async || lvm::volume("vm").map(drop)).await;
    daemon.kill().expect("it is killed");
    tool("lvremove -qq --yes vg0/vm");
    proxy.clear();
    let daemon = world.start();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(has_tag("vm", "lvp.state=ready"));
}
