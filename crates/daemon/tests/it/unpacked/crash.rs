//! The daemon is killed, or the disk fills up, while an unpacked copy is made.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use lvp_api::{JobState, Method};
use lvp_testkit::daemon::wait_for;
use lvp_testkit::loopfs::LoopFs;
use lvp_testkit::process::signal;
use lvp_testkit::require::require;
use rustix::fs::{FallocateFlags, fallocate};

use super::{DISK, Plain, fetch, list, nested, says};
use crate::support::{MIB, completed, ended, holds, image};

/// Waits for an unfinished copy in a thread that does nothing but look, then does something about it.
fn when_unpacking(
    world: &Plain,
    then: impl FnOnce() + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let cache = world.home.path().join("cache");
    std::thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(60);
        let is_there = || {
            let entries = fs::read_dir(&cache).into_iter().flatten().flatten();
            let mut names = entries.map(|entry| entry.file_name());
            names.any(|name| name.to_string_lossy().ends_with(".disk.partial"))
        };
        while !is_there() {
            assert!(Instant::now() < deadline, "no copy was being made");
            std::hint::spin_loop();
        }
        then();
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_copy_is_made_leaves_nothing_of_it() {
    if !require("ext4") {
        return;
    }
    let world = Plain::new().await.with("CACHE_UNPACKED", "always");
    let builder = nested(1000, 15);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    fetch(&daemon, &url).await;
    daemon.kill().expect("it is killed");
    let mut was_unfinished = false;
    for number in 0..10 {
        let daemon = world.start();
        let pid = daemon.pid();
        let killer = when_unpacking(&world, move || signal(pid, "KILL").expect("it is killed"));
        // It may be killed before it has answered.
        let volume = format!("vm-{number}");
        daemon.provision(&url, &volume, DISK).await.ok();
        killer.join().expect("it was killed");
        daemon.wait().expect("it ends");
        was_unfinished |= world.disks().iter().any(|name| name.ends_with(".partial"));
        let daemon = world.start();
        let status = completed(&daemon, &url, "after", DISK).await;
        assert_eq!(status.method, Some(Method::Copy));
        assert!(holds(&world.home.volume("after"), &builder.disk()));
        wait_for("only the copy", async || {
            let disks = world.disks();
            (disks.len() == 1 && disks[0].ends_with(".disk")).then_some(())
        })
        .await;
        let key = list(&daemon).await.images[0].key.clone();
        let jobs: serde_json::Value = daemon.get("/api/v1/jobs").await.expect("a list");
        for job in jobs["jobs"].as_array().expect("a list") {
            let job = job["job_id"].as_str().expect("text");
            let status = daemon.ended(job).await.expect("it ends");
            assert_eq!(status.status, JobState::Completed, "{status:?}");
        }
        // So that it is made again.
        daemon.kill().expect("it is killed");
        fs::remove_file(world.cached(&format!(".lvp-{key}-qcow2.disk"))).expect("it is removed");
        if was_unfinished {
            return;
        }
    }
    panic!("no kill came while a copy was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_while_a_copy_is_made_costs_the_copy_and_not_the_volume() {
    if !require("ext4") {
        return;
    }
    // The volumes have room: what runs out is the cache's.
    let file_system = LoopFs::new("ext4", 640 * MIB).expect("it is mounted");
    let cache = file_system.path().join("cache");
    let mut was_full = false;
    for seed in 0..10 {
        let world = Plain::new()
            .await
            .with("CACHE_UNPACKED", "always")
            .with("CACHE_DIR", &cache.display().to_string());
        let builder = image(3 * DISK, 3000, 17 + seed);
        let url = world.put("a.qcow2", &builder.build());
        let daemon = world.start();
        fetch(&daemon, &url).await;
        let filler = file_system.path().join("filler");
        let fill = {
            let (cache, filler) = (cache.clone(), filler.clone());
            std::thread::spawn(move || {
                let deadline = Instant::now() + Duration::from_secs(60);
                let is_made = || {
                    let entries = fs::read_dir(&cache).into_iter().flatten().flatten();
                    let mut names = entries.map(|entry| entry.file_name());
                    names.any(|name| name.to_string_lossy().ends_with(".disk.partial"))
                };
                while !is_made() {
                    assert!(Instant::now() < deadline, "no copy was being made");
                    std::hint::spin_loop();
                }
                fill_up(&filler);
            })
        };
        let status = ended(&daemon, &url, "vm", 3 * DISK).await;
        fill.join().expect("it is filled");
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        assert!(holds(&world.home.volume("vm"), &builder.disk()));
        let names = || {
            let entries = fs::read_dir(&cache).expect("it is there").flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.collect::<Vec<_>>()
        };
        assert!(!names().iter().any(|name| name.ends_with(".partial")));
        was_full = says(&status, "No unpacked copy of the image was made");
        if was_full {
            assert!(says(&status, "No space left"), "{status:?}");
            assert!(!names().iter().any(|name| name.ends_with(".disk")));
        }
        fs::remove_file(&filler).expect("it is removed");
        let key = list(&daemon).await.images[0].key.clone();
        daemon
            .call("DELETE", &format!("/api/v1/cache/images/{key}"), None)
            .await
            .expect("it answers");
        drop(daemon);
        if was_full {
            break;
        }
    }
    assert!(was_full, "the disk never filled up in time");
}

/// Takes all room of a file system.
fn fill_up(path: &std::path::Path) {
    let file = File::create(path).expect("it is made");
    let (mut at, mut piece) = (0, 64 * MIB);
    while piece >= 4096 {
        match fallocate(&file, FallocateFlags::empty(), at, piece) {
            Ok(()) => at += piece,
            Err(_) => piece /= 2,
        }
    }
}
