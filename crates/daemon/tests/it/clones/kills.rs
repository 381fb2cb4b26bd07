//! The daemon is killed while it clones: what the job makes is whole, and nothing else is left.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lvp_api::{JobState, Method};
use lvp_testkit::daemon::Daemon;
use lvp_testkit::process::signal;
use lvp_testkit::require::require;
use serde_json::Value;

use super::{DISK, Sharing, verified};
use crate::support::{completed, holds, image};

/// Kills before the test gives up: that one comes in the moment that is meant is likely each time.
const KILLS: usize = 25;

/// Kills the daemon as soon as this holds, from a thread that does nothing but look.
fn kill_when(daemon: &Daemon, holds: impl Fn() -> bool + Send + 'static) -> JoinHandle<()> {
    let pid = daemon.pid();
    std::thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(Instant::now() < deadline, "the moment to kill did not come");
            std::hint::spin_loop();
        }
        signal(pid, "KILL").expect("it is killed");
    })
}

/// Requests a volume of a daemon that is about to be killed, perhaps before it has answered, and waits for its end.
async fn killed(daemon: Daemon, killer: JoinHandle<()>, url: &str, volume: &str) {
    daemon.provision(url, volume, DISK).await.ok();
    killer.join().expect("it was killed");
    let status = daemon.wait().expect("it ends");
    assert!(!status.success(), "{status}");
}

/// The newest job of a volume.
async fn job_of(daemon: &Daemon, volume: &str) -> String {
    let jobs: Value = daemon.get("/api/v1/jobs?limit=200").await.expect("a list");
    let jobs = jobs["jobs"].as_array().expect("a list");
    let job = jobs.iter().find(|job| job["volume_name"] == volume);
    let job = job.unwrap_or_else(|| panic!("{volume} has no job in {jobs:?}"));
    job["job_id"].as_str().expect("text").to_owned()
}

fn said(world: &Sharing, volume: &str) -> Value {
    let record = world.home.volume(".lvp").join(format!("{volume}.json"));
    let text = fs::read_to_string(record).expect("it has a record");
    let record: Value = serde_json::from_str(&text).expect("JSON");
    record["state"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_a_clone_and_its_ready_ends_in_a_whole_volume() {
    for kind in ["xfs", "btrfs"] {
        if !require(kind) {
            continue;
        }
        let world = Sharing::on(kind).await;
        let builder = image(DISK, 100, 41);
        let url = world.put("a.qcow2", &builder.build());
        let daemon = world.start();
        completed(&daemon, &url, "vm-0", DISK).await;
        daemon.kill().expect("it is killed");
        let (mut names, mut unfinished) = (vec!["vm-0".to_owned()], 0);
        for number in 1..=KILLS {
            let name = format!("vm-{number}");
            let volume = world.home.volume(&name);
            let daemon = world.start();
            let killer = kill_when(&daemon, move || volume.exists());
            killed(daemon, killer, &url, &name).await;
            let was_unfinished = said(&world, &name) == "populating";
            unfinished += usize::from(was_unfinished);
            names.push(name.clone());

            let daemon = world.start();
            let job = job_of(&daemon, &name).await;
            let status = daemon.ended(&job).await.expect("it ends");
            assert_eq!(status.status, JobState::Completed, "{status:?}");
            if was_unfinished {
                assert_eq!(status.method, Some(Method::Clone), "{status:?}");
            }
            assert!(holds(&world.home.volume(&name), &builder.disk()), "{name}");
            assert_eq!(said(&world, &name), "ready");
            assert_eq!(world.golden_files().len(), 1, "{:?}", world.golden_files());
            names.sort();
            assert_eq!(world.home.volume_files(), names);
            daemon.kill().expect("it is killed");
            if unfinished == 2 {
                break;
            }
        }
        assert!(unfinished > 0, "no kill came between the two");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_within_a_replacement_leaves_the_old_content_or_the_new_under_the_name() {
    for kind in ["xfs", "btrfs"] {
        if !require(kind) {
            continue;
        }
        let world = Sharing::on(kind).await;
        let builders = [image(DISK, 100, 43), image(DISK, 120, 45)];
        let urls = [0, 1].map(|at| world.put(&format!("{at}.qcow2"), &builders[at].build()));
        let daemon = world.start();
        completed(&daemon, &urls[1], "other", DISK).await;
        completed(&daemon, &urls[0], "vm", DISK).await;
        daemon.kill().expect("it is killed");
        let volume = world.home.volume("vm");
        let has = |at: usize| holds(&volume, &builders[at].disk());
        // Kills with a clone beside the old volume, and with the old volume beside the new one.
        let mut seen = [0; 2];
        for number in 0..KILLS {
            let (old, new) = (number % 2, (number + 1) % 2);
            let (path, golden_dir) = (volume.clone(), world.golden_dir());
            let inode = fs::metadata(&volume).expect("it is there").ino();
            let daemon = world.start();
            // By turns: as soon as there is a clone, and as soon as it has the name.
            let killer = match (number / 2) % 2 {
                0 => kill_when(&daemon, move || waits(&golden_dir)),
                _ => kill_when(&daemon, move || {
                    fs::metadata(&path).is_ok_and(|file| file.ino() != inode)
                }),
            };
            killed(daemon, killer, &urls[new], "vm").await;
            let (has_old, has_new) = (has(old), has(new));
            assert!(has_old != has_new, "{number}: {has_old} {has_new}");
            if waits(&world.golden_dir()) {
                seen[usize::from(has_new)] += 1;
            }

            let daemon = world.start();
            let job = job_of(&daemon, "vm").await;
            let status = daemon.ended(&job).await.expect("it ends");
            assert_eq!(status.status, JobState::Completed, "{status:?}");
            assert!(has(new), "{number}");
            assert_eq!(said(&world, "vm"), "ready");
            let found = verified(&daemon, "vm").await.expect("it is read");
            assert!(found.matches, "{found:?}");
            assert_eq!(world.golden_files().len(), 2, "{:?}", world.golden_files());
            assert_eq!(world.home.volume_files(), ["other", "vm"]);
            daemon.kill().expect("it is killed");
            if seen.iter().all(|count| *count > 0) {
                break;
            }
        }
        assert!(seen[0] > 0, "no kill came before the exchange: {seen:?}");
    }
}

/// Whether there is a file under the name of a clone that waits.
fn waits(golden_dir: &Path) -> bool {
    let entries = fs::read_dir(golden_dir).into_iter().flatten().flatten();
    let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.any(|name| name.starts_with("lvp-new-") && !name.ends_with(".json"))
}
