//! Descriptors of a child that was just forked, until it runs its program, block nobody.
//!
//! Everything is in this process, as in the daemon: threads start commands continuously while others open what
//! is locked, close it and open it again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lvp_api::{JobId, VolumeName};
use lvp_image::device::{Content, FileSize, Target};
use lvp_testkit::loopdev::LoopDevice;
use lvp_testkit::require::require;
use provisioner::cmd;
use provisioner::lock::Lock;
use provisioner::volume::dir::Dir;
use provisioner::volume::{NoLibvirt, Volumes as _};

use crate::support::MIB;

/// The least number of opens,
const OPENS: u64 = 1000;

/// and of commands that are started meanwhile.
const COMMANDS: u64 = 500;

/// Tasks that start a command whenever the last one has ended.
const STARTERS: usize = 4;

/// Opens this many times while commands are started. Returns the refusals.
async fn refusals(mut open: impl FnMut() -> Result<(), String> + Send + 'static) -> Vec<String> {
    let stop = Arc::new(AtomicBool::new(false));
    let started = Arc::new(AtomicU64::new(0));
    let starters: Vec<_> = (0..STARTERS)
        .map(|_| {
            let (stop, started) = (Arc::clone(&stop), Arc::clone(&started));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let none: [&str; 0] = [];
                    cmd::run("true", none, Duration::from_secs(20))
                        .await
                        .expect("it runs");
                    started.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let so_far = Arc::clone(&started);
    let opened = tokio::task::spawn_blocking(move || {
        let (mut opened, mut refused) = (0, Vec::new());
        while opened < OPENS || so_far.load(Ordering::Relaxed) < COMMANDS {
            opened += 1;
            refused.extend(open().err());
        }
        refused
    });
    let refused = opened.await.expect("it does not break off");
    stop.store(true, Ordering::Relaxed);
    for starter in starters {
        starter.await.expect("it does not break off");
    }
    refused
}

fn assert_none(refused: &[String]) {
    assert!(
        refused.is_empty(),
        "{} refused, the first: {}",
        refused.len(),
        refused[0]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_volumes_file_is_never_in_use_because_a_command_is_being_started() {
    let home = tempfile::tempdir().expect("there is room");
    let volumes = Dir::new(home.path().to_owned(), Arc::new(NoLibvirt));
    let job = JobId::random();
    let name: VolumeName = "vm".parse().expect("it is a name");
    let volume = volumes.create(&name, MIB, job).await.expect("it is made");
    let here = tokio::runtime::Handle::current();
    let refused = refusals(move || {
        let opened = here.block_on(volumes.open(&volume));
        opened.map(drop).map_err(|error| error.to_string())
    });
    assert_none(&refused.await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_targets_file_is_never_in_use_because_a_command_is_being_started() {
    let home = tempfile::tempdir().expect("there is room");
    let path = home.path().join("disk");
    let refused = refusals(move || {
        let opened = Target::open_file(&path, FileSize::Bytes(MIB));
        opened.map(drop).map_err(|error| error.to_string())
    });
    assert_none(&refused.await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_block_device_is_never_in_use_because_a_command_is_being_started() {
    if !require("loop") {
        return;
    }
    let device = LoopDevice::new(MIB).expect("it is attached");
    let path = device.path().to_owned();
    let refused = refusals(move || {
        let opened = Target::open_block(&path, Content::Unknown);
        opened.map(drop).map_err(|error| error.to_string())
    });
    assert_none(&refused.await);
}

/// What is held permanently is still refused, and quickly.
#[test]
fn what_is_held_permanently_is_refused_within_a_moment() {
    let home = tempfile::tempdir().expect("there is room");
    let path = home.path().join("disk");
    let held = open(&path).expect("nobody has it");
    let started = std::time::Instant::now();
    let refused = open(&path).expect_err("it is held");
    assert!(refused.to_string().contains("in use"), "{refused}");
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        started.elapsed()
    );
    drop(held);
    open(&path).expect("nobody has it any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lock_of_the_daemon_is_never_held_because_a_command_is_being_started() {
    let home = tempfile::tempdir().expect("there is room");
    let path = home.path().join("lock");
    let refused = refusals(move || {
        let taken = Lock::take(&path, "The cache");
        taken.map(drop).map_err(|error| error.to_string())
    });
    assert_none(&refused.await);
}

fn open(path: &Path) -> lvp_image::Result<Target> {
    Target::open_file(path, FileSize::Bytes(MIB))
}
