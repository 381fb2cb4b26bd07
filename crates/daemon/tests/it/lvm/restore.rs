//! A database that is older than the volumes: what LVM's tags say decides.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use lvp_api::{JobState, JobStatus};
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::fault::{Fault, Rule};
use lvp_testkit::lvm::{self, device, tool};

use super::{has_tag, world};
use crate::restore::{
    GUEST, PLACES, back_up, check_recorded, check_refused, forget_the_end, restore,
};
use crate::support::{MIB, image};

async fn provision(daemon: &Daemon, url: &str) -> JobStatus {
    let job = daemon.provision(url, "vm", 32 * MIB).await;
    let job = job.expect("it is accepted");
    daemon.ended(&job).await.expect("it ends")
}

fn guest_writes() -> Vec<u8> {
    let file = File::options().write(true).open(device("vm"));
    let file = file.expect("it opens");
    for place in PLACES {
        file.write_all_at(GUEST, place).expect("it is written");
    }
    file.sync_all().expect("it is written");
    drop(file);
    fs::read(device("vm")).expect("it is read")
}

fn check_untouched(guest: &[u8]) {
    let now = fs::read(device("vm")).expect("it is read");
    assert!(now == guest, "the guest's disk was changed");
}

pub(crate) async fn a_ready_volume_is_written_only_by_a_job_accepted_after_it_said_so() {
    let (world, proxy) = world().await;
    let url = world.put("a.qcow2", &image(24 * MIB, 100, 1).build());
    let other = world.put("b.qcow2", &image(24 * MIB, 20, 3).build());
    let daemon = world.start();
    proxy.inject(Rule::new(Fault::Slow(400_000)).method("GET"));
    let job = daemon.provision(&url, "vm", 32 * MIB).await;
    let job = job.expect("it is accepted");
    wait_for("the volume", async || lvm::volume("vm").map(drop)).await;
    let copy = back_up(&world, "nightly.db");
    proxy.clear();
    let status = daemon.ended(&job).await.expect("it ends");
    let digest = status.image_digest.expect("it is known");
    daemon.kill().expect("it is killed");

    // Killed after the tags said ready and before the row did; then the database of last night.
    for restored in [false, true] {
        let guest = guest_writes();
        match restored {
            false => forget_the_end(&world, &job, 1),
            true => restore(&world, &copy),
        }
        let daemon = world.start();
        let status = daemon.ended(&job).await.expect("it ends");
        check_recorded(&status, &digest);
        daemon.kill().expect("it is killed");
        check_untouched(&guest);
    }

    // A later job has finished it since.
    let daemon = world.start();
    let later = provision(&daemon, &other).await;
    assert_eq!(later.status, JobState::Completed, "{later:?}");
    daemon.kill().expect("it is killed");
    let guest = guest_writes();
    restore(&world, &copy);
    let daemon = world.start();
    check_refused(&daemon.ended(&job).await.expect("it ends"));
    daemon.kill().expect("it is killed");
    check_untouched(&guest);

    // Its tags are gone.
    for tag in lvm::volume("vm").expect("it is there").tags {
        tool(&format!("lvchange -qq --deltag {tag} vg0/vm"));
    }
    restore(&world, &copy);
    let world = world.with("LVM_ADOPT_UNTAGGED", "true");
    let daemon = world.start();
    check_refused(&daemon.ended(&job).await.expect("it ends"));
    check_untouched(&guest);
    // Whoever asks now means it.
    let again = provision(&daemon, &url).await;
    assert_eq!(again.status, JobState::Completed, "{again:?}");
}

pub(crate) async fn a_job_from_the_queue_rewrites_what_it_was_accepted_for_and_no_more() {
    let (world, proxy) = world().await;
    let world = world.with("MAX_CONCURRENT", "1");
    let (old, new) = (image(24 * MIB, 20, 1), image(24 * MIB, 20, 3));
    let old_url = world.put("old.qcow2", &old.build());
    let new_url = world.put("new.qcow2", &new.build());
    let slow = world.put("slow.qcow2", &image(24 * MIB, 100, 5).build());
    let daemon = world.start();
    let first = provision(&daemon, &old_url).await;
    proxy.inject(Rule::new(Fault::Slow(100_000)).method("GET"));
    let running = daemon.provision(&slow, "other", 32 * MIB).await;
    running.expect("it is accepted");
    let job = daemon.provision(&new_url, "vm", 32 * MIB).await;
    let job = job.expect("it is accepted");
    let copy = back_up(&world, "queued.db");
    // Cancelled since, which the volume knows and the copy of the database does not.
    let route = format!("/api/v1/jobs/{job}/cancel");
    let answer = daemon.call("POST", &route, None).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(has_tag("vm", &format!("lvp.ended={job}")));
    assert!(has_tag("vm", &format!("lvp.job={}", first.job_id)));
    let again = daemon.provision(&new_url, "vm", 32 * MIB).await;
    let again = again.expect("it is accepted");
    let queued = back_up(&world, "again.db");
    daemon.kill().expect("it is killed");
    proxy.clear();
    let guest = guest_writes();
    restore(&world, &copy);
    let daemon = world.start();
    check_refused(&daemon.ended(&job).await.expect("it ends"));
    check_untouched(&guest);
    daemon.kill().expect("it is killed");
    // The one that waited still, by the newest database, is what the volume waits for.
    restore(&world, &queued);
    let daemon = world.start();
    let status = daemon.ended(&again).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(fs::read(device("vm")).expect("it is read")[..24 << 20] == new.disk());
}

pub(crate) async fn a_snapshot_is_called_one_and_an_untagged_volume_is_refused_or_handed_over() {
    let (world, _proxy) = world().await;
    let builder = image(24 * MIB, 20, 1);
    let url = world.put("a.qcow2", &builder.build());
    tool("lvcreate -qq --yes -L 16M -n origin vg0");
    tool("lvcreate -qq --yes --snapshot -L 8M -n vm vg0/origin");
    let daemon = world.start();
    let status = provision(&daemon, &url).await;
    let error = status.error.unwrap_or_default();
    assert_eq!(status.error_code, Some(409), "{error}");
    assert!(error.contains("copy-on-write snapshot"), "{error}");
    tool("lvremove -qq --yes --force vg0/origin");

    tool("lvcreate -qq --yes -L 32M -n vm vg0");
    fs::write(device("vm"), [0x5a; 4096]).expect("it is written");
    let status = provision(&daemon, &url).await;
    let error = status.error.unwrap_or_default();
    assert_eq!(status.error_code, Some(409), "{error}");
    assert!(error.contains("lvpctl volumes adopt vm"), "{error}");
    let head = fs::read(device("vm")).expect("it is read");
    assert!(head.starts_with(&[0x5a; 4096]));
    let database = world.home.path().join("go.db");
    crate::restore::go_database(&database, &[("vm", "completed")]);
    let database = database.to_str().expect("a path");
    let arguments = ["db", "adopt-go-volumes", "--config", "/dev/null", database];
    let output = world.home.run(&arguments).expect("it starts");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(lvm::volume("vm").expect("it is there").tags, ["lvp"]);
    let head = fs::read(device("vm")).expect("it is read");
    assert!(head.starts_with(&[0x5a; 4096]));
    let status = provision(&daemon, &url).await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
}
