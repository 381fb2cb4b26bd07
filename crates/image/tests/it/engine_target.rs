//! What happens to a target's bytes that the image does not have.

use std::time::{Duration, Instant};

use lvp_image::copy::{Copier, CopyOptions, Engine, TailPolicy};
use lvp_image::device::{Content, FileSize, Target};
use lvp_image::format::ImageType;

use crate::engine_copy::{file_target, planner};
use crate::engine_support::{
    Images, LoopDevice, MARKER, assert_all, assert_same, loop_devices, noise, read_at, write_at,
};

const MIB: usize = 1 << 20;

#[test]
fn the_tail_is_kept_or_cleared_at_its_edges_as_asked() {
    if !loop_devices() {
        return;
    }
    let images = Images::new(3 * MIB);
    let check = |policy, edge_bytes: usize| {
        let device = LoopDevice::new(16 * MIB as u64, 512);
        let target = Target::open_block(&device.path, Content::Unknown).unwrap();
        let planner = planner(&images.path("disk.raw"), ImageType::Raw);
        let body =
            Copier::copy_file(planner, target, CopyOptions::new(&Engine::new(), policy)).unwrap();
        let summary = body.commit().unwrap();
        assert_eq!(summary.tail.bytes, 13 * MIB as u64);
        assert_eq!(summary.tail.zero_bytes, 2 * edge_bytes as u64);
        let bytes = device.bytes();
        let (disk, tail) = bytes.split_at(3 * MIB);
        assert_same(disk, &images.disk, "disk");
        assert_all(&tail[..edge_bytes], 0, "first edge");
        let kept = edge_bytes..tail.len() - edge_bytes;
        assert_all(&tail[kept], MARKER, "kept");
        assert_all(&tail[tail.len() - edge_bytes..], 0, "last edge");
    };
    check(TailPolicy::Edges, MIB);
    check(TailPolicy::Keep, 0);
}

#[test]
fn a_volume_file_keeps_its_size_and_loses_its_content() {
    let images = Images::new(3 * MIB + 512);
    let volume = images.path("volume");
    for tail in [TailPolicy::Zero, TailPolicy::Keep] {
        std::fs::write(&volume, vec![MARKER; 8 * MIB]).unwrap();
        let target = Target::open_file(&volume, FileSize::Bytes(8 * MIB as u64)).unwrap();
        let planner = planner(&images.path("disk.raw"), ImageType::Raw);
        let body =
            Copier::copy_file(planner, target, CopyOptions::new(&Engine::new(), tail)).unwrap();
        let summary = body.commit().unwrap();
        let is_kept = tail == TailPolicy::Keep;
        assert_eq!(summary.tail.zero_bytes < summary.tail.bytes, is_kept);
        let bytes = std::fs::read(&volume).unwrap();
        assert_eq!(bytes.len(), 8 * MIB);
        let (disk, rest) = bytes.split_at(images.disk.len());
        assert_same(disk, &images.disk, "disk");
        match tail {
            TailPolicy::Keep => assert_all(&rest[4096..], MARKER, "kept tail"),
            _ => assert_all(rest, 0, "tail"),
        }
    }
}

#[test]
fn zeros_of_a_raw_image_stay_holes() {
    let directory = tempfile::tempdir().unwrap();
    let (image, target) = (
        directory.path().join("image"),
        directory.path().join("target"),
    );
    // Half of it a real hole, half of it zeros that were written.
    std::fs::write(&image, vec![0; 16 * MIB]).unwrap();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&image)
        .unwrap();
    file.set_len(1 << 40).unwrap();
    drop(file);
    write_at(&image, 20 * MIB as u64, &noise(1, MIB));
    let start = Instant::now();
    let options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
    Copier::copy_file(
        planner(&image, ImageType::Raw),
        file_target(&target),
        options,
    )
    .unwrap()
    .commit()
    .unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "cost grows with the size, not the data"
    );
    let metadata = std::fs::metadata(&target).unwrap();
    assert_eq!(metadata.len(), 1 << 40);
    let allocated = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    assert!(allocated <= 2 * MIB as u64, "{allocated} bytes allocated");
    assert_same(
        &read_at(&target, 20 * MIB as u64, MIB),
        &noise(1, MIB),
        "data",
    );
}
