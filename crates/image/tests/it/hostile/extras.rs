//! Snapshots, bitmaps, compressed clusters, and files that were cut.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests know how large their numbers are"
)]

use lvp_image::ErrorKind;
use lvp_image::builder::{ImageBuilder, Stored};
use lvp_image::format::{Compression, ImageType};

use super::{
    CLUSTER, Patient, Set, bitmaps, compressed, field, plain, snapshot, subclusters, version_2,
    with_snapshots,
};

pub(super) fn snapshots(set: &mut Set) {
    use ErrorKind::{BadTable, OutsideFile, Overlap, TooLarge, Truncated};
    let base = snapshot();
    let table = base.get(field::SNAPSHOTS_OFFSET) as usize;
    let (l1, len) = (base.l1() as u64, base.bytes.len() as u64);
    set.add("snapshots outside", OutsideFile, base.clone(), |p| {
        p.u64(field::SNAPSHOTS_OFFSET, 1 << 40);
    });
    set.add("snapshots in the L1", TooLarge, base.clone(), |p| {
        p.u64(field::SNAPSHOTS_OFFSET, l1);
    });
    set.add("snapshots in the header", BadTable, base.clone(), |p| {
        p.u64(field::SNAPSHOTS_OFFSET, 0);
    });
    set.add(
        "more snapshots than there are",
        Truncated,
        base.clone(),
        |p| {
            p.u32(field::SNAPSHOTS, 60000);
        },
    );
    set.add("extra data of 1025 bytes", TooLarge, base.clone(), |p| {
        p.u32(table + 36, 1025);
    });
    set.add("extra data without end", TooLarge, base.clone(), |p| {
        p.u32(table + 36, u32::MAX);
    });
    set.add("a name past the end", Truncated, base.clone(), |p| {
        p.put(table + 14, &[0xff, 0xff]);
    });
    set.add("a snapshot's L1 without end", TooLarge, base.clone(), |p| {
        p.u32(table + 8, u32::MAX);
    });
    set.add(
        "a snapshot's L1 past the end",
        Truncated,
        base.clone(),
        |p| {
            p.u32(table + 8, 4_000_000);
        },
    );
    set.add("a snapshot's L1 outside", OutsideFile, base.clone(), |p| {
        p.u64(table, len + (1 << 30));
    });
    set.add(
        "a snapshot's L1 off its alignment",
        BadTable,
        base.clone(),
        |p| {
            p.u64(table, 512);
        },
    );
    for (name, first, second) in [
        ("in part", (0, 600), (CLUSTER as u64, 600)),
        ("at its end", (0, 1024), (CLUSTER as u64, 1)),
    ] {
        let mut patient = plain();
        let place = patient.append(&[0; 3 * CLUSTER]);
        let l1_tables = [first, second].map(|(offset, entries)| (place + offset, entries));
        let patient = with_snapshots(patient, &l1_tables);
        set.add(
            format!("snapshots' L1s overlap {name}"),
            Overlap,
            patient,
            |_| {},
        );
    }
    let long = with_snapshots(plain(), &[(l1, 600)]);
    set.add(
        "a snapshot's L1 is more than the active one",
        Overlap,
        long,
        |_| {},
    );
    set.add("a snapshot's L1 is its table", Overlap, base, |p| {
        p.u64(table, table as u64);
    });
}

pub(super) fn bitmap_directories(set: &mut Set) {
    use ErrorKind::{BadHeader, BadTable, OutsideFile, Overlap, TooLarge, Truncated};
    let base = bitmaps();
    let extension = field::EXTENSIONS + 8;
    let directory = base.get(extension + 16) as usize;
    let (table, l1) = (base.get(directory) as usize, base.l1() as u64);
    set.add("no bitmaps", BadHeader, base.clone(), |p| {
        p.u32(extension, 0);
    });
    set.add("65536 bitmaps", TooLarge, base.clone(), |p| {
        p.u32(extension, 65536);
    });
    set.add("reserved field of bitmaps", BadHeader, base.clone(), |p| {
        p.u32(extension + 4, 1);
    });
    for len in [0, 31, 33, 64 << 20] {
        let kind = match len {
            0 => BadHeader,
            31 | 33 => Truncated,
            _ => TooLarge,
        };
        let kind = if len == 33 { Truncated } else { kind };
        set.add(
            format!("bitmap directory of {len} bytes"),
            kind,
            base.clone(),
            |p| {
                p.u64(extension + 8, len);
            },
        );
    }
    set.add("bitmap directory with room", BadTable, base.clone(), |p| {
        p.u64(extension + 8, 72);
    });
    set.add("bitmap directory outside", OutsideFile, base.clone(), |p| {
        p.u64(extension + 16, 1 << 40);
    });
    set.add(
        "bitmap directory at the end of numbers",
        BadHeader,
        base.clone(),
        |p| {
            p.u64(extension + 16, u64::MAX - 4095 + 4080);
        },
    );
    set.add(
        "bitmap directory off its alignment",
        BadTable,
        base.clone(),
        |p| {
            p.u64(extension + 16, directory as u64 + 8);
        },
    );
    set.add("bitmap directory in the L1", Overlap, base.clone(), |p| {
        p.u64(extension + 16, l1);
    });
    for (name, at, value) in [
        ("table at zero", 0, 0_u64),
        ("table off its alignment", 0, 513),
        ("reserved flags", 8, 1 << 32 | 4),
        ("no table", 8, 2),
        ("too many clusters", 8, 2 << 32 | 2),
        ("unknown kind", 16, 0x0210_0003_0000_0000),
        ("fine granularity", 16, 0x0108_0003_0000_0000),
        ("coarse granularity", 16, 0x0120_0003_0000_0000),
        ("a long name", 16, 0x0110_0400_0000_0000),
        ("extra data", 16, 0x0110_0003_0000_0008),
    ] {
        set.add(format!("bitmap with {name}"), BadTable, base.clone(), |p| {
            p.u64(directory + at, value);
        });
    }
    set.add("bitmap table outside", OutsideFile, base.clone(), |p| {
        p.u64(directory, 1 << 40);
    });
    set.add("bitmap table in the L1", Overlap, base.clone(), |p| {
        p.u64(directory, l1);
    });
    for (name, kind, entry) in [
        ("reserved bit 1", BadTable, 2),
        ("reserved bit 56", BadTable, 1 << 56),
        ("ones and a place", BadTable, table as u64 | 1),
        ("a place off its alignment", BadTable, 512),
        ("a place outside", OutsideFile, 1 << 40),
        ("a place in the L1", Overlap, l1),
    ] {
        set.add(
            format!("bitmap table with {name}"),
            kind,
            base.clone(),
            |p| {
                p.u64(table, entry);
            },
        );
    }
}

/// Invalid compressed clusters.
pub(super) fn streams(set: &mut Set) {
    use ErrorKind::BadCluster;
    for (name, method) in [("zlib", Compression::Zlib), ("zstd", Compression::Zstd)] {
        let base = compressed(method);
        let entry = base.get(base.l2(0));
        let start = (entry & 0xff_ffff) as usize;
        set.add(format!("{name} garbage"), BadCluster, base.clone(), |p| {
            p.put(start, &[0xff; 16]);
        });
        set.add(format!("{name} zeros"), BadCluster, base.clone(), |p| {
            p.put(start, &[0; 64]);
        });
        set.add(
            format!("{name} from its second byte"),
            BadCluster,
            base.clone(),
            |p| {
                p.u64(p.l2(0), entry + 1);
            },
        );
        let half = vec![5; CLUSTER / 2];
        let mut short = ImageBuilder::new(1 << 20)
            .cluster_bits(11)
            .compression(method);
        short.write(0, &half, Stored::Compressed);
        let short = Patient::new(&short);
        let stream = (short.get(short.l2(0)) & 0xff_ffff) as usize;
        let stream = short.bytes[stream..stream + 40].to_vec();
        set.add(
            format!("{name} of half a cluster"),
            BadCluster,
            base.clone(),
            |p| {
                p.put(start, &stream);
            },
        );
    }
}

/// The same image, cut.
pub(super) fn cuts(set: &mut Set) {
    for (name, base) in [
        ("plain", plain()),
        ("v2", version_2()),
        ("zlib", compressed(Compression::Zlib)),
        ("zstd", compressed(Compression::Zstd)),
        ("subclusters", subclusters()),
        ("snapshot", snapshot()),
        ("bitmaps", bitmaps()),
    ] {
        let len = base.bytes.len();
        for cut in [
            3,
            71,
            100,
            103,
            111,
            600,
            CLUSTER - 1,
            CLUSTER,
            CLUSTER + 8,
            len / 4,
            len / 2,
            len * 3 / 4,
            len * 9 / 10,
            len - CLUSTER,
            len - CLUSTER + 1,
        ] {
            let mut bytes = base.bytes.clone();
            bytes.truncate(cut);
            let name = format!("{name} cut at {cut}");
            set.bytes(name, ErrorKind::Truncated, ImageType::Qcow2, bytes);
            // What the cut leaves of the tables points to where the file was.
            set.or(ErrorKind::OutsideFile);
        }
    }
    set.bytes(
        "empty qcow2",
        ErrorKind::Truncated,
        ImageType::Qcow2,
        Vec::new(),
    );
    set.bytes(
        "empty raw",
        ErrorKind::Truncated,
        ImageType::Raw,
        Vec::new(),
    );
}
