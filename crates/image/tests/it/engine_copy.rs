//! Copies are exact, on files and block devices, from fed and from local images.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lvp_image::convert::open_source;
use lvp_image::copy::{Body, Copier, CopyOptions, Engine, PlannedImage, TailPolicy};
use lvp_image::device::{Content, FileSize, Target, ZeroMethod};
use lvp_image::format::ImageType;
use lvp_image::plan::Planner;

use crate::engine_support::{
    Images, LoopDevice, assert_all, assert_same, loop_devices, read_at, text,
};
use crate::parser_support::{pipe, qemu, require, run};

const MIB: usize = 1 << 20;

pub(crate) fn planner(image: &Path, declared: ImageType) -> Planner<lvp_image::source::FileSource> {
    Planner::open(open_source(image).unwrap(), declared).unwrap()
}

/// Feeds an image in chunks of one size.
fn feed(
    image: &Path,
    declared: ImageType,
    target: Target,
    options: &CopyOptions,
    chunk_bytes: usize,
) -> Body {
    let planned = PlannedImage::take(&mut planner(image, declared)).unwrap();
    let mut copier = Copier::start(planned, target, options.clone()).unwrap();
    let bytes = Bytes::from(std::fs::read(image).unwrap());
    for start in (0..bytes.len()).step_by(chunk_bytes) {
        let end = bytes.len().min(start + chunk_bytes);
        copier.feed(bytes.slice(start..end)).unwrap();
    }
    copier.finish().unwrap()
}

pub(crate) fn file_target(path: &Path) -> Target {
    Target::open_file(path, FileSize::OfImage).unwrap()
}

/// Images of one disk that differ in everything that could make a copy fail.
fn images_of(images: &Images) -> Vec<(PathBuf, ImageType)> {
    let mut made = vec![(images.path("disk.raw"), ImageType::Raw)];
    if qemu() {
        let qcow2 = [
            images.qcow2("zlib", "cluster_size=64k", true),
            images.qcow2("zstd", "cluster_size=64k,compression_type=zstd", true),
            images.qcow2("plain", "cluster_size=64k", false),
            images.qcow2("small", "cluster_size=512", false),
            images.qcow2("small-zlib", "cluster_size=512", true),
            images.qcow2("large", "cluster_size=2M", true),
            images.scattered("scattered", "cluster_size=64k", 64 << 10),
            images.scattered("scattered-4k", "cluster_size=4k", 20 << 10),
        ];
        made.extend(qcow2.map(|path| (path, ImageType::Qcow2)));
        made.extend([
            images.converted(
                "vmdk",
                "vmdk",
                "subformat=monolithicSparse",
                ImageType::Vmdk,
            ),
            images.converted(
                "stream",
                "vmdk",
                "subformat=streamOptimized",
                ImageType::Vmdk,
            ),
            images.converted("vhd", "vpc", "force_size=on", ImageType::Vhd),
            images.converted(
                "fixed",
                "vpc",
                "force_size=on,subformat=fixed",
                ImageType::Vhd,
            ),
            images.converted("vhdx", "vhdx", "block_size=1M", ImageType::Vhdx),
            images.converted("vdi", "vdi", "static=off", ImageType::Vdi),
        ]);
    }
    made
}

#[test]
fn a_fed_image_is_copied_right_whatever_the_chunks() {
    for disk_bytes in [5 * MIB, 9 * MIB + 512, MIB, 700 << 10] {
        let images = Images::new(disk_bytes);
        for (image, declared) in images_of(&images) {
            for chunk_bytes in [8 * MIB, MIB + 3, 65_537, 4096, 511] {
                let target = images.path("target");
                let options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
                let body = feed(
                    &image,
                    declared,
                    file_target(&target),
                    &options,
                    chunk_bytes,
                );
                let summary = body.commit().unwrap();
                let what = format!("{} in chunks of {chunk_bytes}", image.display());
                assert_same(&std::fs::read(&target).unwrap(), &images.disk, &what);
                assert_eq!(summary.virtual_size, disk_bytes as u64);
                let settled = options.counters.guest_bytes.load(Ordering::Relaxed);
                assert_eq!(settled, disk_bytes as u64, "{what}");
            }
        }
    }
}

#[test]
fn an_image_fed_byte_by_byte_is_copied_right() {
    if !qemu() {
        return;
    }
    let images = Images::new(2 * MIB);
    let image = images.qcow2("zlib", "cluster_size=64k", true);
    let target = images.path("target");
    let options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
    let body = feed(&image, ImageType::Qcow2, file_target(&target), &options, 1);
    body.commit().unwrap();
    assert_same(
        &std::fs::read(&target).unwrap(),
        &images.disk,
        "byte by byte",
    );
}

#[test]
fn a_local_image_equals_what_qemu_img_makes_of_it() {
    if !qemu() {
        return;
    }
    let images = Images::new(11 * MIB + 1536);
    for (image, declared) in images_of(&images) {
        let target = images.path("target");
        let options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
        let planner = planner(&image, declared);
        Copier::copy_file(planner, file_target(&target), options.clone())
            .unwrap()
            .commit()
            .unwrap();
        let format = match declared {
            ImageType::Vhd => "vpc",
            other => other.as_str(),
        };
        let what = image.display().to_string();
        let expected = images.oracle(&image, format);
        assert_same(&std::fs::read(&target).unwrap(), &expected, &what);
        let settled = options.counters.guest_bytes.load(Ordering::Relaxed);
        assert_eq!(settled, images.disk.len() as u64, "{what}");
    }
}

#[test]
fn a_used_device_holds_exactly_the_disk_and_zeros_afterwards() {
    if !loop_devices() {
        return;
    }
    for sector_bytes in [512, 4096] {
        // The disk ends inside a block, and the device is larger.
        let images = Images::new(7 * MIB + 1536);
        for (image, declared) in images_of(&images) {
            for chunk_bytes in [None, Some(MIB + 3)] {
                let device = LoopDevice::new(12 * MIB as u64, sector_bytes);
                let target = Target::open_block(&device.path, Content::Unknown).unwrap();
                let options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
                let body = match chunk_bytes {
                    Some(bytes) => feed(&image, declared, target, &options, bytes),
                    None => {
                        let planner = planner(&image, declared);
                        Copier::copy_file(planner, target, options).unwrap()
                    }
                };
                let summary = body.commit().unwrap();
                let mut expected = images.disk.clone();
                expected.resize(12 * MIB, 0);
                let what = format!(
                    "{} on {sector_bytes}-byte sectors, {chunk_bytes:?}",
                    image.display()
                );
                assert_same(&device.bytes(), &expected, &what);
                let tail = (12 * MIB - images.disk.len()) as u64;
                assert_eq!(summary.tail.bytes, tail, "{what}");
                assert_eq!(summary.tail.zero_bytes, tail, "{what}");
            }
        }
    }
}

#[test]
fn an_aligned_image_bypasses_the_page_cache_on_a_device() {
    if !loop_devices() {
        return;
    }
    let images = Images::new(6 * MIB);
    for sector_bytes in [512, 4096] {
        let device = LoopDevice::new(6 * MIB as u64, sector_bytes);
        let target = Target::open_block(&device.path, Content::Unknown).unwrap();
        assert!(target.zeroes_fast());
        let options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
        let planner = planner(&images.path("disk.raw"), ImageType::Raw);
        let summary = Copier::copy_file(planner, target, options)
            .unwrap()
            .commit()
            .unwrap();
        assert!(summary.direct);
        assert!(!summary.zeroed.is_empty());
        assert!(
            summary
                .zeroed
                .iter()
                .all(|z| z.method == ZeroMethod::WriteZeroes)
        );
    }
}

#[test]
fn an_empty_disk_of_a_tebibyte_costs_nothing() {
    if !qemu() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", text(&image), "1T"],
    );
    let copy = |target: Target| {
        let start = Instant::now();
        let options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
        let body = Copier::copy_file(planner(&image, ImageType::Qcow2), target, options.clone());
        let summary = body.unwrap().commit().unwrap();
        assert_eq!(summary.written_bytes, 0);
        let settled = options.counters.guest_bytes.load(Ordering::Relaxed);
        assert_eq!(settled, 1 << 40);
        start.elapsed()
    };
    // A tenth of this on an idle machine.
    let limit = Duration::from_secs(2);
    assert!(copy(file_target(&directory.path().join("target"))) < limit);
    if loop_devices() {
        let device = LoopDevice::sparse((1 << 40) + (1 << 30));
        let target = Target::open_block(&device.path, Content::Unknown).unwrap();
        assert!(copy(target) < limit);
    }
}

#[test]
fn an_image_in_several_batches_is_copied_from_a_file_and_not_fed() {
    if !qemu() {
        return;
    }
    let images = Images::new(7 * MIB);
    let image = images.scattered("scattered", "cluster_size=4k", 8 << 10);
    let open = || {
        let source = open_source(&image).unwrap();
        Planner::open_within(source, ImageType::Qcow2, 2048).unwrap()
    };
    assert!(!open().is_one_pass());
    let refused = PlannedImage::take(&mut open()).unwrap_err();
    assert_eq!(refused.kind(), lvp_image::ErrorKind::NotOnePass);
    let target = images.path("target");
    let options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
    let body = Copier::copy_file(open(), file_target(&target), options.clone()).unwrap();
    body.commit().unwrap();
    assert_same(&std::fs::read(&target).unwrap(), &images.disk, "file");
    let settled = options.counters.guest_bytes.load(Ordering::Relaxed);
    assert_eq!(settled, images.disk.len() as u64);
    if loop_devices() {
        let device = LoopDevice::new(8 * MIB as u64, 512);
        let target = Target::open_block(&device.path, Content::Unknown).unwrap();
        let body = Copier::copy_file(
            open(),
            target,
            CopyOptions::new(&Engine::new(), TailPolicy::Zero),
        )
        .unwrap();
        body.commit().unwrap();
        let mut expected = images.disk.clone();
        expected.resize(8 * MIB, 0);
        assert_same(&device.bytes(), &expected, "device");
    }
}

#[test]
fn a_compressed_raw_image_is_copied_right() {
    // Below, at and above the sizes where blocks and held regions meet.
    for disk_bytes in [
        512,
        700 << 10,
        2 * MIB,
        2 * MIB + 512,
        4 * MIB,
        5 * MIB + 1024,
    ] {
        let images = Images::new(disk_bytes);
        for codec in ["gzip", "xz", "zstd", "bzip2"] {
            if !require(codec, &[codec]) {
                continue;
            }
            let image = images.path("compressed");
            std::fs::write(&image, pipe(codec, &["-c"], &images.disk)).unwrap();
            let target = images.path("target");
            let what = format!("{codec} of {disk_bytes}");
            let options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
            let body = feed(
                &image,
                ImageType::Raw,
                file_target(&target),
                &options,
                100_003,
            );
            assert_eq!(body.commit().unwrap().virtual_size, disk_bytes as u64);
            assert_same(&std::fs::read(&target).unwrap(), &images.disk, &what);
            let settled = options.counters.guest_bytes.load(Ordering::Relaxed);
            assert_eq!(settled, disk_bytes as u64, "{what}");
            if codec == "gzip" && loop_devices() {
                // One just large enough as well, which may be smaller than what is held back.
                let device_bytes = if disk_bytes < MIB {
                    disk_bytes
                } else {
                    7 * MIB
                };
                let device = LoopDevice::new(device_bytes as u64, 512);
                let target = Target::open_block(&device.path, Content::Unknown).unwrap();
                let options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
                let planner = planner(&image, ImageType::Raw);
                let body = Copier::copy_file(planner, target, options).unwrap();
                assert_all(&read_at(&device.path, 0, disk_bytes.min(MIB)), 0, "head");
                body.commit().unwrap();
                let mut expected = images.disk.clone();
                expected.resize(device_bytes, 0);
                assert_same(&device.bytes(), &expected, &what);
            }
        }
    }
}
