//! Volumes and jobs that contradict each other: every case in docs/operations.md.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use lvp_api::JobState;
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::fault::{Fault, FaultProxy, Rule};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::{MIB, World, accepted, completed, fetched, holds, image};

pub(crate) const UNKNOWN_JOB: &str = "00000000-0000-4000-8000-000000000001";

/// Kills a daemon in the middle of a job for `vm`. Returns the job.
async fn killed_half_way(world: &World, proxy: &FaultProxy, url: &str) -> String {
    proxy.inject(Rule::new(Fault::Slow(400_000)).method("GET"));
    let daemon = world.start();
    let job = accepted(&daemon, url, "vm", 32 * MIB).await;
    fetched(&daemon, &job, 0).await;
    daemon.kill().expect("it is killed");
    proxy.clear();
    assert_eq!(record(world)["state"], "populating");
    job
}

fn record_path(world: &World) -> PathBuf {
    world.home.path().join("volumes/.lvp/vm.json")
}

fn record(world: &World) -> Value {
    let text = fs::read(record_path(world)).expect("there is a record");
    serde_json::from_slice(&text).expect("it is JSON")
}

fn database(world: &World) -> Connection {
    Connection::open(world.home.path().join("jobs.db")).expect("it opens")
}

fn lose_the_database(world: &World) {
    for file in ["jobs.db", "jobs.db-wal", "jobs.db-shm"] {
        fs::remove_file(world.home.path().join(file)).ok();
    }
}

fn set_state(world: &World, job: &str, state: &str) {
    let changed = database(world)
        .execute(
            "UPDATE jobs SET state = ?2, finished_at = updated_at WHERE id = ?1",
            [job, state],
        )
        .expect("it is changed");
    assert_eq!(changed, 1);
}

/// The log lines with this message.
pub(crate) fn said(daemon: &Daemon, message: &str) -> Vec<Value> {
    let lines = daemon.log().into_iter();
    lines.filter(|line| line["message"] == message).collect()
}

pub(crate) const REMOVED: &str = "Removed an unfinished volume that an ended job had created";
pub(crate) const NOT_READY: &str =
    "A volume is not ready and no job will finish it: provision it again";
pub(crate) const CANNOT: &str =
    "An unfinished volume that an ended job had created cannot be removed";
const GONE: &str = "The volume of a completed job is gone: somebody removed it since";

#[tokio::test]
async fn an_unfinished_volume_of_a_job_in_a_lost_database_is_removed() {
    let (world, proxy) = World::with_faults().await;
    let url = world.put("a.qcow2", &image(32 * MIB, 200, 1).build());
    let job = killed_half_way(&world, &proxy, &url).await;
    lose_the_database(&world);
    let daemon = world.start();
    assert_eq!(daemon.until_said(REMOVED).await["job_id"], job);
    assert_eq!(world.home.volume_files(), Vec::<String>::new());
    assert!(!record_path(&world).exists(), "its record is left");
}

#[tokio::test]
async fn an_unfinished_volume_that_an_ended_job_created_is_removed() {
    for state in ["failed", "cancelled"] {
        let (world, proxy) = World::with_faults().await;
        let url = world.put("a.qcow2", &image(32 * MIB, 200, 1).build());
        let job = killed_half_way(&world, &proxy, &url).await;
        set_state(&world, &job, state);
        let daemon = world.start();
        assert_eq!(daemon.until_said(REMOVED).await["job_id"], job);
        assert_eq!(world.home.volume_files(), Vec::<String>::new(), "{state}");
    }
}

#[tokio::test]
async fn an_existing_volume_of_a_lost_job_stays_not_ready_and_a_repeat_repairs_it() {
    let (world, proxy) = World::with_faults().await;
    let world = world.with("LVM_ADOPT_UNTAGGED", "true");
    let builder = image(32 * MIB, 200, 1);
    let url = world.put("a.qcow2", &builder.build());
    fs::write(world.home.volume("vm"), vec![0xa5; 32 << 20]).expect("it is written");
    let job = killed_half_way(&world, &proxy, &url).await;
    lose_the_database(&world);
    let daemon = world.start();
    assert_eq!(daemon.until_said(NOT_READY).await["job_id"], job);
    assert_eq!(record(&world)["state"], "populating");
    completed(&daemon, &url, "vm", 32 * MIB).await;
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
    assert_eq!(record(&world)["state"], "ready");
}

#[tokio::test]
async fn a_volume_of_a_completed_job_that_says_populating_is_never_removed() {
    let (world, proxy) = World::with_faults().await;
    let url = world.put("a.qcow2", &image(32 * MIB, 200, 1).build());
    let job = killed_half_way(&world, &proxy, &url).await;
    set_state(&world, &job, "completed");
    let daemon = world.start();
    let line = daemon.until_said(NOT_READY).await;
    assert_eq!(line["job_state"], "completed");
    assert_eq!(world.home.volume_files(), ["vm"]);
}

#[tokio::test]
async fn a_completed_job_whose_volume_is_gone_is_logged_once() {
    let world = World::new().await.with("CACHE_EVICTION_INTERVAL", "1s");
    let url = world.put("a.qcow2", &image(32 * MIB, 4, 1).build());
    let daemon = world.start();
    let job = accepted(&daemon, &url, "vm", 32 * MIB).await;
    daemon.ended(&job).await.expect("it ends");
    fs::remove_file(world.home.volume("vm")).expect("it is removed");
    assert_eq!(daemon.until_said(GONE).await["job_id"], job);
    // Two more rounds, in each of which it is still gone.
    wait_for("further rounds", async || {
        (said(&daemon, "Volumes reconciled").len() >= 3).then_some(())
    })
    .await;
    assert_eq!(said(&daemon, GONE).len(), 1);
    assert_eq!(
        daemon.status(&job).await.expect("it is there").status,
        JobState::Completed
    );
}

#[tokio::test]
async fn leftovers_are_found_at_the_interval_while_the_daemon_runs() {
    let world = World::new().await.with("CACHE_EVICTION_INTERVAL", "1s");
    let daemon = world.start();
    daemon.until_said("Ready").await;
    let volume = world.home.volume("vm");
    fs::create_dir_all(world.home.path().join("volumes/.lvp")).expect("it is made");
    fs::write(&volume, vec![0; 1 << 20]).expect("it is written");
    let inode = fs::metadata(&volume).expect("it is there").ino();
    let record = json!({
        "version": 1, "inode": inode, "job": UNKNOWN_JOB, "state": "populating", "created": true,
    });
    fs::write(record_path(&world), record.to_string()).expect("it is written");
    assert_eq!(daemon.until_said(REMOVED).await["job_id"], UNKNOWN_JOB);
    assert!(!volume.exists());
}

#[tokio::test]
async fn a_job_that_fails_after_a_restart_undoes_its_earlier_changes() {
    let (world, proxy) = World::with_faults().await;
    let url = world.put("a.qcow2", &image(32 * MIB, 200, 1).build());
    let job = killed_half_way(&world, &proxy, &url).await;
    fs::remove_file(world.s3.objects().path("images", "a.qcow2")).expect("it is removed");
    let daemon = world.start();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(
        (status.status, status.error_code),
        (JobState::Failed, Some(404)),
        "{status:?}"
    );
    assert_eq!(world.home.volume_files(), Vec::<String>::new());
}

#[tokio::test]
async fn a_job_that_is_cancelled_while_it_waits_after_a_restart_undoes_its_earlier_changes() {
    let (world, proxy) = World::with_faults().await;
    let world = world.with("MAX_CONCURRENT", "1");
    let url = world.put("a.qcow2", &image(32 * MIB, 200, 1).build());
    let job = killed_half_way(&world, &proxy, &url).await;
    // Another job runs first: the one that was running waits.
    let other = world.put("b.qcow2", &image(32 * MIB, 200, 3).build());
    set_state(&world, &job, "failed");
    proxy.inject(Rule::new(Fault::Slow(100_000)).method("GET"));
    database(&world)
        .execute(
            "INSERT INTO jobs (id, kind, state, image_url, image_type, volume_name, \
             volume_size_bytes, attempts, created_at, updated_at) \
             SELECT ?1, kind, 'running', ?2, image_type, 'vm-2', volume_size_bytes, 1, created_at, \
             updated_at FROM jobs",
            [UNKNOWN_JOB, &other],
        )
        .expect("it is inserted");
    database(&world)
        .execute(
            "UPDATE jobs SET state = 'pending', finished_at = NULL WHERE id = ?1",
            [&job],
        )
        .expect("it is changed");
    let daemon = world.start();
    wait_for("the other job to run", async || {
        let status = daemon.status(UNKNOWN_JOB).await.ok()?;
        (status.attempts > 1).then_some(())
    })
    .await;
    let answer = daemon
        .call("POST", &format!("/api/v1/jobs/{job}/cancel"), None)
        .await
        .expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!world.home.volume("vm").exists(), "its volume is left");
}
