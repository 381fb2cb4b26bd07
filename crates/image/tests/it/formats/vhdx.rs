//! VHDX.

use lvp_image::ErrorKind;
use lvp_image::format::ImageType::Vhdx;

use super::{Bench, MIXED};
use crate::parser_support::{qemu, read_file, verdict};

const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
const REGION_TABLES: [usize; 2] = [192 << 10, 256 << 10];

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg())
        })
    })
}

/// Sets a field of both copies of a structure, and their checksums.
fn set(bytes: &mut [u8], copies: [usize; 2], len: usize, at: usize, value: &[u8]) {
    for start in copies {
        let copy = &mut bytes[start..start + len];
        copy[at..at + value.len()].copy_from_slice(value);
        copy[4..8].fill(0);
        let sum = crc32c(copy);
        copy[4..8].copy_from_slice(&sum.to_le_bytes());
    }
}

fn header(bytes: &mut [u8], at: usize, value: &[u8]) {
    set(bytes, HEADERS, 4096, at, value);
}

fn regions(bytes: &mut [u8], at: usize, value: &[u8]) {
    set(bytes, REGION_TABLES, 64 << 10, at, value);
}

/// Offsets of the block allocation table and of the metadata.
fn places(bytes: &[u8]) -> (usize, usize) {
    let entry = |index: usize| {
        let at = REGION_TABLES[0] + 16 + 32 * index;
        let offset = u64::from_le_bytes(*bytes[at + 16..].first_chunk().unwrap());
        (bytes[at] == 0x66, usize::try_from(offset).unwrap())
    };
    match (entry(0), entry(1)) {
        ((true, table), (_, metadata)) | ((_, metadata), (true, table)) => (table, metadata),
        _ => panic!("there is a block allocation table"),
    }
}

/// Sets an item of the metadata, by the first byte of its GUID.
fn item(bytes: &mut [u8], guid: u8, at: usize, value: &[u8]) {
    let (_, metadata) = places(bytes);
    let entry = (1..8)
        .map(|index| metadata + 32 * index)
        .find(|entry| bytes[*entry] == guid)
        .unwrap();
    let offset = u32::from_le_bytes(*bytes[entry + 16..].first_chunk().unwrap());
    let start = metadata + usize::try_from(offset).unwrap() + at;
    bytes[start..start + value.len()].copy_from_slice(value);
}

const PARAMETERS: u8 = 0x37;
const DISK_SIZE: u8 = 0x24;
const SECTOR_SIZE: u8 = 0x1d;

#[test]
fn vhdx_images_read_as_qemu_reads_them() {
    if !qemu() {
        return;
    }
    for options in [
        "",
        "subformat=fixed",
        "block_size=1M",
        "block_size=2M,subformat=fixed",
        "block_size=16M,block_state_zero=off",
        "log_size=2M",
    ] {
        Bench::create(Vhdx, options, "40M", &[]).compare(&format!("{options}, empty"));
        Bench::create(Vhdx, options, "40M", MIXED).compare(options);
        for size in [1 << 20, 5_000_192] {
            Bench::converted(Vhdx, options, size).compare(&format!("{options}, {size} bytes"));
        }
    }
}

#[test]
fn a_vhdx_with_several_chunks_reads_as_qemu_reads_it() {
    if !qemu() {
        return;
    }
    // A chunk of 1 MiB blocks has 4096 of them.
    let writes = [
        "write -P 1 0 1M",
        "write -P 2 4095M 3M",
        "write -P 3 8191M 2M",
    ];
    Bench::create(Vhdx, "block_size=1M", "9G", &writes).compare("three chunks");
}

#[test]
fn a_vhdx_with_one_valid_header_and_region_table_is_read() {
    if !qemu() {
        return;
    }
    let bench = Bench::create(Vhdx, "", "40M", MIXED);
    for damaged in [HEADERS[0], HEADERS[1], REGION_TABLES[0], REGION_TABLES[1]] {
        let mut bytes = bench.bytes();
        bytes[damaged + 100] ^= 1;
        let other = Bench::new(Vhdx);
        std::fs::write(&other.image, bytes).unwrap();
        let disk = read_file(&other.image, Vhdx).unwrap();
        // QEMU looks at the first region table only.
        if damaged != REGION_TABLES[0] {
            other.compare(&format!("damaged at {damaged:#x}"));
        }
        disk.assert_same(&read_file(&bench.image, Vhdx).unwrap(), "the sound image");
    }
}

#[test]
fn an_invalid_vhdx_is_refused() {
    if !qemu() {
        return;
    }
    use ErrorKind::*;
    let bench = Bench::create(Vhdx, "block_size=1M", "40M", MIXED);
    bench.refused("identifier", NotThisFormat, |b| b[0] ^= 1);
    bench.refused("both headers", BadHeader, |b| {
        b[HEADERS[0] + 100] ^= 1;
        b[HEADERS[1] + 100] ^= 1;
    });
    bench.refused("a log to replay", UnknownFeature, |b| {
        header(b, 48, &[7; 16])
    });
    bench.refused("version", BadHeader, |b| header(b, 66, &[2, 0]));
    bench.refused("the log's place", BadHeader, |b| header(b, 72, &[1, 2, 3]));
    bench.refused("the log outside", OutsideFile, |b| {
        header(b, 72, &(1_u64 << 40).to_le_bytes())
    });
    bench.refused("the log in a region", Overlap, |b| {
        let (table, _) = places(b);
        header(b, 72, &(table as u64).to_le_bytes());
    });
    bench.refused("both region tables", BadHeader, |b| {
        b[REGION_TABLES[0] + 100] ^= 1;
        b[REGION_TABLES[1] + 100] ^= 1;
    });
    bench.refused("many regions", BadHeader, |b| regions(b, 8, &[0xff; 4]));
    bench.refused("no region", BadHeader, |b| regions(b, 8, &[0; 4]));
    bench.refused("an unknown region", UnknownFeature, |b| {
        regions(b, 16, &[9; 16]);
        regions(b, 16 + 28, &[1]);
    });
    bench.refused("a region outside", OutsideFile, |b| {
        regions(b, 32, &(1_u64 << 40).to_le_bytes());
    });
    bench.refused("a region's place", BadHeader, |b| regions(b, 32, &[1]));
    bench.refused("metadata", BadHeader, |b| {
        let (_, metadata) = places(b);
        b[metadata] ^= 1;
    });
    bench.refused("a parent", BackingFile, |b| item(b, PARAMETERS, 4, &[2]));
    bench.refused("block size", BadHeader, |b| item(b, PARAMETERS, 0, &[1]));
    bench.refused("a large block", BadHeader, |b| {
        item(b, PARAMETERS, 0, &[0, 0, 0, 0x20])
    });
    bench.refused("sectors", BadHeader, |b| item(b, SECTOR_SIZE, 0, &[0, 4]));
    bench.refused("a large disk", TooLarge, |b| {
        item(b, DISK_SIZE, 0, &(1_u64 << 50).to_le_bytes())
    });
    bench.refused("a disk of no size", BadHeader, |b| {
        item(b, DISK_SIZE, 0, &[0; 8])
    });
    bench.refused("an odd disk", BadHeader, |b| item(b, DISK_SIZE, 0, &[1]));
    bench.refused("more blocks than entries", BadHeader, |b| {
        item(b, DISK_SIZE, 0, &(1_u64 << 40).to_le_bytes());
    });
    let entry = |at: usize, value: u64| {
        move |b: &mut Vec<u8>| {
            let at = places(b).0 + 8 * at;
            b[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
    };
    bench.refused("a part of a parent", BadTable, entry(0, 7 | 8 << 20));
    bench.refused("an unknown state", BadTable, entry(0, 4 | 8 << 20));
    bench.refused("reserved bits", BadTable, entry(0, 6 | 8 | 8 << 20));
    bench.refused("outside", OutsideFile, entry(0, 6 | 1 << 40));
    bench.refused("in the header", Overlap, entry(0, 6));
    bench.refused("twice", Overlap, |b| {
        let (table, _) = places(b);
        b.copy_within(table..table + 8, table + 8);
    });
    assert_eq!(verdict(b"vhdxfile", Vhdx), Some(Truncated));
    assert_eq!(verdict(b"vhdx", Vhdx), Some(NotThisFormat));
}

#[test]
fn a_damaged_vhdx_is_read_as_qemu_reads_it_or_not_at_all() {
    if !qemu() {
        return;
    }
    let bench = Bench::create(Vhdx, "block_size=1M", "40M", MIXED);
    let (table, metadata) = places(&bench.bytes());
    let entries: Vec<usize> = (table..table + 64).collect();
    bench.mutate(&entries, &[1]);
    let (same, _) = bench.mutate(
        &(metadata..metadata + 192).step_by(3).collect::<Vec<_>>(),
        &[1],
    );
    println!("{same} read alike");
    bench.cut_everywhere((0..400_000).step_by(7001));
}
