//! Forms that QEMU takes as sound and other programs write: a backing file without a name, L1 tables
//! and bitmaps that are used twice, a bitmap extension without its feature bit.
//!
//! qemu-img decides: what it opens is read, to the same bytes, and what it refuses is refused.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests know how large their numbers are"
)]

use lvp_image::ErrorKind;
use lvp_image::format::ImageType;

use crate::hostile::{COPIED, Patient, bitmaps, field, plain, version_2, with_snapshots};
use crate::parser_support::{Lab, qemu, read, try_run};

/// qemu-img and this crate agree whether the image can be read, and read the same; returns whether.
#[track_caller]
fn judged_as_by_qemu(name: &str, patient: &Patient) -> bool {
    let lab = Lab::new();
    std::fs::write(&lab.image, &patient.bytes).unwrap();
    let raw = lab.file("qemu.raw");
    let args = ["convert", "-f", "qcow2", "-O", "raw", lab.path(), &raw];
    let is_sound = try_run("qemu-img", &args).status.success();
    let ours = read(patient.bytes.as_slice(), ImageType::Qcow2);
    assert_eq!(ours.is_ok(), is_sound, "{name}: {:?}", ours.err());
    if is_sound {
        lab.compare(name);
    }
    is_sound
}

fn with_backing_name(base: &Patient, offset: u64, len: u32, name: &[u8]) -> Patient {
    let mut patient = base.clone();
    patient
        .u64(field::BACKING_OFFSET, offset)
        .u32(field::BACKING_SIZE, len);
    if !name.is_empty() {
        patient.put(offset as usize, name);
    }
    patient
}

#[test]
fn an_empty_backing_file_name_means_no_backing_file() {
    for (version, base) in [("v3", plain()), ("v2", version_2())] {
        for (offset, len, name) in [
            (0, 11, &b""[..]),
            (0, u32::MAX, b""),
            (8, 0, b""),
            (112, 0, b""),
            (1001, 0, b""),
            (1024, 0, b""),
            (4096, 0, b""),
            (1024, 11, b"\0etc/passwd"),
            (1024, 1023, b"\0"),
            (4090, 6, b"\0"),
        ] {
            let name_of_case = format!("{version}: {len} bytes at {offset}, {name:?}");
            let patient = with_backing_name(&base, offset, len, name);
            if let Err(error) = read(patient.bytes.as_slice(), ImageType::Qcow2) {
                panic!("{name_of_case}: refused as {:?}: {error}", error.kind());
            }
            if qemu() {
                assert!(judged_as_by_qemu(&name_of_case, &patient), "{name_of_case}");
            }
        }
    }
}

#[test]
fn a_backing_file_with_a_name_or_an_invalid_offset_is_refused_as_by_qemu() {
    for (version, base) in [("v3", plain()), ("v2", version_2())] {
        for (offset, len, name, kind) in [
            (1024, 1, &b"a"[..], ErrorKind::BackingFile),
            (4095, 1, b"a", ErrorKind::BackingFile),
            (1024, 1024, b"\0", ErrorKind::BackingFile),
            (4090, 7, b"\0", ErrorKind::BackingFile),
            (4097, 0, b"", ErrorKind::BadHeader),
            (u64::MAX, 0, b"", ErrorKind::BadHeader),
        ] {
            let name_of_case = format!("{version}: {len} bytes at {offset:#x}, {name:?}");
            let patient = with_backing_name(&base, offset, len, name);
            let error = read(patient.bytes.as_slice(), ImageType::Qcow2).unwrap_err();
            assert_eq!(error.kind(), kind, "{name_of_case}");
            if qemu() {
                assert!(
                    !judged_as_by_qemu(&name_of_case, &patient),
                    "{name_of_case}"
                );
            }
        }
    }
}

#[test]
fn header_extensions_end_where_an_empty_backing_file_name_begins() {
    if !qemu() {
        return;
    }
    let start = field::EXTENSIONS as u64;
    let mut verdicts = Vec::new();
    for (kind, data) in [
        (0x1234_5678, &[7; 100][..]),
        // The name of an external data file, which is none where extensions have ended before it.
        (0x4441_5441, b""),
    ] {
        for offset in start..start + 8 + data.len() as u64 + 20 {
            let mut patient = plain();
            patient.extensions(&[(kind, data)]);
            let patient = with_backing_name(&patient, offset, 0, b"");
            if kind == 0x4441_5441 && offset > start + 7 {
                // QEMU takes a name that no feature bit asks for; here it is refused.
                let error = read(patient.bytes.as_slice(), ImageType::Qcow2).unwrap_err();
                let is_cut = offset % 8 != 0;
                assert!(
                    is_cut || error.kind() == ErrorKind::ExternalDataFile,
                    "{offset}"
                );
                continue;
            }
            verdicts.push(judged_as_by_qemu(&format!("{kind:#x}, {offset}"), &patient));
        }
    }
    assert!(verdicts.contains(&true) && verdicts.contains(&false));
}

/// The places and entries of an image's L1 tables: of its snapshots, in their order.
fn snapshot_records(bytes: &[u8]) -> Vec<usize> {
    let patient = Patient {
        bytes: bytes.to_vec(),
    };
    let count = patient.get(field::SNAPSHOTS - 4) as u32;
    let mut at = patient.get(field::SNAPSHOTS_OFFSET) as usize;
    let mut records = Vec::new();
    for _ in 0..count {
        at = at.next_multiple_of(8);
        records.push(at);
        let names = patient.get(at + 8) & 0xffff_ffff;
        let extra = patient.get(at + 32) & 0xffff_ffff;
        at += 40 + (names >> 16) as usize + (names & 0xffff) as usize + extra as usize;
    }
    records
}

#[test]
fn snapshots_may_share_an_l1_table_with_each_other_and_with_the_active_layer() {
    if !qemu() {
        return;
    }
    for options in ["cluster_size=4096", "cluster_size=4096,compat=0.10"] {
        for (name, with_active, entries) in [
            ("each other's", false, 4),
            ("a shorter one", false, 2),
            ("the active one", true, 4),
        ] {
            let lab = Lab::create(options, "8M");
            lab.io(&["write -P 1 0 1M", "write -P 2 3M 64k"]);
            lab.img(&["snapshot", "-q", "-c", "one"]);
            lab.img(&["snapshot", "-q", "-c", "two"]);
            let mut patient = Patient { bytes: lab.bytes() };
            let records = snapshot_records(&patient.bytes);
            let shared = if with_active {
                patient.l1() as u64
            } else {
                patient.get(records[0])
            };
            patient.u64(records[1], shared).u32(records[1] + 8, entries);
            std::fs::write(&lab.image, &patient.bytes).unwrap();
            // QEMU counts the table twice then, and finds nothing wrong with it.
            lab.img(&["check", "-q", "-f", "qcow2", "-r", "all"]);
            lab.img(&["check", "-q", "-f", "qcow2"]);
            let checked = Patient { bytes: lab.bytes() };
            assert_eq!(checked.get(records[1]), shared, "{name} is still shared");
            lab.compare(&format!("{options}, {name}"));
        }
    }
    let patient = with_snapshots(plain(), &vec![(plain().l1() as u64, 4); 1000]);
    assert!(judged_as_by_qemu(
        "a thousand have the active table",
        &patient
    ));
}

/// Sets the count of the cluster at an offset; counts have 16 bits.
fn count(patient: &mut Patient, offset: u64, refcount: u16) {
    let cluster = offset as usize / 4096;
    let block = patient.get(patient.reftable() + cluster / 2048 * 8) as usize;
    patient.put(block + cluster % 2048 * 2, &refcount.to_be_bytes());
}

#[test]
fn bitmaps_may_share_their_tables_and_clusters() {
    if !qemu() {
        return;
    }
    for whole_table in [true, false] {
        let lab = Lab::create("cluster_size=4096", "8M");
        for name in ["one", "two"] {
            lab.bitmap(&["--add", "-g", "4096"], name);
        }
        // Both bitmaps get the same bits.
        lab.io(&["write -P 1 1M 1M"]);
        let mut patient = Patient { bytes: lab.bytes() };
        let directory = patient.get(field::EXTENSIONS + 8 + 16) as usize;
        let tables = [directory, directory + 32].map(|entry| patient.get(entry));
        let clusters = tables.map(|table| patient.get(table as usize));
        if whole_table {
            patient.u64(directory + 32, tables[0]);
            count(&mut patient, tables[0], 2);
            count(&mut patient, tables[1], 0);
        } else {
            patient.u64(tables[1] as usize, clusters[0]);
        }
        count(&mut patient, clusters[0], 2);
        count(&mut patient, clusters[1], 0);
        std::fs::write(&lab.image, &patient.bytes).unwrap();
        lab.img(&["check", "-q", "-f", "qcow2"]);
        lab.compare(&format!("whole table: {whole_table}"));
    }
}

#[test]
fn a_bitmap_extension_without_its_feature_bit_may_say_anything() {
    let start = field::EXTENSIONS + 8;
    for (name, at, value) in [
        ("no bitmaps", 0, 0_u64),
        ("65536 bitmaps", 0, 65536 << 32),
        ("a reserved field", 0, 2 << 32 | 1),
        ("a directory of no length", 8, 0),
        ("a directory of a TiB", 8, 1 << 40),
        ("a directory nowhere", 16, u64::MAX),
    ] {
        let mut patient = bitmaps();
        patient.u64(start + at, value);
        let vouched_for = read(patient.bytes.as_slice(), ImageType::Qcow2);
        assert!(vouched_for.is_err(), "{name}");
        patient.u64(field::AUTOCLEAR, 0);
        if let Err(error) = read(patient.bytes.as_slice(), ImageType::Qcow2) {
            panic!("{name}: refused as {:?}: {error}", error.kind());
        }
        if qemu() {
            assert!(judged_as_by_qemu(name, &patient), "{name}");
        }
    }
}

#[test]
fn forms_that_only_the_specification_forbids_are_refused_though_qemu_accepts_them() {
    // docs/images.md lists these.
    for (name, kind, patient) in [
        ("a header of 109 bytes", ErrorKind::BadHeader, {
            let mut patient = plain();
            patient.u32(field::HEADER_LENGTH, 109);
            patient
        }),
        ("an unused cluster in use", ErrorKind::BadTable, {
            let mut patient = plain();
            let l2 = patient.l2(0);
            patient.u64(l2 + 8 * 500, COPIED);
            patient
        }),
        (
            "an external data file without its bit",
            ErrorKind::ExternalDataFile,
            {
                let mut patient = plain();
                patient.extensions(&[(0x4441_5441, b"data.raw")]);
                patient
            },
        ),
    ] {
        let error = read(patient.bytes.as_slice(), ImageType::Qcow2).unwrap_err();
        assert_eq!(error.kind(), kind, "{name}");
        if qemu() {
            let lab = Lab::new();
            std::fs::write(&lab.image, &patient.bytes).unwrap();
            lab.oracle();
        }
    }
}
