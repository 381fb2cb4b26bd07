//! VHD, which QEMU calls vpc.

use lvp_image::ErrorKind;
use lvp_image::format::ImageType::Vhd;

use super::{Bench, MIXED};
use crate::parser_support::{qemu, run, verdict};

/// Sets a field of a footer or header and its checksum.
fn set(
    bytes: &mut [u8],
    structure: std::ops::Range<usize>,
    checksum_at: usize,
    at: usize,
    value: &[u8],
) {
    let structure = &mut bytes[structure];
    structure[at..at + value.len()].copy_from_slice(value);
    structure[checksum_at..checksum_at + 4].fill(0);
    let sum: u32 = structure.iter().map(|byte| u32::from(*byte)).sum();
    structure[checksum_at..checksum_at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

fn footer(bytes: &mut [u8], at: usize, value: &[u8]) {
    set(bytes, 0..512, 64, at, value);
}

fn header(bytes: &mut [u8], at: usize, value: &[u8]) {
    set(bytes, 512..1536, 36, at, value);
}

#[test]
fn vhd_images_read_as_qemu_reads_them() {
    if !qemu() {
        return;
    }
    for options in [
        "subformat=dynamic",
        "subformat=fixed",
        "subformat=dynamic,force_size=on",
        "subformat=fixed,force_size=on",
    ] {
        Bench::create(Vhd, options, "40M", &[]).compare(&format!("{options}, empty"));
        Bench::create(Vhd, options, "40M", MIXED).compare(options);
        for size in [512, 68 << 10, 5_000_192] {
            Bench::converted(Vhd, options, size).compare(&format!("{options}, {size} bytes"));
        }
    }
}

/// The first part of qemu-img's version, as in "qemu-img version 10.0.2 (Debian ...)".
fn qemu_major() -> u32 {
    let told = run("qemu-img", &["--version"]);
    let version = told
        .split(' ')
        .nth(2)
        .and_then(|version| version.split('.').next());
    version
        .and_then(|major| major.parse().ok())
        .expect("it has a number")
}

#[test]
fn a_vhds_size_is_the_geometrys_or_the_footers_depending_on_its_creator() {
    if !qemu() {
        return;
    }
    for creator in [
        b"vpc ", b"qemu", b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0", b"vs  ",
    ] {
        // QEMU 7.2 (Debian 12) does not know Azure's and Hyper-V's words yet, and takes the geometry.
        if matches!(creator, b"wa\0\0" | b"vs  ") && qemu_major() < 10 {
            continue;
        }
        let bench = Bench::create(Vhd, "subformat=dynamic", "33M", MIXED.get(1..3).unwrap());
        let mut bytes = bench.bytes();
        footer(&mut bytes, 28, creator);
        footer(&mut bytes, 48, &(34_u64 << 20).to_be_bytes());
        std::fs::write(&bench.image, bytes).unwrap();
        bench.compare(&format!("{:?}", String::from_utf8_lossy(creator)));
    }
}

#[test]
fn an_invalid_vhd_is_refused() {
    if !qemu() {
        return;
    }
    use ErrorKind::*;
    let bench = Bench::create(Vhd, "subformat=dynamic", "40M", MIXED);
    bench.refused("differencing", BackingFile, |b| {
        footer(b, 60, &4_u32.to_be_bytes())
    });
    bench.refused("fixed with a copy", BadHeader, |b| {
        footer(b, 60, &2_u32.to_be_bytes())
    });
    bench.refused("type 9", BadHeader, |b| footer(b, 60, &9_u32.to_be_bytes()));
    bench.refused("version", BadHeader, |b| footer(b, 12, &[0, 2]));
    bench.refused("checksum", BadHeader, |b| b[100] ^= 1);
    bench.refused("header's offset", OutsideFile, |b| {
        footer(b, 16, &[0xff; 8])
    });
    bench.refused("header's cookie", BadHeader, |b| b[512] ^= 1);
    bench.refused("header's checksum", BadHeader, |b| b[512 + 200] ^= 1);
    bench.refused("block size", BadHeader, |b| {
        header(b, 32, &1000_u32.to_be_bytes())
    });
    bench.refused("block size 0", BadHeader, |b| header(b, 32, &[0; 4]));
    bench.refused("few entries", BadHeader, |b| {
        header(b, 28, &3_u32.to_be_bytes())
    });
    bench.refused("table's offset", Truncated, |b| header(b, 16, &[0xff; 8]));
    bench.refused("a large table", TooLarge, |b| {
        header(b, 32, &512_u32.to_be_bytes());
        header(b, 28, &[0xff; 4]);
        footer(b, 28, b"win ");
        footer(b, 48, &(1_u64 << 40).to_be_bytes());
    });
    bench.refused("a large disk", TooLarge, |b| {
        footer(b, 28, b"win ");
        footer(b, 48, &[0x7f; 8]);
    });
    let table = 1536;
    bench.refused("outside", OutsideFile, |b| b[table..table + 4].fill(0x7f));
    bench.refused("in the metadata", Overlap, |b| b[table..table + 4].fill(0));
    bench.refused("the same block twice", Overlap, |b| {
        b.copy_within(table..table + 4, table + 16)
    });
    let fixed = Bench::create(Vhd, "subformat=fixed", "2M", &[]);
    let bytes = fixed.bytes();
    let end = bytes.len();
    let without_some = [&bytes[..end - 4096], &bytes[end - 512..]].concat();
    assert_eq!(verdict(&without_some, Vhd), Some(Truncated));
    assert_eq!(verdict(&bytes[..end - 512], Vhd), Some(NotThisFormat));
    assert_eq!(verdict(&[], Vhd), Some(NotThisFormat));
    assert_eq!(verdict(&[1; 100], Vhd), Some(NotThisFormat));
}

#[test]
fn a_damaged_vhd_is_read_as_qemu_reads_it_or_not_at_all() {
    if !qemu() {
        return;
    }
    let bench = Bench::create(Vhd, "subformat=dynamic", "40M", MIXED);
    // Entries of the table; footer and header have checksums.
    let places: Vec<usize> = (1536..1536 + 80).collect();
    let (same, _) = bench.mutate(&places, &[1]);
    println!("{same} read alike");
    bench.mutate(&(0..512).step_by(13).collect::<Vec<_>>(), &[0x80]);
    bench.cut_everywhere((0..3000).step_by(97));
}
