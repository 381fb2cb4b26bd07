//! Jobs step aside while others use the disk of the volumes: a real file system on a device of its own, and a real
//! other process that reads from it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lvp_api::{JobState, JobStatus};
use lvp_image::buffer::BufferPool;
use lvp_testkit::daemon::{Daemon, Home, wait_for};
use lvp_testkit::loopfs::LoopFs;
use lvp_testkit::require::require;
use lvp_testkit::s3::S3;
use serde_json::Value;

use crate::support::{BINARY, MIB, World, holds, image, metric, qemu_disk};

const DISK: u64 = 96 * MIB;

const O_DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits().cast_signed();

/// Somebody who reads from the same disk about two hundred times a second, until dropped.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn start(directory: &Path) -> Self {
        const FILE: u64 = 32 * MIB;
        let path = directory.join("guest.raw");
        fs::write(&path, vec![7; usize::try_from(FILE).expect("it fits")]).expect("it is written");
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(O_DIRECT)
            .open(&path)
            .expect("it opens");
        file.sync_all().expect("it is on the disk");
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let pool = BufferPool::new(1, 4096);
            let mut buffer = pool.take(|| false).expect("memory").expect("one");
            let mut place = 1_u64;
            while !until.load(Ordering::Relaxed) {
                place = place
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let offset = (place >> 20) % (FILE / 4096) * 4096;
                file.read_exact_at(&mut buffer, offset).expect("it is read");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking());
        }
    }
}

/// A daemon whose volumes and cache are on this file system.
async fn world(place: &Path, yields: &str) -> World {
    let s3 = S3::start().await.expect("the S3 server starts");
    let home = Home::kept_in(&place.join("daemon"), BINARY, s3.endpoint()).expect("there is room");
    let home = home
        .with("VOLUME_YIELD", yields)
        .with("VOLUME_YIELD_FLOOR_BYTES_PER_SEC", "4M");
    World { s3, home }
}

async fn provisioned(daemon: &Daemon, url: &str, volume: &str) -> JobStatus {
    let job = daemon
        .provision(url, volume, DISK)
        .await
        .expect("it is accepted");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    status
}

fn lines(daemon: &Daemon, message: &str) -> Vec<Value> {
    let log = daemon.log().into_iter();
    log.filter(|line| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.starts_with(message))
    })
    .collect()
}

#[tokio::test]
async fn a_job_steps_aside_while_others_read_from_its_disk_and_has_full_speed_when_they_have_gone()
{
    if !require("ext4") || !require("qemu-img") {
        return;
    }
    let disk = LoopFs::new("ext4", 1 << 30).expect("a file system");
    let world = world(&disk.path(), "auto").await;
    let bytes = image(DISK, 1200, 1).build();
    let url = world.put("a.qcow2", &bytes);
    let daemon = world.start();
    let found = daemon
        .until_said("Jobs step aside while others need the disks of the volumes")
        .await;
    assert!(
        found["disks"]
            .as_str()
            .is_some_and(|disks| disks.starts_with("loop")),
        "{found}"
    );
    let guest = Reader::start(&disk.path());
    // Its requests are seen, and so is that nothing else is there.
    wait_for("the guest to be seen", async || {
        let wait = metric(&daemon, "yield_others_wait_seconds").await?;
        let rate = metric(&daemon, "yield_rate_bytes_per_second").await?;
        (wait > 0.0 && rate == 4.0 * 1_048_576.0).then_some(())
    })
    .await;
    let held = provisioned(&daemon, &url, "held").await;
    let bound = held.bound.expect("it was measured");
    // How large its share is depends on what else the machine does.
    assert!(bound.guests > 0.0, "{bound:?}");
    let begun = lines(&daemon, "Jobs are held back");
    assert_eq!(begun.len(), 1, "{begun:?}");
    assert_eq!(begun[0]["component"], "yield");
    let held = metric(&daemon, "yield_held_seconds_total").await;
    assert!(held > Some(0.4), "{held:?}");
    let expected = qemu_disk(&world.s3.objects().path("images", "a.qcow2"));
    assert!(holds(&world.home.volume("held"), &expected));
    // From the cache, which is on the same disk.
    let again = provisioned(&daemon, &url, "again").await;
    assert_eq!(again.cache_hit, Some(true));
    assert!(again.bound.expect("it was measured").guests > 0.0);
    let longer = metric(&daemon, "yield_held_seconds_total").await;
    assert!(longer > held, "{longer:?} after {held:?}");
    drop(guest);
    daemon.until_said("Jobs are not held back any more").await;
    wait_for("full speed", async || {
        (metric(&daemon, "yield_rate_bytes_per_second").await? == 0.0).then_some(())
    })
    .await;
    let free = provisioned(&daemon, &url, "free").await;
    let bound = free.bound.expect("it was measured");
    assert!(bound.guests < 5.0, "{bound:?}");
    assert!(holds(&world.home.volume("free"), &expected));
    assert_eq!(lines(&daemon, "Jobs are held back").len(), 1);
    drop(daemon);
}

#[tokio::test]
async fn nobody_is_stepped_aside_for_where_that_is_off() {
    if !require("ext4") {
        return;
    }
    let disk = LoopFs::new("ext4", 1 << 30).expect("a file system");
    let world = world(&disk.path(), "off").await;
    let url = world.put("a.qcow2", &image(DISK, 600, 1).build());
    let _guest = Reader::start(&disk.path());
    let daemon = world.start();
    let free = provisioned(&daemon, &url, "vm").await;
    assert!(
        free.bound.expect("it was measured").guests < 0.1,
        "{free:?}"
    );
    assert_eq!(
        metric(&daemon, "yield_rate_bytes_per_second").await,
        Some(0.0)
    );
    let of_yielding = |line: &Value| line["component"] == "yield";
    assert!(!daemon.log().iter().any(of_yielding));
    drop(daemon);
}

#[tokio::test]
async fn downloads_from_a_store_on_this_host_are_not_limited_and_the_log_and_doctor_say_why() {
    let world = World::new()
        .await
        .with("MINIO_MAX_READ_BYTES_PER_SEC", "auto")
        .with("VOLUME_YIELD", "off");
    let url = world.put("a.qcow2", &image(DISK, 100, 1).build());
    let daemon = world.start();
    let told = daemon
        .until_said(
            "Downloads run at full speed: what others receive from the network cannot be measured",
        )
        .await;
    let why = told["why"].as_str().unwrap_or_default();
    assert!(why.contains("the object store is on this host"), "{told}");
    let free = provisioned(&daemon, &url, "vm").await;
    assert!(
        free.bound.expect("it was measured").guests < 1.0,
        "{free:?}"
    );
    for series in [
        "network_rate_bytes_per_second",
        "network_link_bytes_per_second",
    ] {
        assert_eq!(metric(&daemon, series).await, Some(0.0), "{series}");
    }
    let report = world.home.run(&["doctor"]).expect("it runs");
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    let line = report.lines().find(|line| line.contains("minio.network"));
    assert!(
        line.is_some_and(|line| line.contains("Downloads run at full speed")),
        "{report}"
    );
    drop(daemon);
}
