//! Copies that fail: what is reported, how soon, and what is left on the target.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lvp_image::convert::open_source;
use lvp_image::copy::{Copier, CopyOptions, Engine, PlannedImage, RateLimiter, TailPolicy};
use lvp_image::device::{Content, FileSize, Target};
use lvp_image::format::ImageType;
use lvp_image::plan::Planner;
use lvp_image::source::FileSource;
use lvp_image::{Error, ErrorKind};

use crate::engine_support::{
    Images, LoopDevice, MARKER, Mount, assert_all, assert_same, loop_devices, noise, text,
    wait_until,
};
use crate::parser_support::{pipe, qemu, run};

const MIB: usize = 1 << 20;

fn planner(image: &Path, declared: ImageType) -> Planner<FileSource> {
    Planner::open(open_source(image).unwrap(), declared).unwrap()
}

fn open_device(device: &LoopDevice) -> Target {
    Target::open_block(&device.path, Content::Unknown).unwrap()
}

/// Nothing on the device may look like a disk.
#[track_caller]
fn assert_disarmed(device: &LoopDevice, disk_bytes: usize) {
    let bytes = device.bytes();
    assert_all(&bytes[..MIB], 0, "head");
    assert_all(&bytes[disk_bytes - MIB..disk_bytes], 0, "end of the disk");
    assert_all(&bytes[bytes.len() - MIB..], 0, "end of the device");
}

#[test]
fn head_and_foot_stay_clear_until_the_commit() {
    if !loop_devices() {
        return;
    }
    let images = Images::new(6 * MIB);
    for commit in [false, true] {
        let device = LoopDevice::new(10 * MIB as u64, 512);
        let planner = planner(&images.path("disk.raw"), ImageType::Raw);
        let options = CopyOptions::new(&Engine::new(), TailPolicy::Edges);
        let body = Copier::copy_file(planner, open_device(&device), options).unwrap();
        assert_disarmed(&device, 6 * MIB);
        let middle = MIB..5 * MIB;
        assert_same(
            &device.bytes()[middle.clone()],
            &images.disk[middle],
            "middle",
        );
        if commit {
            body.commit().unwrap();
            assert_same(&device.bytes()[..6 * MIB], &images.disk, "disk");
        } else {
            drop(body);
            assert_disarmed(&device, 6 * MIB);
        }
    }
}

#[test]
fn a_copy_dropped_half_way_leaves_no_head() {
    if !loop_devices() {
        return;
    }
    let images = Images::new(12 * MIB);
    let device = LoopDevice::new(14 * MIB as u64, 512);
    let planned =
        PlannedImage::take(&mut planner(&images.path("disk.raw"), ImageType::Raw)).unwrap();
    let options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
    let counters = Arc::clone(&options.counters);
    let mut copier = Copier::start(planned, open_device(&device), options).unwrap();
    let half = Bytes::copy_from_slice(&images.disk[..6 * MIB]);
    copier.feed(half).unwrap();
    wait_until("something is written", || {
        counters.written_bytes.load(Ordering::Relaxed) > 0
    });
    drop(copier);
    assert_disarmed(&device, 12 * MIB);
}

#[test]
fn a_cancelled_copy_ends_within_a_second() {
    let images = Images::new(MIB);
    let image = images.path("noise");
    std::fs::write(&image, noise(3, 40 * MIB)).unwrap();
    let mut options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
    // Slow enough that the copy would take minutes.
    let rate = std::num::NonZeroU64::new(200 << 10).unwrap();
    options.limiter = Some(Arc::new(RateLimiter::new(rate)));
    let (cancel, counters) = (Arc::clone(&options.cancel), Arc::clone(&options.counters));
    let target = Target::open_file(&images.path("target"), FileSize::OfImage).unwrap();
    let planner = planner(&image, ImageType::Raw);
    let copy = std::thread::spawn(move || {
        let error = Copier::copy_file(planner, target, options).unwrap_err();
        (error, Instant::now())
    });
    wait_until("the copy is under way", || {
        counters.source_bytes.load(Ordering::Relaxed) > 0
    });
    let asked = Instant::now();
    cancel.store(true, Ordering::Relaxed);
    let (error, ended) = copy.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(ended - asked < Duration::from_secs(1));
}

#[test]
fn a_waiting_feeder_also_gets_the_cancellation() {
    let images = Images::new(MIB);
    let image = images.path("noise");
    std::fs::write(&image, noise(4, 40 * MIB)).unwrap();
    let mut options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
    let rate = std::num::NonZeroU64::new(200 << 10).unwrap();
    options.limiter = Some(Arc::new(RateLimiter::new(rate)));
    let (cancel, counters) = (Arc::clone(&options.cancel), Arc::clone(&options.counters));
    let target = Target::open_file(&images.path("target"), FileSize::OfImage).unwrap();
    let planned = PlannedImage::take(&mut planner(&image, ImageType::Raw)).unwrap();
    let feeder = std::thread::spawn(move || {
        let mut copier = Copier::start(planned, target, options).unwrap();
        let chunk = Bytes::from(noise(4, 4 * MIB));
        let mut error = None;
        for _ in 0..10 {
            if let Err(failed) = copier.feed(chunk.clone()) {
                error = Some(failed);
                break;
            }
        }
        let again = copier.feed(chunk).unwrap_err();
        (error.unwrap(), again, Instant::now())
    });
    wait_until("something was fed", || {
        counters.source_bytes.load(Ordering::Relaxed) > 0
    });
    let asked = Instant::now();
    cancel.store(true, Ordering::Relaxed);
    let (error, again, ended) = feeder.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(again.kind(), ErrorKind::Cancelled);
    assert!(ended - asked < Duration::from_secs(1));
}

#[test]
fn a_full_file_system_is_distinguished_from_other_write_failures() {
    if !loop_devices() {
        return;
    }
    let mount = Mount::tmpfs(4 * MIB as u64);
    let images = Images::new(MIB);
    let image = images.path("noise");
    std::fs::write(&image, noise(5, 16 * MIB)).unwrap();
    let target = mount.path.path().join("target");
    let target = Target::open_file(&target, FileSize::OfImage).unwrap();
    let options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
    let error = Copier::copy_file(planner(&image, ImageType::Raw), target, options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(errno(&error), Some(libc_enospc()));
}

/// ENOSPC of asm-generic/errno-base.h.
fn libc_enospc() -> i32 {
    28
}

fn errno(error: &Error) -> Option<i32> {
    error.io_error()?.raw_os_error()
}

#[test]
fn an_image_file_that_shrinks_during_the_copy_is_a_read_failure() {
    let images = Images::new(8 * MIB);
    let image = images.path("noise");
    std::fs::write(&image, noise(6, 32 * MIB)).unwrap();
    let planner = planner(&image, ImageType::Raw);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&image)
        .unwrap();
    file.set_len(9 * MIB as u64).unwrap();
    let target = Target::open_file(&images.path("target"), FileSize::OfImage).unwrap();
    let options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
    let error = Copier::copy_file(planner, target, options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Read);
    assert!(error.io_error().is_some());
}

#[test]
fn a_stream_that_ends_early_is_truncated() {
    let images = Images::new(8 * MIB);
    let planned =
        PlannedImage::take(&mut planner(&images.path("disk.raw"), ImageType::Raw)).unwrap();
    let target = Target::open_file(&images.path("target"), FileSize::OfImage).unwrap();
    let mut copier = Copier::start(
        planned,
        target,
        CopyOptions::new(&Engine::new(), TailPolicy::Zero),
    )
    .unwrap();
    copier
        .feed(Bytes::copy_from_slice(&images.disk[..7 * MIB]))
        .unwrap();
    assert_eq!(copier.finish().unwrap_err().kind(), ErrorKind::Truncated);
}

#[test]
fn a_damaged_cluster_stops_the_copy_with_its_place() {
    if !qemu() {
        return;
    }
    let images = Images::new(8 * MIB);
    for compression in ["zlib", "zstd"] {
        let image = images.damaged(&format!("compression_type={compression}"));
        let target = Target::open_file(&images.path("target"), FileSize::OfImage).unwrap();
        let options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
        let error =
            Copier::copy_file(planner(&image, ImageType::Qcow2), target, options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadCluster, "{error}");
        assert!(error.to_string().contains("guest offset 0x"), "{error}");
    }
}

#[test]
fn a_disk_larger_than_the_device_is_refused_before_a_byte_is_written() {
    if !loop_devices() {
        return;
    }
    let images = Images::new(6 * MIB);
    let device = LoopDevice::new(5 * MIB as u64, 512);
    let planner = planner(&images.path("disk.raw"), ImageType::Raw);
    let options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
    let error = Copier::copy_file(planner, open_device(&device), options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooSmall);
    assert_all(&device.bytes(), MARKER, "device");
}

#[test]
fn a_stream_that_holds_more_than_the_device_is_refused_and_leaves_no_head() {
    if !loop_devices() {
        return;
    }
    let images = Images::new(12 * MIB);
    let image = images.path("compressed");
    std::fs::write(&image, pipe("gzip", &["-c"], &images.disk)).unwrap();
    let device = LoopDevice::new(9 * MIB as u64, 512);
    let planner = planner(&image, ImageType::Raw);
    let options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
    let error = Copier::copy_file(planner, open_device(&device), options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooSmall);
    assert_disarmed(&device, 9 * MIB);
}

#[test]
fn a_device_that_is_claimed_or_mounted_is_busy() {
    if !loop_devices() {
        return;
    }
    let device = LoopDevice::new(8 * MIB as u64, 512);
    let busy = || {
        let error = Target::open_block(&device.path, Content::Unknown).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeviceBusy, "{error}");
    };
    let held = open_device(&device);
    busy();
    drop(held);
    run("mkfs.ext4", &["-q", "-F", text(&device.path)]);
    let mount = Mount::device(&device.path);
    busy();
    drop(mount);
    open_device(&device);
}

#[test]
fn a_file_that_a_virtual_machine_has_open_is_busy() {
    if !qemu() {
        return;
    }
    let images = Images::new(MIB);
    let disk = images.path("disk.raw");
    let error = while_qemu_holds(&disk, || {
        Target::open_file(&disk, FileSize::OfImage).unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::DeviceBusy, "{error}");
    Target::open_file(&disk, FileSize::OfImage).unwrap();
}

/// Runs something while a QEMU program has the file open for writing.
#[expect(
    clippy::disallowed_methods,
    reason = "the program must keep running beside the test"
)]
fn while_qemu_holds<T>(disk: &Path, during: impl FnOnce() -> T) -> T {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let mut qemu = Command::new("qemu-io")
        .args(["-f", "raw", text(disk)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut commands = qemu.stdin.take().unwrap();
    std::io::Write::write_all(&mut commands, b"length\n").unwrap();
    // Its answer says that the file is open.
    let mut answer = String::new();
    BufReader::new(qemu.stdout.take().unwrap())
        .read_line(&mut answer)
        .unwrap();
    let result = during();
    drop(commands);
    assert!(qemu.wait().unwrap().success(), "{answer}");
    result
}

#[test]
fn a_target_of_the_wrong_kind_is_refused_by_kind() {
    let images = Images::new(MIB);
    let kind = |result: Result<Target, Error>| result.unwrap_err().kind();
    let directory = images.directory.path();
    let open_file = |path: &Path| Target::open_file(path, FileSize::OfImage);
    assert_eq!(kind(open_file(directory)), ErrorKind::BadTarget);
    assert_eq!(
        kind(open_file(Path::new("/dev/null"))),
        ErrorKind::BadTarget
    );
    let link = images.path("link");
    std::os::unix::fs::symlink(images.path("disk.raw"), &link).unwrap();
    assert_eq!(kind(open_file(&link)), ErrorKind::BadTarget);
    for path in [
        images.path("disk.raw"),
        directory.to_owned(),
        "/dev/null".into(),
    ] {
        let opened = Target::open_block(&path, Content::Unknown);
        assert_eq!(kind(opened), ErrorKind::BadTarget, "{}", path.display());
    }
}
