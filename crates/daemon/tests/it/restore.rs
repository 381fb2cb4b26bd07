//! A database that is older than the volumes: restored from a backup, or left behind by a kill. A
//! volume that says ready is written only by a job accepted after it said so.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use lvp_api::{JobState, JobStatus};
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::fault::{Fault, FaultProxy, Rule};
use rusqlite::Connection;
use serde_json::json;

use crate::support::{MIB, World, holds, image};

/// What a guest has written since.
pub(crate) const GUEST: &[u8] = b"A guest's own data, in a place that the image has as well";

/// Where: at its head, in its middle and at its end.
pub(crate) const PLACES: [u64; 3] = [4096, 16 * MIB, 24 * MIB - 512];

/// The database as it is now, beside a daemon that may be running.
pub(crate) fn back_up(world: &World, name: &str) -> PathBuf {
    let copy = world.home.path().join(name);
    let arguments = ["db", "backup", "--config", "/dev/null"];
    let path = copy.to_str().expect("a path");
    let output = world.home.run(&[&arguments[..], &[path]].concat());
    let output = output.expect("it starts");
    assert!(output.status.success(), "{output:?}");
    copy
}

/// Puts a copy in the database's place, as docs/operations.md says.
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

/// A job that runs and has marked the volume, and goes on once the proxy is cleared.
async fn half_way(world: &World, proxy: &FaultProxy, daemon: &Daemon, url: &str) -> String {
    proxy.inject(Rule::new(Fault::Slow(400_000)).method("GET"));
    let job = daemon.provision(url, "vm", 32 * MIB).await;
    let job = job.expect("it is accepted");
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
    assert!(error.contains("taken up from the database"), "{error}");
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
        .until_said("A job's end cannot be recorded; trying again")
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
    // Whoever means it asks again.
    let again = provision(&daemon, &url).await;
    assert_eq!(again.status, JobState::Completed, "{again:?}");
}

#[tokio::test]
async fn a_volume_whose_record_is_gone_is_refused_to_a_job_of_a_restored_database() {
    let (world, proxy) = World::with_faults().await;
    // Not even what lets every request take over such volumes lets this one.
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

/// A job that waits for its turn, behind one on another volume.
async fn waiting(daemon: &Daemon, proxy: &FaultProxy, slow: &str, url: &str) -> (String, String) {
    proxy.inject(Rule::new(Fault::Slow(100_000)).method("GET"));
    let first = daemon.provision(slow, "other", 32 * MIB).await;
    let second = daemon.provision(url, "vm", 32 * MIB).await;
    let (first, second) = (first.expect("accepted"), second.expect("accepted"));
    wait_for("the first one to run", async || {
        let status = daemon.status(&first).await.ok()?.status;
        (status == JobState::Running).then_some(())
    })
    .await;
    let status = daemon.status(&second).await.expect("it is known").status;
    assert_eq!(status, JobState::Pending);
    (first, second)
}

#[tokio::test]
async fn a_job_that_waited_to_rewrite_a_volume_does_so_after_a_restart() {
    let (world, proxy) = World::with_faults().await;
    let world = world.with("MAX_CONCURRENT", "1");
    let (old, new) = (image(32 * MIB, 20, 1), image(32 * MIB, 20, 3));
    let (old_url, new_url) = (
        world.put("old.qcow2", &old.build()),
        world.put("new.qcow2", &new.build()),
    );
    let slow = world.put("slow.qcow2", &image(32 * MIB, 200, 5).build());
    let daemon = world.start();
    provision(&daemon, &old_url).await;
    // One that ends without writing it is the last that the volume knows.
    let missing = provision(&daemon, "s3://images/none.qcow2").await;
    assert_eq!(missing.error_code, Some(404), "{missing:?}");
    let (_, job) = waiting(&daemon, &proxy, &slow, &new_url).await;
    daemon.kill().expect("it is killed");
    proxy.clear();
    let daemon = world.start();
    let status = ended(&daemon, &job).await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(holds(&world.home.volume("vm"), &new.disk()));
}

#[tokio::test]
async fn a_job_that_was_cancelled_since_the_backup_rewrites_nothing_after_it_is_restored() {
    let (world, proxy) = World::with_faults().await;
    let world = world.with("MAX_CONCURRENT", "1");
    let (old, new) = (image(32 * MIB, 20, 1), image(32 * MIB, 20, 3));
    let (old_url, new_url) = (
        world.put("old.qcow2", &old.build()),
        world.put("new.qcow2", &new.build()),
    );
    let slow = world.put("slow.qcow2", &image(32 * MIB, 200, 5).build());
    let daemon = world.start();
    provision(&daemon, &old_url).await;
    let (_, job) = waiting(&daemon, &proxy, &slow, &new_url).await;
    let copy = back_up(&world, "nightly.db");
    let cancel = format!("/api/v1/jobs/{job}/cancel");
    let answer = daemon.call("POST", &cancel, None).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    daemon.kill().expect("it is killed");
    let guest = guest_writes(&world);
    proxy.clear();
    // And as often as it is restored: what it says then hides nothing.
    for _ in 0..2 {
        restore(&world, &copy);
        let daemon = world.start();
        check_refused(&ended(&daemon, &job).await);
        check_untouched(&world, &guest);
    }
}

#[tokio::test]
async fn a_finished_job_that_waits_after_a_restore_cannot_be_cancelled() {
    let (world, proxy) = World::with_faults().await;
    let world = world.with("MAX_CONCURRENT", "1");
    let url = world.put("a.qcow2", &image(32 * MIB, 20, 1).build());
    let slow = world.put("slow.qcow2", &image(32 * MIB, 200, 5).build());
    let daemon = world.start();
    let finished = provision(&daemon, &url).await.job_id.to_string();
    proxy.inject(Rule::new(Fault::Slow(100_000)).method("GET"));
    let running = daemon.provision(&slow, "other", 32 * MIB).await;
    let running = running.expect("it is accepted");
    wait_for("it to run", async || {
        let status = daemon.status(&running).await.ok()?.status;
        (status == JobState::Running).then_some(())
    })
    .await;
    daemon.kill().expect("it is killed");
    forget_the_end(&world, &finished, 1);
    let database = Connection::open(world.home.path().join("jobs.db")).expect("it opens");
    let waits = database.execute(
        "UPDATE jobs SET state = 'pending' WHERE id = ?1",
        [&finished],
    );
    assert_eq!(waits.expect("it is changed"), 1);
    drop(database);
    let guest = guest_writes(&world);
    let daemon = world.start();
    wait_for("the other one to run", async || {
        let status = daemon.status(&running).await.ok()?;
        (status.attempts > 1).then_some(())
    })
    .await;
    let cancel = format!("/api/v1/jobs/{finished}/cancel");
    let answer = daemon.call("POST", &cancel, None).await.expect("an answer");
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(ended(&daemon, &finished).await.status, JobState::Completed);
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
    // What it had made is found by the look at all volumes.
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
    let gone = daemon.provision(&url, "vm-2", 32 * MIB).await;
    let gone = gone.expect("it is accepted");
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
async fn an_unmarked_file_is_refused_unless_the_request_or_an_operator_allows_it() {
    let world = World::new().await;
    let builder = image(32 * MIB, 4, 1);
    let url = world.put("a.qcow2", &builder.build());
    let volume = world.home.volume("vm");
    let strange = vec![0xa5; 32 << 20];
    let daemon = world.start();
    let body = json!({"image_url": url, "volume_name": "vm", "volume_size_bytes": 32 * MIB});
    let ask = async |body| {
        let answer = daemon.call("POST", "/api/v1/jobs", Some(body)).await;
        let answer = answer.expect("an answer");
        let job = answer.body["job_id"].as_str().expect("a job").to_owned();
        ended(&daemon, &job).await
    };
    fs::write(&volume, &strange).expect("it is written");
    let refused = ask(body.clone()).await;
    assert_eq!(refused.error_code, Some(409), "{refused:?}");
    let error = refused.error.expect("it says why");
    assert!(error.contains("lvpctl volumes adopt vm"), "{error}");
    assert!(fs::read(&volume).expect("it is there") == strange);

    let mut meant = body.clone();
    meant["adopt"] = true.into();
    let status = ask(meant).await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(holds(&volume, &builder.disk()));

    fs::remove_file(&volume).expect("it is removed");
    fs::write(&volume, &strange).expect("it is written");
    let adopt = async |name: &str| {
        let route = format!("/api/v1/volumes/{name}/adopt");
        daemon.call("POST", &route, None).await.expect("an answer")
    };
    let answer = adopt("vm").await;
    assert_eq!(
        (answer.status, &answer.body["state"]),
        (200, &json!("adopted"))
    );
    assert!(fs::read(&volume).expect("it is there") == strange);
    assert_eq!(adopt("absent").await.status, 404);
    assert_eq!(adopt("-bad").await.status, 400);
    let status = ask(body).await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(holds(&volume, &builder.disk()));
}

/// As the Go program's own schema has it.
pub(crate) fn go_database(path: &std::path::Path, jobs: &[(&str, &str)]) {
    let database = Connection::open(path).expect("it is made");
    database
        .execute_batch(
            "CREATE TABLE jobs (id TEXT PRIMARY KEY, status TEXT NOT NULL, \
             request_json TEXT NOT NULL, progress_json TEXT, error_message TEXT, \
             retry_count INTEGER DEFAULT 0, created_at INTEGER NOT NULL, \
             updated_at INTEGER NOT NULL, completed_at INTEGER)",
        )
        .expect("it is SQL");
    for (index, (volume, status)) in jobs.iter().enumerate() {
        let request = json!({"image_url": "http://s3/i.qcow2", "volume_name": volume}).to_string();
        database
            .execute(
                "INSERT INTO jobs (id, status, request_json, created_at, updated_at) \
                 VALUES (?1, ?2, ?3, 1, 1)",
                (index.to_string(), status, request),
            )
            .expect("it is inserted");
    }
}

#[tokio::test]
async fn volumes_of_the_go_programs_completed_jobs_are_handed_over_by_one_command() {
    let world = World::new().await;
    for name in ["one", "two", "failed", "strange"] {
        fs::write(world.home.volume(name), vec![0xa5; 1 << 20]).expect("it is written");
    }
    // A running virtual machine has it open.
    let guest = File::open(world.home.volume("one")).expect("it opens");
    let old = world.home.path().join("go.db");
    go_database(
        &old,
        &[
            ("one", "completed"),
            ("two", "completed"),
            ("two", "completed"),
            ("gone", "completed"),
            ("failed", "failed"),
            ("-bad", "completed"),
        ],
    );
    let run = |more: &[&str]| {
        let old = old.to_str().expect("a path");
        let arguments = ["db", "adopt-go-volumes", "--config", "/dev/null", old];
        let output = world.home.run(&[&arguments[..], more].concat());
        let output = output.expect("it starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("it is text")
    };
    let dry = run(&["--dry-run"]);
    assert_eq!(
        dry,
        "gone: is gone\none: would be handed over\ntwo: would be handed over\n"
    );
    let said = run(&[]);
    assert_eq!(said, "gone: is gone\none: handed over\ntwo: handed over\n");
    assert_eq!(
        run(&[]),
        "gone: is gone\none: already belongs to this program\ntwo: already belongs to this program\n"
    );
    drop(guest);
    let daemon = world.start();
    let listed: lvp_api::VolumeList = daemon.get("/api/v1/volumes").await.expect("a list");
    let states: Vec<_> = listed
        .volumes
        .iter()
        .map(|volume| (volume.name.as_str(), volume.state.as_str()))
        .collect();
    assert_eq!(
        states,
        [
            ("failed", "untagged"),
            ("one", "adopted"),
            ("strange", "untagged"),
            ("two", "adopted"),
        ]
    );
    let bytes = fs::read(world.home.volume("one")).expect("it is read");
    assert!(bytes.iter().all(|byte| *byte == 0xa5), "a byte was changed");
    let report = crate::doctor::report(&world.home, &[]);
    let (status, message) = crate::doctor::check(&report, "volumes.adopted");
    assert_eq!(status, "ok", "{message}");
    assert!(message.contains("failed, strange"), "{message}");
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
    let job = daemon.provision(&other, "vm", 32 * MIB).await;
    let job = job.expect("it is accepted");
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
        let job = daemon.provision(&other, "vm", 32 * MIB).await;
        let job = job.expect("it is accepted");
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
