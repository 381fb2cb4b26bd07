//! Sound images that QEMU does not write by itself, made by hand, read as QEMU reads them.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests know how large their numbers are"
)]

use lvp_image::builder::{ImageBuilder, Stored};
use lvp_image::format::{Compression, Format, ImageType};
use lvp_image::plan::Planner;

use crate::hostile::{
    COPIED, COVERAGE, Patient, bitmaps, compressed, field, plain, snapshot, subclusters, version_2,
};
use crate::parser_support::{Lab, qemu, read};

/// The image is accepted, and read as QEMU reads it where that is there.
#[track_caller]
fn accept(name: &str, patient: &Patient) {
    if let Err(error) = read(patient.bytes.as_slice(), ImageType::Qcow2) {
        panic!("{name}: refused as {:?}: {error}", error.kind());
    }
    if qemu() {
        let lab = Lab::new();
        std::fs::write(&lab.image, &patient.bytes).unwrap();
        lab.compare(name);
    }
}

fn with(mut patient: Patient, change: impl FnOnce(&mut Patient)) -> Patient {
    change(&mut patient);
    patient
}

#[test]
fn the_images_that_the_hostile_set_damages_are_valid() {
    accept("plain", &plain());
    accept("version 2", &version_2());
    accept("zlib", &compressed(Compression::Zlib));
    accept("zstd", &compressed(Compression::Zstd));
    accept("subclusters", &subclusters());
    accept("snapshot", &snapshot());
    accept("bitmaps", &bitmaps());
}

#[test]
fn the_builder_writes_the_disk_that_it_was_given() {
    for bits in [9, 10, 12, 14, 16, 18, 21] {
        for (version, compression) in [
            (2, Compression::Zlib),
            (3, Compression::Zlib),
            (3, Compression::Zstd),
        ] {
            let mut builder = ImageBuilder::new((5 << bits) * 9 + 512)
                .version(version)
                .cluster_bits(bits)
                .compression(compression)
                .shuffled(u64::from(bits));
            let kinds: &[Stored] = if version == 2 {
                &[Stored::Plain, Stored::Compressed]
            } else {
                &[
                    Stored::Plain,
                    Stored::Compressed,
                    Stored::Zero,
                    Stored::ZeroAllocated,
                ]
            };
            for index in 0..40_u64 {
                let bytes: Vec<u8> = (0..1_u64 << bits)
                    .map(|at| (at / 50 + index) as u8)
                    .collect();
                builder.write(index << bits, &bytes, kinds[index as usize % kinds.len()]);
            }
            builder.write((5 << bits) * 9 + 100, &[9; 412], Stored::Compressed);
            let name = format!("2^{bits}, version {version}, {compression}");
            let patient = Patient::new(&builder);
            accept(&name, &patient);
            let raw = read(builder.disk().as_slice(), ImageType::Raw).unwrap();
            let ours = read(patient.bytes.as_slice(), ImageType::Qcow2).unwrap();
            ours.assert_same(&raw, &name);
            if qemu() {
                let lab = Lab::new();
                std::fs::write(&lab.image, &patient.bytes).unwrap();
                lab.img(&["check", "-q", "-f", "qcow2"]);
            }
        }
    }
}

#[test]
fn unknown_extensions_and_optional_features_are_ignored() {
    accept(
        "unknown extensions",
        &with(plain(), |p| {
            p.extensions(&[
                (0x1234_5678, &[1; 13]),
                (0xe279_2aca, b"raw"),
                (0x9999_0000, &[]),
            ]);
        }),
    );
    accept(
        "the last extension fills the cluster",
        &with(plain(), |p| {
            p.u32(field::EXTENSIONS, 0x1234_5678)
                .u32(field::EXTENSIONS + 4, (4096 - field::EXTENSIONS - 8) as u32);
        }),
    );
    accept(
        "compatible and autoclear features",
        &with(plain(), |p| {
            p.u64(80, u64::MAX).u64(field::AUTOCLEAR, !3);
        }),
    );
    accept(
        "a header of 104 bytes",
        &with(plain(), |p| {
            p.u32(field::HEADER_LENGTH, 104);
        }),
    );
    accept(
        "a header of 1024 bytes",
        &with(plain(), |p| {
            p.u32(field::HEADER_LENGTH, 1024).put(500, &[7; 300]);
        }),
    );
    accept(
        "version 3's fields in version 2",
        &with(version_2(), |p| {
            p.u32(72, 0x1234_5678).u32(76, 100).put(80, &[0xff; 100]);
        }),
    );
    accept(
        "bitmaps that nobody vouches for",
        &with(bitmaps(), |p| {
            p.u64(field::AUTOCLEAR, 0)
                .u64(field::EXTENSIONS + 24, 1 << 50);
        }),
    );
}

#[test]
fn a_dirty_image_may_have_wrong_refcounts() {
    let patient = with(plain(), |p| {
        let block = p.get(p.reftable()) as usize;
        let beyond = p.bytes.len() / 4096;
        p.u64(field::INCOMPATIBLE, 1)
            .put(block + beyond * 2, &[0, 1]);
    });
    let planner = Planner::open(patient.bytes.as_slice(), ImageType::Qcow2).unwrap();
    let Format::Qcow2(features) = &planner.info().format else {
        panic!("it is qcow2");
    };
    assert!(features.dirty);
    accept("dirty", &patient);
}

#[test]
fn tables_may_be_longer_than_needed_and_unmarked() {
    accept(
        "a saved state's table",
        &with(plain(), |p| {
            let table = p.append(&[0; 8]);
            let l1 = p.l1();
            p.u32(field::L1_SIZE, 6).u64(l1 + 40, table | COPIED);
        }),
    );
    accept(
        "nothing is marked writable in place",
        &with(plain(), |p| {
            let l1 = p.l1();
            for at in (l1..l1 + 32).step_by(8) {
                p.u64(at, p.get(at) & !COPIED);
            }
            for index in [0, 1, 3] {
                let l2 = p.l2(index);
                for at in (l2..l2 + 4096).step_by(8) {
                    p.u64(at, p.get(at) & !COPIED);
                }
            }
        }),
    );
}

#[test]
fn a_size_that_is_not_whole_sectors_is_rounded_down_as_qemu_does() {
    let patient = with(plain(), |p| {
        p.u64(field::SIZE, 3 * COVERAGE + 1535);
    });
    accept("odd size", &patient);
    let planner = Planner::open(patient.bytes.as_slice(), ImageType::Qcow2).unwrap();
    assert_eq!(planner.info().virtual_size, Some(3 * COVERAGE + 1024));
}

#[test]
fn a_disk_of_no_size_is_read() {
    accept(
        "no size",
        &Patient::new(&ImageBuilder::new(0).cluster_bits(9)),
    );
    let image = ImageBuilder::new(0).build();
    let mut planner = Planner::open(image.as_slice(), ImageType::Qcow2).unwrap();
    let batch = planner.next_batch().unwrap().unwrap();
    assert_eq!(batch.guest_range(), 0..0);
    assert!(batch.is_empty() && batch.zero_ranges().next().is_none());
    assert!(planner.next_batch().unwrap().is_none());
}

#[test]
fn the_last_cluster_may_end_with_the_disk() {
    // Not so by QEMU, but by tools that write images front to back.
    let mut builder = ImageBuilder::new(3 * 4096 + 512).cluster_bits(12);
    builder.write(3 * 4096, &[5; 512], Stored::Plain);
    let mut patient = Patient::new(&builder);
    let cluster = patient.append(&[5; 512]);
    let l2 = patient.l2(0);
    patient.u64(l2 + 24, cluster | COPIED);
    patient.bytes.truncate(cluster as usize + 512);
    accept("cut after the disk's end", &patient);
    patient.bytes.truncate(cluster as usize + 511);
    assert!(read(patient.bytes.as_slice(), ImageType::Qcow2).is_err());
}
