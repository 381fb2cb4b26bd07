//! Clusters of every size and encoding decode the same in another process.

use std::time::Duration;

use lvp_image::builder::{ImageBuilder, Stored};
use lvp_image::format::{Compression, ImageType};
use lvp_testkit::require::{command, require};

use super::{Start, converted, engine};

/// Compressed and plain clusters in turn, all over the disk.
fn image(bits: u32, compression: Compression) -> ImageBuilder {
    let size = 1_u64 << bits;
    let disk_bytes = (600 * size).min(24 << 20);
    let mut image = ImageBuilder::new(disk_bytes)
        .cluster_bits(bits)
        .compression(compression)
        .shuffled(7);
    for cluster in 0..disk_bytes / size {
        let bytes: Vec<u8> = (0..size)
            .map(|index| ((index / 5) ^ (cluster * 3)).to_le_bytes()[0])
            .collect();
        let stored = match cluster % 7 {
            3 => Stored::Plain,
            5 => continue,
            _ => Stored::Compressed,
        };
        image.write(cluster * size, &bytes, stored);
    }
    image
}

#[test]
fn clusters_decode_the_same_in_another_process() {
    let apart = engine(Start::hostile(), Duration::from_secs(60));
    for compression in [Compression::Zlib, Compression::Zstd] {
        for bits in [9, 12, 16, 21] {
            let image = image(bits, compression);
            let (result, disk) = converted(&apart, &image.build(), ImageType::Qcow2);
            result.expect("it is sound");
            assert!(disk == image.disk(), "2^{bits} {compression:?}");
        }
    }
}

#[test]
fn grains_of_a_vmdk_decode_the_same_in_another_process() {
    if !require("qemu-img") {
        return;
    }
    let apart = engine(Start::hostile(), Duration::from_secs(60));
    let source = image(16, Compression::Zlib);
    let directory = tempfile::tempdir().expect("there is room");
    let (raw, vmdk) = (directory.path().join("raw"), directory.path().join("vmdk"));
    std::fs::write(&raw, source.disk()).expect("there is room");
    let status = command("qemu-img")
        .args([
            "convert",
            "-f",
            "raw",
            "-O",
            "vmdk",
            "-o",
            "subformat=streamOptimized",
        ])
        .args([&raw, &vmdk])
        .status();
    assert!(status.expect("it starts").success());
    let bytes = std::fs::read(&vmdk).expect("it is there");
    let (result, disk) = converted(&apart, &bytes, ImageType::Vmdk);
    result.expect("it is sound");
    assert!(disk == source.disk());
}
