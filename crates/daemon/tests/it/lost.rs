//! The database or the cache is lost while the daemon runs: that is reported, jobs wait, and continue when it is back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use lvp_api::JobState;
use lvp_testkit::daemon::{Answer, Daemon, wait_for};
use lvp_testkit::fault::{Fault, FaultProxy, Rule};
use lvp_testkit::require::{command, require};
use lvp_testkit::tmpfs::Tmpfs;
use serde_json::{Value, json};

use crate::support::{BINARY, MIB, World, accepted, fetched, holds, image};

/// The reason that `/readyz` gives for a dependency that is down.
async fn down(daemon: &Daemon, name: &str) -> String {
    wait_for(name, async || {
        let answer = daemon.call("GET", "/readyz", None).await.ok()?;
        let state = &answer.body["dependencies"][name];
        let is_down = answer.status == 503 && state["up"] == Value::Bool(false);
        is_down.then(|| state["error"].as_str().unwrap_or_default().to_owned())
    })
    .await
}

async fn is_ready(daemon: &Daemon) {
    wait_for("readiness", async || {
        let answer = daemon.call("GET", "/readyz", None).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
}

/// Waits until a job has a note that it waits.
async fn waits(daemon: &Daemon, job: &str) {
    wait_for("the job to wait", async || {
        let status = daemon.status(job).await.ok()?;
        assert!(!status.status.is_terminal(), "it does not wait: {status:?}");
        let waits = status.notes.iter().any(|note| note.starts_with("Waited"));
        waits.then_some(())
    })
    .await;
}

/// A job that runs until the proxy is cleared.
async fn under_way(world: &World, proxy: &FaultProxy) -> (Daemon, String, Vec<u8>) {
    let builder = image(64 * MIB, 300, 1);
    let url = world.put("a.qcow2", &builder.build());
    proxy.inject(Rule::new(Fault::Slow(2_000_000)).method("GET"));
    let daemon = world.start();
    is_ready(&daemon).await;
    let job = accepted(&daemon, &url, "vm", 64 * MIB).await;
    fetched(&daemon, &job, 0).await;
    (daemon, job, builder.disk())
}

async fn completes(world: &World, daemon: &Daemon, job: &str, disk: &[u8]) {
    let status = daemon.ended(job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(holds(&world.home.volume("vm"), disk), "the disk is wrong");
}

async fn ask(daemon: &Daemon) -> Answer {
    let body = json!({"image_url": "s3://images/a.qcow2"});
    let answer = daemon.call("POST", "/api/v1/cache/fetch", Some(body)).await;
    answer.expect("it answers")
}

#[tokio::test]
async fn a_database_that_is_moved_away_is_reported_and_jobs_wait_until_it_is_back() {
    is_waited_for("jobs.db").await;
}

#[tokio::test]
async fn a_databases_wal_that_is_moved_away_is_reported_and_jobs_wait_until_it_is_back() {
    is_waited_for("jobs.db-wal").await;
}

#[tokio::test]
async fn a_databases_shm_that_is_moved_away_is_reported_and_jobs_wait_until_it_is_back() {
    is_waited_for("jobs.db-shm").await;
}

async fn is_waited_for(file: &str) {
    let (world, proxy) = World::with_faults().await;
    let (daemon, job, disk) = under_way(&world, &proxy).await;
    let (there, away) = (world.home.path().join(file), world.home.path().join("away"));
    fs::rename(&there, &away).expect("it is moved");
    proxy.clear();
    waits(&daemon, &job).await;
    let error = down(&daemon, "storage").await;
    let told = format!("{file} was removed");
    assert!(error.contains(&told), "{told}: {error}");
    let refused = ask(&daemon).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(
        refused.body.to_string().contains("was removed"),
        "{refused:?}"
    );
    // Another file in its place is not the one that was opened.
    fs::copy(&away, &there).expect("it is copied");
    wait_for("the other file to be seen", async || {
        let error = down(&daemon, "storage").await;
        error.contains("was replaced").then_some(())
    })
    .await;
    let status = daemon.status(&job).await.expect("it is readable");
    assert_eq!(status.status, JobState::Running, "{status:?}");
    fs::rename(&away, &there).expect("it is moved back");
    completes(&world, &daemon, &job, &disk).await;
    is_ready(&daemon).await;
    // It is written to the file that the next start opens.
    daemon.kill().expect("it is killed");
    let daemon = world.start();
    completes(&world, &daemon, &job, &disk).await;
}

#[tokio::test]
async fn a_job_that_waits_for_a_lost_database_is_left_to_the_next_start() {
    let (world, proxy) = World::with_faults().await;
    let world = world.with("SHUTDOWN_GRACE", "1s");
    let (daemon, job, disk) = under_way(&world, &proxy).await;
    let (there, away) = (
        world.home.path().join("jobs.db"),
        world.home.path().join("away"),
    );
    fs::rename(&there, &away).expect("it is moved");
    proxy.clear();
    waits(&daemon, &job).await;
    daemon.signal("TERM").expect("it is told");
    let ended = daemon.wait().expect("it ends");
    assert!(ended.success(), "{ended}");
    fs::rename(&away, &there).expect("it is moved back");
    let daemon = world.start();
    completes(&world, &daemon, &job, &disk).await;
}

#[tokio::test]
async fn a_job_that_waits_for_a_lost_cache_can_be_cancelled() {
    let (world, proxy) = World::with_faults().await;
    let (daemon, job, _) = under_way(&world, &proxy).await;
    fs::rename(
        world.home.path().join("cache"),
        world.home.path().join("away"),
    )
    .expect("it is moved");
    proxy.clear();
    waits(&daemon, &job).await;
    let route = format!("/api/v1/jobs/{job}/cancel");
    let answer = daemon.call("POST", &route, None).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Cancelled, "{status:?}");
    assert_eq!(world.home.volume_files(), Vec::<String>::new());
}

#[tokio::test]
async fn a_database_that_may_not_grow_is_reported_and_jobs_wait_until_it_may() {
    if !require("mount") {
        return;
    }
    let (world, proxy) = World::with_faults().await;
    let (daemon, job, disk) = under_way(&world, &proxy).await;
    let limit = |bytes: &str| {
        let set = command("prlimit")
            .args([
                "--pid",
                &daemon.pid().to_string(),
                &format!("--fsize={bytes}"),
            ])
            .status();
        assert!(set.expect("it starts").success());
    };
    limit("1:unlimited");
    proxy.clear();
    let error = down(&daemon, "storage").await;
    assert!(error.contains("probe"), "{error}");
    limit("unlimited:unlimited");
    is_ready(&daemon).await;
    // The limit also affects the cache's file, which has nothing to do with the database: so it may have failed.
    let status = daemon
        .ended(&job)
        .await
        .expect("the daemon lives, and the job ends");
    if status.status == JobState::Completed {
        assert!(holds(&world.home.volume("vm"), &disk), "the disk is wrong");
    }
}

#[tokio::test]
async fn a_cache_directory_that_is_moved_away_is_reported_and_jobs_wait_until_it_is_back() {
    let (world, proxy) = World::with_faults().await;
    let (daemon, job, disk) = under_way(&world, &proxy).await;
    let (there, away) = (
        world.home.path().join("cache"),
        world.home.path().join("away"),
    );
    fs::rename(&there, &away).expect("it is moved");
    let late = accepted(&daemon, "s3://images/a.qcow2", "late", 64 * MIB).await;
    proxy.clear();
    waits(&daemon, &job).await;
    let error = down(&daemon, "cache").await;
    assert!(error.contains("is missing"), "{error}");
    assert!(!there.exists(), "somebody has made another one");
    fs::rename(&away, &there).expect("it is moved back");
    completes(&world, &daemon, &job, &disk).await;
    let status = daemon.ended(&late).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(
        holds(&world.home.volume("late"), &disk),
        "the disk is wrong"
    );
    is_ready(&daemon).await;
}

#[tokio::test]
async fn an_unmounted_cache_is_not_written_to_and_keeps_its_index() {
    if !require("mount") {
        return;
    }
    let world = World::new().await.with("CACHE_EVICTION_INTERVAL", "1s");
    let at = |name: &str| world.home.path().join(name);
    let room = Tmpfs::mount(&at("room"), 64 * MIB).expect("it is mounted");
    fs::create_dir(at("room/cache")).expect("it is made");
    fs::create_dir(at("cache")).expect("it is made");
    let mount = || {
        let (from, to) = (at("room/cache"), at("cache"));
        let mounted = command("mount").arg("--bind").args([from, to]).status();
        assert!(mounted.expect("it starts").success());
    };
    let unmount = || {
        let unmounted = command("umount").arg("--lazy").arg(at("cache")).status();
        assert!(unmounted.expect("it starts").success());
    };
    mount();
    let builder = image(32 * MIB, 20, 1);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let job = daemon.provision(&url, "vm", 32 * MIB).await.expect("a job");
    completes(&world, &daemon, &job, &builder.disk()).await;
    let cached = world.home.cache_files();
    unmount();
    let error = down(&daemon, "cache").await;
    assert!(error.contains("is mounted"), "{error}");
    let job = daemon.provision(&url, "vm", 32 * MIB).await.expect("a job");
    waits(&daemon, &job).await;
    daemon.until_said("Cannot clean up the cache").await;
    assert_eq!(fs::read_dir(at("cache")).expect("it is there").count(), 0);
    mount();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert_eq!(status.cache_hit, Some(true), "it was forgotten: {status:?}");
    assert_eq!(world.home.cache_files(), cached);
    is_ready(&daemon).await;
    drop(daemon);
    unmount();
    drop(room);
}

/// A process that does not outlive its test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself; in both cases it is gone afterwards.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn the_database_and_its_backups_are_readable_by_their_owner_only_whatever_the_umask() {
    let mode = |path: &Path| {
        let found = fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode();
        format!("{:o}", found & 0o7777)
    };
    for umask in ["000", "277"] {
        let world = World::new().await;
        let at = |name: &str| world.home.path().join(name);
        // Exec, so that it is the daemon that is killed.
        let daemon = command("sh")
            .arg("-c")
            .arg(format!(
                "umask {umask}; exec \"$0\" serve --config /dev/null"
            ))
            .arg(BINARY)
            .env_clear()
            .envs(world.home.environment())
            .stderr(std::process::Stdio::null())
            .spawn();
        let daemon = Killed(daemon.expect("it starts"));
        wait_for("the database", async || {
            at("jobs.db-wal").exists().then_some(())
        })
        .await;
        for file in ["jobs.db", "jobs.db-wal", "jobs.db-shm", "jobs.db.lock"] {
            wait_for(file, async || (mode(&at(file)) == "600").then_some(())).await;
        }
        let made = command("sh")
            .arg("-c")
            .arg(format!(
                "umask {umask}; exec \"$0\" db backup --config /dev/null \"$1\""
            ))
            .arg(BINARY)
            .arg(at("copy.db"))
            .env_clear()
            .envs(world.home.environment())
            .output()
            .expect("it starts");
        drop(daemon);
        assert!(made.status.success(), "{made:?}");
        assert_eq!(mode(&at("copy.db")), "600");
    }
    // As an older release left it.
    let world = World::new().await;
    let at = |name: &str| world.home.path().join(name);
    world.start().kill().expect("it is killed");
    for file in ["jobs.db", "jobs.db-wal", "jobs.db-shm"] {
        assert!(at(file).exists(), "{file} is not there after a kill");
        fs::set_permissions(at(file), fs::Permissions::from_mode(0o644)).expect("it is set");
    }
    let daemon = world.start();
    for file in ["jobs.db", "jobs.db-wal", "jobs.db-shm"] {
        assert_eq!(mode(&at(file)), "600", "{file}");
    }
    let message = "The database's file could be read or written by other users: its mode was set \
        to 0600";
    daemon.until_said(message).await;
}
