//! Full disks: the job fails with a clear error and leaves nothing, and works once there is space.

use lvp_api::{JobState, JobStatus};
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::fault::{Fault, Rule};
use lvp_testkit::require::require;
use lvp_testkit::tmpfs::Tmpfs;
use serde_json::json;

use crate::support::{MIB, World, accepted, completed, ended, fetched, holds, image};

fn assert_out_of_space(status: &JobStatus, what: &str) {
    assert_eq!(
        (status.status, status.error_code),
        (JobState::Failed, Some(507)),
        "{status:?}"
    );
    let error = status.error.as_deref().unwrap_or_default();
    assert!(error.contains(what), "{status:?}");
}

/// A job for `vm` must work now.
async fn works_again(world: &World, daemon: &Daemon, url: &str, disk: &[u8]) {
    completed(daemon, url, "vm", 64 * MIB).await;
    assert!(holds(&world.home.volume("vm"), disk), "the disk is wrong");
}

#[tokio::test]
async fn a_cache_that_fills_up_during_a_download_fails_the_job_and_frees_the_space() {
    if !require("mount") {
        return;
    }
    let (world, proxy) = World::with_faults().await;
    let cache = Tmpfs::mount(&world.home.path().join("cache"), 96 * MIB).expect("it is mounted");
    let builder = image(64 * MIB, 1000, 1);
    let url = world.put("a.qcow2", &builder.build());
    proxy.inject(Rule::new(Fault::Slow(2_000_000)).method("GET"));
    let daemon = world.start();
    let requests = [
        (
            "/api/v1/jobs",
            json!({"image_url": url, "volume_name": "vm", "volume_size_bytes": 64 * MIB}),
        ),
        ("/api/v1/cache/fetch", json!({"image_url": url})),
    ];
    for (route, body) in requests {
        let job = daemon.submit(route, body).await.expect("it is accepted");
        fetched(&daemon, &job, MIB).await;
        cache.fill().expect("it is filled");
        let status = daemon.ended(&job).await.expect("it ends");
        assert_out_of_space(&status, "cache");
        assert_eq!(world.home.volume_files(), Vec::<String>::new());
        cache.make_room().expect("there is room");
        assert_eq!(world.home.cache_files(), Vec::<String>::new());
    }
    proxy.clear();
    works_again(&world, &daemon, &url, &builder.disk()).await;
}

#[tokio::test]
async fn an_unfinished_download_that_no_job_continues_makes_room_for_another() {
    if !require("mount") {
        return;
    }
    let (world, proxy) = World::with_faults().await;
    let cache = Tmpfs::mount(&world.home.path().join("cache"), 40 * MIB).expect("it is mounted");
    let unfinished = world.put("a.qcow2", &image(64 * MIB, 500, 1).build());
    let builder = image(64 * MIB, 700, 3);
    let bytes = builder.build();
    assert!(bytes.len() as u64 > 25 * MIB, "it fits beside the other");
    let url = world.put("b.qcow2", &bytes);
    // The metadata is read, and what comes before this range.
    proxy.inject(Rule::new(Fault::Reset).range_from(20 * MIB));
    // So slow that the image is read by several ranges; or else the first answer ends there.
    let slow = Rule::new(Fault::Slow(40_000_000)).also(Fault::CutAt(20 * MIB));
    proxy.inject(slow.range_from(0));
    let daemon = world.start();
    let status = ended(&daemon, &unfinished, "vm", 64 * MIB).await;
    assert_eq!(status.error_code, Some(503), "{status:?}");
    let left = world.home.cache_files();
    assert!(
        left.len() == 1 && left[0].ends_with(".partial"),
        "nothing is left to resume: {left:?}"
    );
    proxy.clear();
    works_again(&world, &daemon, &url, &builder.disk()).await;
    let files = world.home.cache_files();
    assert!(files.len() == 1 && files[0].ends_with(".img"), "{files:?}");
    drop(daemon);
    drop(cache);
}

#[tokio::test]
async fn a_volumes_directory_that_fills_up_fails_the_job_and_the_volume_is_removed() {
    if !require("mount") {
        return;
    }
    let (world, proxy) = World::with_faults().await;
    let volumes =
        Tmpfs::mount(&world.home.path().join("volumes"), 96 * MIB).expect("it is mounted");
    let builder = image(64 * MIB, 1000, 1);
    let url = world.put("a.qcow2", &builder.build());
    proxy.inject(Rule::new(Fault::Slow(2_000_000)).method("GET"));
    let daemon = world.start();
    let job = accepted(&daemon, &url, "vm", 64 * MIB).await;
    fetched(&daemon, &job, MIB).await;
    volumes.fill().expect("it is filled");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_out_of_space(&status, "volume");
    proxy.clear();
    volumes.make_room().expect("there is room");
    assert_eq!(world.home.volume_files(), Vec::<String>::new());
    works_again(&world, &daemon, &url, &builder.disk()).await;
}

#[tokio::test]
async fn a_volume_is_not_created_if_there_is_no_space_for_its_record() {
    if !require("mount") {
        return;
    }
    let world = World::new().await;
    let volumes =
        Tmpfs::mount(&world.home.path().join("volumes"), 96 * MIB).expect("it is mounted");
    let builder = image(64 * MIB, 20, 1);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    works_again(&world, &daemon, &url, &builder.disk()).await;
    volumes.fill().expect("it is filled");
    // The volume exists already: there is no space for the mark that it is being written.
    let status = ended(&daemon, &url, "vm", 64 * MIB).await;
    assert_out_of_space(&status, "volume");
    assert!(
        holds(&world.home.volume("vm"), &builder.disk()),
        "the volume was written nevertheless"
    );
    volumes.make_room().expect("there is room");
    works_again(&world, &daemon, &url, &builder.disk()).await;
}

#[tokio::test]
async fn with_a_full_database_disk_new_jobs_are_refused_and_running_ones_wait_for_space_and_complete()
 {
    if !require("mount") {
        return;
    }
    let (world, proxy) = World::with_faults().await;
    let directory = world.home.path().join("database");
    let path = directory.join("jobs.db").display().to_string();
    let world = world.with("DB_PATH", &path);
    let database = Tmpfs::mount(&directory, 4 * MIB).expect("it is mounted");
    let builder = image(64 * MIB, 300, 1);
    let url = world.put("a.qcow2", &builder.build());
    proxy.inject(Rule::new(Fault::Slow(2_000_000)).method("GET"));
    let daemon = world.start();
    let job = accepted(&daemon, &url, "vm", 64 * MIB).await;
    fetched(&daemon, &job, 0).await;
    database.fill().expect("it is filled");
    proxy.clear();
    // Some space may be left in the last page of the journal, but not for long.
    let refused = wait_for("a refusal", async || {
        let body = json!({"image_url": url});
        let answer = daemon.call("POST", "/api/v1/cache/fetch", Some(body)).await;
        answer.ok().filter(|answer| answer.status != 202)
    })
    .await;
    assert_eq!(refused.status, 507, "{refused:?}");
    wait_for("the readiness to say it", async || {
        let answer = daemon.call("GET", "/readyz", None).await.ok()?;
        let state = &answer.body["dependencies"]["storage"];
        (answer.status == 503 && state["up"] == json!(false)).then_some(())
    })
    .await;
    // Reading works all the time.
    daemon.status(&job).await.expect("it is readable");
    database.make_room().expect("there is room");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    works_again(&world, &daemon, &url, &builder.disk()).await;
}
