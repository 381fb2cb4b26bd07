//! A database that is older than the volumes: restored from a backup, or outdated because of a kill. A
//! volume that says ready is written only by a job accepted after it said so.

mod adopt;
mod queue;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use lvp_api::{JobState, JobStatus};
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::fault::{Fault, FaultProxy, Rule};
use rusqlite::Connection;
use serde_json::json;

use crate::support::{MIB, World, accepted, holds, image};

pub(crate) use adopt::go_database;

/// Data that a guest has written since.
pub(crate) const GUEST: &[u8] = b"A guest's own data, in a place that the image has as well";

/// Where it was written: at the head, in the middle and at the end of the disk.
pub(crate) const PLACES: [u64; 3] = [4096, 16 * MIB, 24 * MIB - 512];

/// Copies the database, even if a daemon is running.
pub(crate) fn back_up(world: &World, name: &str) -> PathBuf {
    let copy = world.home.path().join(name);
    let arguments = ["db", "backup", "--config", "/dev/null"];
    let path = copy.to_str().expect("a path");
    let output = world.home.run(&[&arguments[..], &[path]].concat());
    let output = output.expect("it starts");
    assert!(output.status.success(), "{output:?}");
    copy
}

/// Restores a copy of the database, as docs/operations.md says.
pub(crate) fn restore(world: &World, copy: &PathBuf) {
    for file in ["jobs.db", "jobs.db-wal", "jobs.db-shm"] {
        fs::remove_file(world.home.path().join(file)).ok();
    }
    fs::copy(copy, world.home.path().join("jobs.db")).expect("it is copied");
}

pub(crate) fn forget_the_end(world: &World, job: &str, attempts: u32) {
    let database = Connection::open(world.home.path().join("jobs.db")).expect("it opens");
    let changed = database.execute(
        "UPDATE jobs SET state = 'running', finished_at = NULL, attempts = ?2, progress = NULL, \
         image_digest = NULL, volume_path = NULL, notes = '[]' WHERE id = ?1",
        (job, attempts),
    );
    assert_eq!(changed.expect("it is changed"), 1);
}

async fn provision(daemon: &Daemon, url: &str) -> JobStatus {
    let job = daemon.provision(url, "vm", 32 * MIB).await;
    ended(daemon, &job.expect("it is accepted")).await
}

async fn ended(daemon: &Daemon, job: &str) -> JobStatus {
    daemon.ended(job).await.expect("it ends")
}

/// A job that is running and has marked the volume, and continues once the proxy is cleared.
async fn half_way(world: &World, proxy: &FaultProxy, daemon: &Daemon, url: &str) -> String {
    proxy.inject(Rule::new(Fault::Slow(400_000)).method("GET"));
    let job = accepted(daemon, url, "vm", 32 * MIB).await;
    wait_for("the download", async || {
        let progress = daemon.status(&job).await.ok()?.progress?;
        let is_marked = world.home.volume("vm").exists();
        (progress.bytes_processed > 0 && is_marked).then_some(())
    })
    .await;
    job
}

/// The virtual machine ran, and was shut off.
fn guest_writes(world: &World) -> Vec<u8> {
    let volume = world.home.volume("vm");
    let file = File::options().write(true).open(&volume);
    let file = file.expect("it opens");
    for place in PLACES {
        file.write_all_at(GUEST, place).expect("it is written");
    }
    fs::read(&volume).expect("it is read")
}

fn check_untouched(world: &World, guest: &[u8]) {
    let now = fs::read(world.home.volume("vm")).expect("it is there");
    assert!(now == guest, "the guest's disk was changed");
}

pub(crate) fn check_refused(status: &JobStatus) {
    assert_eq!(
        (status.status, status.error_code),
        (JobState::Failed, Some(409)),
        "{status:?}"
    );
    let error = status.error.as_deref().unwrap_or_default();
    assert!(error.contains("resumed from the database"), "{error}");
}

pub(crate) fn check_recorded(status: &JobStatus, digest: &str) {
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert_eq!(status.image_digest.as_deref(), Some(digest), "{status:?}");
    assert!(status.volume_path.is_some(), "{status:?}");
    let recorded = |note: &String| note.contains("nothing was written");
    assert!(status.notes.iter().any(recorded), "{:?}", status.notes);
    let percent = status.progress.as_ref().map(|progress| progress.percent);
    assert_eq!(percent, Some(100.0));
}

#[tokio::test]
async fn a_finished_job_of_a_restored_database_is_recorded_and_writes_nothing() {
    let (world, proxy) = World::with_faults().await;
    let url = world.put("a.qcow2", &image(32 * MIB, 200, 1).build());
    let daemon = world.start();
    let job = half_way(&world, &proxy, &daemon, &url).await;
    let copy = back_up(&world, "nightly.db");
    proxy.clear();
    let digest = ended(&daemon, &job).await.image_digest.expect("it has one");
    daemon.kill().expect("it is killed");
    let guest = guest_writes(&world);
    restore(&world, &copy);
    // Not even the image is needed.
    fs::remove_file(world.s3.objects().path("images", "a.qcow2")).expect("it is removed");
    let daemon = world.start();
    check_recorded(&ended(&daemon, &job).await, &digest);
    check_untouched(&world, &guest);
}

#[tokio::test]
async fn a_kill_between_ready_and_the_row_loses_nothing_at_any_attempt() {
    for attempts in [0, 1, 5] {
        let world = World::new().await;
        let url = world.put("a.qcow2", &image(32 * MIB, 20, 1).build());
        let daemon = world.start();
        let status = provision(&daemon, &url).await;
        daemon.kill().expect("it is killed");
        let job = status.job_id.to_string();
        forget_the_end(&world, &job, attempts);
        let guest = guest_writes(&world);
        let daemon = world.start();
        check_recorded(
            &ended(&daemon, &job).await,
            &status.image_digest.expect("one"),
        );
        check_untouched(&world, &guest);
    }
}

#[tokio::test]
async fn a_job_whose_end_could_not_be_recorded_writes_nothing_at_the_next_start() {
    let (world, proxy) = World::with_faults().await;
    let url = world.put("a.qcow2", &image(32 * MIB, 200, 1).build());
    let daemon = world.start();
    let job = half_way(&world, &proxy, &daemon, &url).await;
    // As if the file system were full, or another process held it, from the job's last step on.
    let database = Connection::open(world.home.path().join("jobs.db")).expect("it opens");
    database
        .execute_batch(
            "CREATE TRIGGER no_end BEFORE UPDATE ON jobs WHEN NEW.state = 'completed' \
             BEGIN SELECT RAISE(ABORT, 'not now'); END",
        )
        .expect("it is SQL");
    proxy.clear();
    let record = world.home.path().join("volumes/.lvp/vm.json");
    wait_for("the volume to be ready", async || {
        let text = fs::read_to_string(&record).ok()?;
        text.contains("ready").then_some(())
    })
    .await;
    daemon
        .until_said("The end of a job cannot be recorded; trying again")
        .await;
    daemon.kill().expect("it is killed");
    database
        .execute_batch("DROP TRIGGER no_end")
        .expect("it is SQL");
    drop(database);
    let guest = guest_writes(&world);
    let daemon = world.start();
    assert_eq!(ended(&daemon, &job).await.status, JobState::Completed);
    check_untouched(&world, &guest);
}

#[tokio::test]
async fn a_volume_that_a_later_job_finished_is_refused_to_a_job_of_a_restored_database() {
    let (world, proxy) = World::with_faults().await;
    let url = world.put("a.qcow2", &image(32 * MIB, 200, 1).build());
    let other = world.put("b.qcow2", &image(32 * MIB, 20, 3).build());
    let daemon = world.start();
    let job = half_way(&world, &proxy, &daemon, &url).await;
    let copy = back_up(&world, "nightly.db");
    proxy.clear();
    ended(&daemon, &job).await;
    let later = provision(&daemon, &other).await;
    assert_eq!(later.status, JobState::Completed, "{later:?}");
    daemon.kill().expect("it is killed");
    let guest = guest_writes(&world);
    restore(&world, &copy);
    let daemon = world.start();
    check_refused(&ended(&daemon, &job).await);
    check_untouched(&world, &guest);
    // A new request is accepted.
    let again = provision(&daemon, &url).await;
    assert_eq!(again.status, JobState::Completed, "{again:?}");
}

#[tokio::test]
async fn a_volume_whose_record_is_gone_is_refused_to_a_job_of_a_restored_database() {
    let (world, proxy) = World::with_faults().await;
    // Not even the setting that lets requests take over such volumes applies to this job.
    let world = world.with("LVM_ADOPT_UNTAGGED", "true");
    let url = world.put("a.qcow2", &image(32 * MIB, 200, 1).build());
    let daemon = world.start();
    let job = half_way(&world, &proxy, &daemon, &url).await;
    let copy = back_up(&world, "nightly.db");
    proxy.clear();
    ended(&daemon, &job).await;
    daemon.kill().expect("it is killed");
    fs::remove_file(world.home.path().join("volumes/.lvp/vm.json")).expect("it is removed");
    let guest = guest_writes(&world);
    restore(&world, &copy);
    let daemon = world.start();
    check_refused(&ended(&daemon, &job).await);
    check_untouched(&world, &guest);
}

#[tokio::test]
async fn a_restored_database_s_unfinished_jobs_can_be_ended_before_the_start() {
    let (world, proxy) = World::with_faults().await;
    let url = world.put("a.qcow2", &image(32 * MIB, 200, 1).build());
    let daemon = world.start();
    let job = half_way(&world, &proxy, &daemon, &url).await;
    let end = ["db", "cancel-unfinished", "--config", "/dev/null"];
    let output = world.home.run(&end).expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "beside a daemon: {output:?}");
    assert!(said.contains("stop the daemon"), "{said}");
    daemon.kill().expect("it is killed");
    let output = world.home.run(&end).expect("it starts");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("1 unfinished job"), "{said}");
    let daemon = world.start();
    let status = daemon.status(&job).await.expect("it is known");
    assert_eq!(status.status, JobState::Cancelled, "{status:?}");
    // The volume that it had created is found by the reconciliation.
    wait_for("its volume to be removed", async || {
        (!world.home.volume("vm").exists()).then_some(())
    })
    .await;
    proxy.clear();
}

#[tokio::test]
async fn the_last_job_that_a_volume_names_is_not_deleted() {
    let world = World::new()
        .await
        .with("CACHE_EVICTION_INTERVAL", "1s")
        .with("JOBS_RETENTION", "1h");
    let url = world.put("a.qcow2", &image(32 * MIB, 4, 1).build());
    let daemon = world.start();
    let kept = provision(&daemon, &url).await.job_id.to_string();
    let gone = accepted(&daemon, &url, "vm-2", 32 * MIB).await;
    ended(&daemon, &gone).await;
    fs::remove_file(world.home.volume("vm-2")).expect("it is removed");
    let database = Connection::open(world.home.path().join("jobs.db")).expect("it opens");
    database
        .execute(
            "UPDATE jobs SET finished_at = '2001-01-01T00:00:00.000Z'",
            [],
        )
        .expect("it is changed");
    wait_for("the other one to be forgotten", async || {
        daemon.status(&gone).await.err().map(drop)
    })
    .await;
    daemon.status(&kept).await.expect("it is known");
}

#[tokio::test]
async fn a_job_that_is_cancelled_before_its_first_write_leaves_the_volume_as_it_was() {
    let (world, proxy) = World::with_faults().await;
    let builder = image(32 * MIB, 20, 1);
    let url = world.put("a.qcow2", &builder.build());
    let other = world.put("b.qcow2", &image(32 * MIB, 200, 3).build());
    let daemon = world.start();
    let first = provision(&daemon, &url).await.job_id.to_string();
    let record = || {
        let text = fs::read(world.home.path().join("volumes/.lvp/vm.json")).expect("it is there");
        serde_json::from_slice::<serde_json::Value>(&text).expect("it is JSON")
    };
    let guest = guest_writes(&world);
    // Before it looked at the volume at all.
    proxy.inject(Rule::new(Fault::Slow(2000)).method("GET"));
    let job = accepted(&daemon, &other, "vm", 32 * MIB).await;
    let cancel = format!("/api/v1/jobs/{job}/cancel");
    let answer = daemon.call("POST", &cancel, None).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    check_untouched(&world, &guest);
    let left = record();
    assert_eq!(left["state"], "ready", "{left}");
    assert_eq!((&left["job"], &left["ended"]), (&json!(first), &json!(job)));
    proxy.clear();

    // After: it says that it is not ready, and cannot be booted.
    let job = {
        proxy.inject(Rule::new(Fault::Slow(400_000)).method("GET"));
        let job = accepted(&daemon, &other, "vm", 32 * MIB).await;
        wait_for("the volume to be marked", async || {
            (record()["state"] == "populating").then_some(())
        })
        .await;
        job
    };
    let cancel = format!("/api/v1/jobs/{job}/cancel");
    let answer = daemon.call("POST", &cancel, None).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    let left = record();
    let bytes = fs::read(world.home.volume("vm")).expect("it is read");
    match left["state"].as_str() {
        // It came in between.
        Some("ready") => assert!(bytes == guest, "{left}"),
        _ => assert!(bytes[..1 << 20].iter().all(|byte| *byte == 0), "{left}"),
    }
}
