//! Unpacked copies of cached images: made once, read instead of the image, never when they are in doubt.

mod crash;

mod limits;

use std::fs::{self, File};
use std::ops::Deref;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::PathBuf;

use lvp_api::{CachedImages, JobState, JobStatus, Method, Stage};
use lvp_image::builder::{ImageBuilder, Stored};
use lvp_testkit::daemon::{Daemon, Home, wait_for};
use lvp_testkit::loopfs::LoopFs;
use lvp_testkit::require::require;
use lvp_testkit::s3::S3;
use serde_json::json;

use crate::support::{BINARY, MIB, World, completed, holds, image, metric, qemu_disk};

const DISK: u64 = 64 * MIB;

/// A world on a file system of its own, whose files share nothing.
struct Plain {
    world: World,
    _file_system: LoopFs,
}

impl Deref for Plain {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Plain {
    async fn new() -> Self {
        Self::on("ext4").await
    }

    async fn on(kind: &str) -> Self {
        let s3 = S3::start().await.expect("it starts");
        let file_system = LoopFs::new(kind, 768 * MIB).expect("it is mounted");
        let home = Home::kept_in(&file_system.path().join("home"), BINARY, s3.endpoint());
        let home = home.expect("there is room for a home");
        let world = World { s3, home }.with("CACHE_MIN_FREE_BYTES", "0");
        Self {
            world,
            _file_system: file_system,
        }
    }

    fn with(self, name: &str, value: &str) -> Self {
        Self {
            world: self.world.with(name, value),
            ..self
        }
    }

    /// The unpacked copies, finished or not.
    fn disks(&self) -> Vec<String> {
        let mut names = self.home.cache_files();
        names.retain(|name| name.starts_with(".lvp-"));
        names
    }

    fn cached(&self, name: &str) -> PathBuf {
        self.home.path().join("cache").join(name)
    }
}

/// An image whose guest has another image at the beginning of its disk.
fn nested(data_clusters: u64, seed: u64) -> ImageBuilder {
    let mut builder = image(DISK, data_clusters, seed);
    let mut first = vec![7; 1 << 16];
    first[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    builder.write(0, &first, Stored::Compressed);
    builder
}

fn says(status: &JobStatus, part: &str) -> bool {
    status.notes.iter().any(|note| note.contains(part))
}

async fn counted(daemon: &Daemon) -> (f64, f64) {
    let made = metric(daemon, "cache_unpacked_made_total").await;
    let copied = metric(daemon, "cache_unpacked_copies_total").await;
    (made.expect("it is there"), copied.expect("it is there"))
}

async fn list(daemon: &Daemon) -> CachedImages {
    let images = daemon.get("/api/v1/cache/images").await;
    images.expect("they are listed")
}

/// Fetches an image into the cache.
async fn fetch(daemon: &Daemon, url: &str) {
    let job = daemon.submit("/api/v1/cache/fetch", json!({ "image_url": url }));
    let status = daemon.ended(&job.await.expect("accepted")).await;
    let status = status.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
}

#[tokio::test]
async fn an_image_that_comes_again_is_unpacked_once_and_then_copied_without_decoding() {
    if !require("ext4") || !require("qemu-img") {
        return;
    }
    let world = Plain::new().await;
    let builder = nested(300, 1);
    let bytes = builder.build();
    let url = world.put("a.qcow2", &bytes);
    let file = world.home.path().join("a.qcow2");
    fs::write(&file, &bytes).expect("there is room");
    let disk = qemu_disk(&file);
    assert!(disk == builder.disk());
    let daemon = world.start();
    for (volume, method, made, copied) in [
        ("vm-1", Method::Stream, 0.0, 0.0),
        ("vm-2", Method::Copy, 0.0, 0.0),
        ("vm-3", Method::Copy, 1.0, 1.0),
        ("vm-4", Method::Copy, 1.0, 2.0),
        // One that was written before.
        ("vm-1", Method::Copy, 1.0, 3.0),
    ] {
        let status = completed(&daemon, &url, volume, 2 * DISK).await;
        assert_eq!(status.method, Some(method), "{status:?}");
        let is_maker = volume == "vm-3";
        assert_eq!(says(&status, "Made an unpacked copy"), is_maker);
        let path = world.home.volume(volume);
        assert!(holds(&path, &disk), "{volume}");
        let used = fs::metadata(&path).expect("it is there").blocks() * 512;
        assert!(used < DISK, "{volume} has no holes: {used}");
        assert_eq!(counted(&daemon).await, (made, copied), "{volume}");
        assert_eq!(world.disks().len(), usize::from(made > 0.0));
    }
    // It counts.
    let used = fs::metadata(world.cached(&world.disks()[0])).expect("it is there");
    let used = used.blocks() * 512;
    assert!(used > 0 && used < DISK);
    assert_eq!(list(&daemon).await.images[0].unpacked_bytes, used);
    for (series, value) in [
        ("cache_unpacked_images", 1),
        ("cache_unpacked_bytes", used),
        ("cache_size_bytes", used + bytes.len() as u64),
    ] {
        assert_eq!(
            metric(&daemon, series).await,
            Some(value as f64),
            "{series}"
        );
    }
    // It goes with its image.
    let key = &list(&daemon).await.images[0].key;
    let route = format!("/api/v1/cache/images/{key}");
    let answer = daemon.call("DELETE", &route, None).await;
    assert_eq!(answer.expect("it answers").status, 200);
    assert_eq!(world.home.cache_files(), Vec::<String>::new());
    assert_eq!(metric(&daemon, "cache_size_bytes").await, Some(0.0));
    let status = completed(&daemon, &url, "vm-5", DISK).await;
    assert_eq!(status.method, Some(Method::Stream));
}

#[tokio::test]
async fn many_requests_at_once_make_one_copy() {
    if !require("ext4") {
        return;
    }
    let world = Plain::new().await.with("MAX_CONCURRENT", "8");
    let builder = nested(200, 2);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let mut jobs = Vec::new();
    for number in 0..24 {
        let job = daemon.provision(&url, &format!("vm-{number}"), DISK).await;
        jobs.push(job.expect("accepted"));
    }
    for (number, job) in jobs.iter().enumerate() {
        let status = daemon.ended(job).await.expect("it ends");
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        assert!(holds(
            &world.home.volume(&format!("vm-{number}")),
            &builder.disk()
        ));
    }
    let (made, copied) = counted(&daemon).await;
    assert_eq!(made, 1.0);
    // All but the one that fetched and the one that was the first to copy.
    assert_eq!(copied, 22.0);
    assert_eq!(world.disks().len(), 1);
}

#[tokio::test]
async fn a_copy_that_was_touched_is_never_read_and_is_made_again() {
    if !require("ext4") {
        return;
    }
    let world = Plain::new().await.with("CACHE_UNPACKED", "always");
    let builder = nested(200, 3);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    fetch(&daemon, &url).await;
    completed(&daemon, &url, "vm", DISK).await;
    let name = world.disks().remove(0);
    let path = world.cached(&name);
    let elsewhere = world.home.path().join("elsewhere");
    fs::copy(&path, &elsewhere).expect("there is room");
    let damages: [(&str, &dyn Fn()); 5] = [
        ("a byte", &|| {
            let file = File::options().write(true).open(&path).expect("it opens");
            let times = fs::metadata(&path).expect("it is there");
            file.write_all_at(&[0xee], DISK / 2).expect("it is written");
            let modified = times.modified().expect("it has one");
            file.set_modified(modified).expect("it is set back");
        }),
        ("shorter", &|| {
            let file = File::options().write(true).open(&path).expect("it opens");
            file.set_len(DISK / 2).expect("it is cut");
        }),
        ("gone", &|| fs::remove_file(&path).expect("it is removed")),
        ("a link to the same bytes", &|| {
            fs::remove_file(&path).expect("it is removed");
            symlink(&elsewhere, &path).expect("it is made");
        }),
        ("another file with the same bytes", &|| {
            fs::remove_file(&path).expect("it is removed");
            fs::copy(&elsewhere, &path).expect("there is room");
        }),
    ];
    for (made, (what, damage)) in damages.iter().enumerate() {
        damage();
        let status = completed(&daemon, &url, "vm", DISK).await;
        assert!(says(&status, "Made an unpacked copy"), "{what}: {status:?}");
        assert!(holds(&world.home.volume("vm"), &builder.disk()), "{what}");
        assert_eq!(counted(&daemon).await.0, made as f64 + 2.0, "{what}");
        assert_eq!(world.disks(), [name.as_str()], "{what}");
        let meta = fs::symlink_metadata(&path).expect("it is there");
        assert!(meta.is_file() && meta.len() == DISK, "{what}");
    }
}

#[tokio::test]
async fn a_copy_that_is_changed_while_it_is_read_makes_no_volume_ready() {
    if !require("ext4") {
        return;
    }
    let world = Plain::new()
        .await
        .with("CACHE_UNPACKED", "always")
        .with("VOLUME_MAX_WRITE_BYTES_PER_SEC", "2M");
    let builder = nested(150, 4);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    fetch(&daemon, &url).await;
    let job = daemon.provision(&url, "vm", DISK).await.expect("accepted");
    wait_for("the copy to be under way", async || {
        let progress = daemon.status(&job).await.ok()?.progress?;
        let is_read = world.disks().iter().any(|name| name.ends_with(".disk"));
        (is_read && progress.stage == Stage::Converting && progress.percent > 0.0).then_some(())
    })
    .await;
    let path = world.cached(&world.disks()[0]);
    let file = File::options().write(true).open(&path).expect("it opens");
    file.write_all_at(&[0xee], DISK / 2).expect("it is written");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Failed, "{status:?}");
    assert_eq!(status.error_type.as_deref(), Some("cache"));
    let error = status.error.expect("an error");
    assert!(error.contains("was changed while it was read"), "{error}");
    assert_eq!(world.home.volume_files(), Vec::<String>::new());
    let status = completed(&daemon, &url, "vm", DISK).await;
    assert!(says(&status, "Made an unpacked copy"), "{status:?}");
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
}
