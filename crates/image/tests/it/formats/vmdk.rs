//! VMDK.

use lvp_image::ErrorKind;
use lvp_image::format::ImageType::Vmdk;

use super::{Bench, MIXED};
use crate::parser_support::{pipe, qemu, verdict};

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().unwrap())
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().unwrap())
}

fn set(bytes: &mut [u8], at: usize, value: impl AsRef<[u8]>) {
    let value = value.as_ref();
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Where the grain directory, and the first grain table with anything in it, stand.
fn tables(bytes: &[u8]) -> (usize, usize) {
    let directory = usize::try_from(le64(bytes, 56) * 512).unwrap();
    let table = (0..)
        .map(|index| le32(bytes, directory + 4 * index))
        .find(|entry| *entry != 0);
    (directory, usize::try_from(table.unwrap()).unwrap() * 512)
}

/// Puts another text into the descriptor.
fn describe(bytes: &mut [u8], change: impl FnOnce(&str) -> String) {
    let start = usize::try_from(le64(bytes, 28) * 512).unwrap();
    let len = usize::try_from(le64(bytes, 36) * 512).unwrap();
    let area = &mut bytes[start..start + len];
    let end = area.iter().position(|byte| *byte == 0).unwrap_or(len);
    let text = change(std::str::from_utf8(&area[..end]).unwrap());
    area.fill(0);
    area[..text.len()].copy_from_slice(text.as_bytes());
}

#[test]
fn vmdk_images_read_as_qemu_reads_them() {
    if !qemu() {
        return;
    }
    for options in [
        "subformat=monolithicSparse",
        "subformat=monolithicSparse,zeroed_grain=on",
        "subformat=monolithicSparse,compat6",
    ] {
        Bench::create(Vmdk, options, "40M", &[]).compare(&format!("{options}, empty"));
        Bench::create(Vmdk, options, "40M", MIXED).compare(options);
        for size in [512, 65_536, 5_000_192] {
            Bench::converted(Vmdk, options, size).compare(&format!("{options}, {size} bytes"));
        }
    }
    let with_zeros = ["write -P 1 0 4M", "write -z 1M 1M", "write -z 3M 65536"];
    let options = "subformat=monolithicSparse,zeroed_grain=on";
    Bench::create(Vmdk, options, "5M", &with_zeros).compare("zeroed grains");
    for size in [512, 65_536, 65_536 + 512, 5_000_192, 40 << 20] {
        Bench::converted(Vmdk, "subformat=streamOptimized", size)
            .compare(&format!("streamOptimized, {size} bytes"));
    }
}

/// A stream-optimized image as VMware writes it: the directory's place is in a footer only.
fn with_footer(bench: &Bench) -> Vec<u8> {
    let mut bytes = bench.bytes();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    let header = bytes[..512].to_vec();
    set(&mut bytes, 56, [0xff; 8]);
    let mut marker = [0; 512];
    set(&mut marker, 0, [1]);
    set(&mut marker, 12, [3]);
    bytes.extend(marker);
    bytes.extend(header);
    bytes.extend([0; 512]);
    bytes
}

#[test]
fn a_directory_at_the_end_is_found_by_the_footer() {
    if !qemu() {
        return;
    }
    let bench = Bench::converted(Vmdk, "subformat=streamOptimized", 5_000_192);
    let bytes = with_footer(&bench);
    let footer = bytes.len() - 1024;
    std::fs::write(&bench.image, &bytes).unwrap();
    bench.compare("with a footer");
    for at in [
        footer - 512 + 12,
        footer,
        bytes.len() - 512,
        bytes.len() - 500,
    ] {
        bench.refused(&format!("byte {at}"), ErrorKind::Truncated, |b| b[at] ^= 1);
    }
    bench.refused("no footer", ErrorKind::Truncated, |b| b.truncate(footer));
    bench.refused("a footer of a footer", ErrorKind::Truncated, |b| {
        set(b, footer + 56, [0xff; 8]);
    });
}

#[test]
fn an_invalid_vmdk_is_refused() {
    if !qemu() {
        return;
    }
    use ErrorKind::*;
    let bench = Bench::create(Vmdk, "subformat=monolithicSparse", "40M", MIXED);
    let (directory, table) = tables(&bench.bytes());
    bench.refused("magic", NotThisFormat, |b| b[0] ^= 1);
    bench.refused("ESX's old format", UnknownFeature, |b| set(b, 0, b"COWD"));
    bench.refused("version", BadHeader, |b| b[4] = 9);
    bench.refused("text mode", BadHeader, |b| b[73] ^= 1);
    bench.refused("compression without markers", UnknownFeature, |b| {
        b[10] |= 1
    });
    bench.refused("another method", UnknownFeature, |b| {
        b[10] |= 3;
        b[77] = 2;
    });
    for sectors in [0_u64, 3, 8192, u64::MAX] {
        let what = format!("grains of {sectors}");
        bench.refused(&what, BadHeader, |b| set(b, 20, sectors.to_le_bytes()));
    }
    bench.refused("no entries", BadHeader, |b| set(b, 44, [0; 4]));
    bench.refused("many entries", BadHeader, |b| set(b, 44, [0xff; 4]));
    bench.refused("a huge disk", TooLarge, |b| set(b, 12, [0xff; 8]));
    bench.refused("a large disk", TooLarge, |b| {
        set(b, 12, (1_u64 << 44).to_le_bytes())
    });
    bench.refused("a long descriptor", TooLarge, |b| {
        set(b, 36, (1_u64 << 30).to_le_bytes())
    });
    bench.refused("a descriptor outside", OutsideFile, |b| {
        set(b, 28, (1_u64 << 40).to_le_bytes())
    });
    bench.refused("no descriptor", ExternalDataFile, |b| set(b, 28, [0; 8]));
    bench.refused("a directory outside", Truncated, |b| {
        set(b, 56, (1_u64 << 40).to_le_bytes())
    });
    bench.refused("a directory beyond numbers", BadHeader, |b| {
        set(b, 56, (1_u64 << 60).to_le_bytes())
    });
    bench.refused("overhead", Truncated, |b| {
        set(b, 64, (1_u64 << 40).to_le_bytes())
    });
    bench.refused("a table outside", OutsideFile, |b| {
        set(b, directory, [0xff; 4])
    });
    bench.refused("a table twice", Overlap, |b| {
        b.copy_within(directory..directory + 4, directory + 4)
    });
    bench.refused("a table in the header", Overlap, |b| {
        set(b, directory, [1, 0, 0, 0])
    });
    bench.refused("a grain outside", OutsideFile, |b| set(b, table, [0xff; 4]));
    bench.refused("a grain in the tables", Overlap, |b| {
        let sector = u32::try_from(table / 512).unwrap();
        set(b, table, sector.to_le_bytes());
    });
    bench.refused("a grain twice", Overlap, |b| {
        b.copy_within(table..table + 4, table + 4)
    });
}

#[test]
fn a_disk_that_needs_another_file_or_a_key_is_refused() {
    if !qemu() {
        return;
    }
    use ErrorKind::*;
    let bench = Bench::create(Vmdk, "subformat=monolithicSparse", "4M", &[]);
    let cases: [(&str, ErrorKind, &str, &str); 7] = [
        ("flat", ExternalDataFile, " SPARSE ", " FLAT "),
        (
            "split",
            ExternalDataFile,
            "monolithicSparse",
            "twoGbMaxExtentSparse",
        ),
        ("ESX", ExternalDataFile, "monolithicSparse", "vmfs"),
        (
            "a parent's id",
            BackingFile,
            "parentCID=ffffffff",
            "parentCID=12345678",
        ),
        (
            "a parent",
            BackingFile,
            "createType",
            "parentFileNameHint=\"/etc/passwd\"\ncreateType",
        ),
        (
            "encrypted",
            Encrypted,
            "createType",
            "encryption.keySafe = \"vmware:key\"\ncreateType",
        ),
        (
            "two files",
            ExternalDataFile,
            "RW 8192 SPARSE",
            "RW 1 SPARSE \"b\"\nRW 8191 SPARSE",
        ),
    ];
    for (what, kind, from, to) in cases {
        bench.refused(what, kind, |b| {
            describe(b, |text| {
                assert!(text.contains(from), "{text}");
                text.replace(from, to)
            });
        });
    }
    bench.refused("nothing", BadHeader, |b| describe(b, |_| String::new()));
    for subformat in [
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
    ] {
        let options = format!("subformat={subformat}");
        let bench = Bench::create(Vmdk, &options, "4M", &[]);
        assert_eq!(
            verdict(&bench.bytes(), Vmdk),
            Some(ExternalDataFile),
            "{subformat}"
        );
    }
}

#[test]
fn a_compressed_grain_that_is_damaged_is_refused() {
    if !qemu() {
        return;
    }
    let bench = Bench::converted(Vmdk, "subformat=streamOptimized", 5_000_192);
    let (_, table) = tables(&bench.bytes());
    let grain = usize::try_from(le32(&bench.bytes(), table)).unwrap() * 512;
    for at in [grain + 12, grain + 13, grain + 40] {
        bench.refused(&format!("byte {at}"), ErrorKind::BadCluster, |b| {
            b[at] ^= 0x55
        });
    }
    bench.refused("length 0", ErrorKind::BadCluster, |b| {
        set(b, grain + 8, [0; 4])
    });
    bench.refused("length", ErrorKind::BadCluster, |b| {
        set(b, grain + 8, [0xff; 4])
    });
    bench.refused("twice", ErrorKind::Overlap, |b| {
        b.copy_within(table..table + 4, table + 4)
    });
    // The marker says how much of the zlib stream there is, and the stream how long a grain is.
    if crate::parser_support::require("python3", &["python3"]) {
        let script = "import sys, zlib; sys.stdout.buffer.write(zlib.compress(bytes(1000)))";
        let short = pipe("python3", &["-c", script], &[]);
        let len = u32::try_from(short.len()).unwrap();
        bench.refused("a short grain", ErrorKind::BadCluster, |b| {
            set(b, grain + 8, len.to_le_bytes());
            set(b, grain + 12, &short);
        });
    }
}

#[test]
fn a_damaged_vmdk_is_read_as_qemu_reads_it_or_not_at_all() {
    if !qemu() {
        return;
    }
    for bench in [
        Bench::create(Vmdk, "subformat=monolithicSparse", "40M", MIXED),
        Bench::converted(Vmdk, "subformat=streamOptimized", 5_000_192),
    ] {
        let (directory, table) = tables(&bench.bytes());
        let places: Vec<usize> = (0..80).chain(directory..directory + 8).collect();
        let (same, _) = bench.mutate(&places, &[1]);
        assert!(same > 5, "{same} read alike");
        bench.mutate(&(table..table + 40).collect::<Vec<_>>(), &[2]);
        bench.cut_everywhere((0..3000).step_by(97));
    }
}
