//! `convert`: the destination after success and after failure.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use lvp_image::convert::{ConvertOptions, convert};
use lvp_image::copy::{CopyOptions, Engine, Summary, TailPolicy};
use lvp_image::format::ImageType;
use lvp_image::{Error, ErrorKind};

use crate::engine_support::{
    Images, LoopDevice, MARKER, assert_all, assert_same, loop_devices, text,
};
use crate::parser_support::{qemu, run};

const MIB: usize = 1 << 20;

fn options() -> ConvertOptions {
    ConvertOptions {
        copy: CopyOptions::new(&Engine::new(), TailPolicy::Zero),
        verify_first: true,
        max_bytes: None,
    }
}

fn convert_raw(images: &Images, destination: &Path) -> Result<Summary, Error> {
    convert(
        &images.path("disk.raw"),
        ImageType::Raw,
        destination,
        &options(),
    )
    .map(|converted| converted.summary)
}

/// The names in the directory, to detect leftovers.
fn names(images: &Images) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(images.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_new_file_has_exactly_the_disk_and_is_sparse() {
    let images = Images::new(4 * MIB + 512);
    let destination = images.path("new");
    let summary = convert_raw(&images, &destination).unwrap();
    assert_same(&std::fs::read(&destination).unwrap(), &images.disk, "disk");
    assert_eq!(summary.virtual_size, images.disk.len() as u64);
    assert_eq!(names(&images), ["disk.raw", "new"]);
    let blocks = std::fs::metadata(&destination).unwrap().blocks() * 512;
    assert!(
        blocks < images.disk.len() as u64,
        "{blocks} bytes allocated"
    );
}

#[test]
fn an_existing_file_is_replaced_and_keeps_its_permissions_and_owner() {
    let images = Images::new(2 * MIB);
    let destination = images.path("existing");
    std::fs::write(&destination, vec![MARKER; 5 * MIB]).unwrap();
    std::fs::set_permissions(&destination, PermissionsExt::from_mode(0o640)).unwrap();
    // Only root may give files away; anybody else keeps his own.
    let given_away = std::os::unix::fs::chown(&destination, Some(12), Some(34)).is_ok();
    convert_raw(&images, &destination).unwrap();
    assert_same(&std::fs::read(&destination).unwrap(), &images.disk, "disk");
    let metadata = std::fs::metadata(&destination).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o640);
    if given_away {
        assert_eq!((metadata.uid(), metadata.gid()), (12, 34));
    }
    assert_eq!(names(&images), ["disk.raw", "existing"]);
}

#[test]
fn a_link_stays_a_link_and_its_target_is_written() {
    let images = Images::new(2 * MIB);
    for existing in [true, false] {
        let (real, link) = (images.path("real"), images.path("link"));
        if existing {
            std::fs::write(&real, b"old").unwrap();
        }
        std::os::unix::fs::symlink("real", &link).unwrap();
        convert_raw(&images, &link).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_same(&std::fs::read(&real).unwrap(), &images.disk, "disk");
        std::fs::remove_file(&link).unwrap();
        std::fs::remove_file(&real).unwrap();
    }
}

#[test]
fn a_refused_image_leaves_a_new_file_absent_and_an_existing_one_untouched() {
    if !qemu() {
        return;
    }
    let images = Images::new(8 * MIB);
    let damaged = images.damaged("cluster_size=64k");
    let garbage = images.path("garbage");
    std::fs::write(&garbage, b"not a qcow2 image at all").unwrap();
    let existing = images.path("existing");
    std::fs::write(&existing, b"precious").unwrap();
    let before = names(&images);
    for image in [&damaged, &garbage] {
        for destination in [&existing, &images.path("new")] {
            let error = convert(image, ImageType::Qcow2, destination, &options()).unwrap_err();
            assert!(error.kind().is_refusal(), "{error}");
        }
    }
    assert_eq!(names(&images), before);
    assert_eq!(std::fs::read(&existing).unwrap(), b"precious");
}

#[test]
fn a_refused_image_leaves_a_device_untouched_unless_one_pass_was_asked_for() {
    if !loop_devices() || !qemu() {
        return;
    }
    let images = Images::new(8 * MIB);
    let damaged = images.damaged("cluster_size=64k");
    let device = LoopDevice::new(9 * MIB as u64, 512);
    let mut options = options();
    let error = convert(&damaged, ImageType::Qcow2, &device.path, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadCluster);
    assert_all(&device.bytes(), MARKER, "device");
    options.verify_first = false;
    let error = convert(&damaged, ImageType::Qcow2, &device.path, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadCluster);
    assert_all(&device.bytes()[..MIB], 0, "head");
}

#[test]
fn a_device_holds_the_disk_and_then_zeros_or_what_it_held() {
    if !loop_devices() {
        return;
    }
    let images = Images::new(3 * MIB);
    for (tail, value) in [(TailPolicy::Zero, 0), (TailPolicy::Keep, MARKER)] {
        let device = LoopDevice::new(8 * MIB as u64, 512);
        let mut options = options();
        options.copy.tail = tail;
        let image = images.path("disk.raw");
        convert(&image, ImageType::Raw, &device.path, &options).unwrap();
        let bytes = device.bytes();
        assert_same(&bytes[..3 * MIB], &images.disk, "disk");
        assert_all(&bytes[3 * MIB..], value, "tail");
    }
}

#[test]
fn a_device_that_is_too_small_stays_untouched() {
    if !loop_devices() {
        return;
    }
    let images = Images::new(3 * MIB);
    let device = LoopDevice::new(2 * MIB as u64, 512);
    let error = convert_raw(&images, &device.path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooSmall);
    assert_all(&device.bytes(), MARKER, "device");
}

#[test]
fn the_image_itself_is_refused_as_destination_under_any_name() {
    let images = Images::new(MIB);
    let image = images.path("disk.raw");
    let (hard, soft) = (images.path("hard"), images.path("soft"));
    std::fs::hard_link(&image, &hard).unwrap();
    std::os::unix::fs::symlink(&image, &soft).unwrap();
    for destination in [&image, &hard, &soft] {
        let error = convert_raw(&images, destination).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadTarget);
    }
    assert_same(&std::fs::read(&image).unwrap(), &images.disk, "image");
    if loop_devices() {
        let device = LoopDevice::new(2 * MIB as u64, 512);
        let result = convert(&device.path, ImageType::Raw, &device.path, &options());
        assert_eq!(result.unwrap_err().kind(), ErrorKind::BadTarget);
    }
}

#[test]
fn what_is_neither_a_file_nor_a_block_device_is_refused_as_destination() {
    let images = Images::new(MIB);
    let fifo = images.path("fifo");
    run("mkfifo", &[text(&fifo)]);
    let loop_link = images.path("loop");
    std::os::unix::fs::symlink(&loop_link, &loop_link).unwrap();
    let kinds = [
        (images.directory.path(), ErrorKind::BadTarget),
        (Path::new("/dev/null"), ErrorKind::BadTarget),
        (&fifo, ErrorKind::BadTarget),
        (&images.path("new/"), ErrorKind::BadTarget),
        (&images.path("absent/new"), ErrorKind::Write),
        (&loop_link, ErrorKind::Write),
    ];
    for (destination, kind) in kinds {
        let error = convert_raw(&images, destination).unwrap_err();
        assert_eq!(error.kind(), kind, "{}: {error}", destination.display());
    }
}

#[test]
fn a_source_that_is_not_a_file_is_a_read_failure() {
    let images = Images::new(MIB);
    let destination = images.path("new");
    for source in [
        images.directory.path(),
        Path::new("/dev/null"),
        &images.path("absent"),
    ] {
        let result = convert(source, ImageType::Raw, &destination, &options());
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Read);
        assert!(!destination.exists());
    }
}
