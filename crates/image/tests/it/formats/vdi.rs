//! VDI.

use lvp_image::ErrorKind;
use lvp_image::format::ImageType::Vdi;

use super::{Bench, MIXED};
use crate::parser_support::{qemu, verdict};

fn set(bytes: &mut [u8], at: usize, value: impl AsRef<[u8]>) {
    let value = value.as_ref();
    bytes[at..at + value.len()].copy_from_slice(value);
}

#[test]
fn vdi_images_read_as_qemu_reads_them() {
    if !qemu() {
        return;
    }
    for options in ["", "static=on"] {
        Bench::create(Vdi, options, "40M", &[]).compare(&format!("{options}, empty"));
        Bench::create(Vdi, options, "40M", MIXED).compare(options);
        for size in [512, 5_000_192, 3 << 20] {
            Bench::converted(Vdi, options, size).compare(&format!("{options}, {size} bytes"));
        }
    }
}

#[test]
fn a_vdis_odd_size_and_zero_blocks_are_as_for_qemu() {
    if !qemu() {
        return;
    }
    let bench = Bench::create(Vdi, "", "4M", &["write -P 1 0 4M"]);
    let mut bytes = bench.bytes();
    set(&mut bytes, 0x170, (3_000_001_u64).to_le_bytes());
    set(&mut bytes, 0x200 + 4, 0xffff_fffe_u32.to_le_bytes());
    std::fs::write(&bench.image, bytes).unwrap();
    bench.compare("an odd size");
}

#[test]
fn an_invalid_vdi_is_refused() {
    if !qemu() {
        return;
    }
    use ErrorKind::*;
    let bench = Bench::create(Vdi, "", "40M", MIXED);
    let word = |value: u32| value.to_le_bytes();
    bench.refused("signature", NotThisFormat, |b| b[0x40] ^= 1);
    bench.refused("version", BadHeader, |b| set(b, 0x44, word(0x0001_0002)));
    bench.refused("undo", BackingFile, |b| set(b, 0x4c, word(3)));
    bench.refused("differencing", BackingFile, |b| set(b, 0x4c, word(4)));
    bench.refused("type 9", BadHeader, |b| set(b, 0x4c, word(9)));
    bench.refused("a link", BackingFile, |b| b[0x1a8] = 1);
    bench.refused("a parent", BackingFile, |b| b[0x1b8] = 1);
    bench.refused("sectors", BadHeader, |b| set(b, 0x168, word(4096)));
    bench.refused("blocks", UnknownFeature, |b| set(b, 0x178, word(2 << 20)));
    bench.refused("extra", UnknownFeature, |b| set(b, 0x17c, word(512)));
    bench.refused("map's offset", BadHeader, |b| set(b, 0x154, word(513)));
    bench.refused("map outside", Truncated, |b| {
        set(b, 0x154, word(0x7fff_fe00))
    });
    bench.refused("data outside", OutsideFile, |b| {
        set(b, 0x158, word(0x7fff_fe00))
    });
    bench.refused("few blocks", BadHeader, |b| set(b, 0x180, word(3)));
    bench.refused("a large disk", TooLarge, |b| {
        set(b, 0x180, word(u32::MAX));
        set(b, 0x170, (1_u64 << 50).to_le_bytes());
    });
    bench.refused("a block outside", OutsideFile, |b| {
        set(b, 0x200, word(0x7fff_ffff))
    });
    bench.refused("in the header", Overlap, |b| set(b, 0x158, word(0)));
    bench.refused("the same block twice", Overlap, |b| {
        set(b, 0x200, word(0));
        set(b, 0x204, word(0));
    });
    assert_eq!(verdict(&bench.bytes()[..300], Vdi), Some(NotThisFormat));
}

#[test]
fn a_damaged_vdi_is_read_as_qemu_reads_it_or_not_at_all() {
    if !qemu() {
        return;
    }
    let bench = Bench::create(Vdi, "", "40M", MIXED);
    let places: Vec<usize> = (0x40..0x54).chain(0x150..0x1c8).collect();
    let (same, _) = bench.mutate(&places, &[1]);
    assert!(same > 20, "{same} read alike");
    bench.mutate(&(0x200..0x2a0).collect::<Vec<_>>(), &[0x40]);
    bench.cut_everywhere((0..3000).step_by(97));
}
