//! Images that are declared raw and are something else.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests know how large their numbers are"
)]

use lvp_image::ErrorKind;
use lvp_image::format::ImageType;

use super::{Set, plain};

/// Images of other formats that are declared raw or qcow2.
pub(super) fn other_formats(set: &mut Set) {
    let magics: &[(&str, usize, &[u8])] = &[
        ("qcow", 0, b"QFI\xfb\0\0\0\x01"),
        ("qcow2", 0, b"QFI\xfb\0\0\0\x03"),
        ("QED", 0, b"QED\0"),
        ("VMDK", 0, b"KDMV\x01\0\0\0"),
        ("ESX VMDK", 0, b"COWD\x01\0\0\0"),
        (
            "VMDK text",
            0,
            b"# Disk DescriptorFile\nversion=1\nRW 1 FLAT \"/etc/passwd\" 0\n",
        ),
        (
            "VMDK text with comments",
            0,
            b"#\n#x\n \nversion=1\nRW 1 FLAT \"/etc/passwd\" 0\n",
        ),
        (
            "VMDK text, DOS lines",
            0,
            b"# Disk DescriptorFile\r\nversion=1\r\n",
        ),
        ("VHD", 0, b"conectix\0\0\0\x02\0\x01\0\0"),
        ("VHDX", 0, b"vhdxfile"),
        ("VDI", 0x40, b"\x7f\x10\xda\xbe\x01\0\x01\0"),
        ("LUKS", 0, b"LUKS\xba\xbe\0\x01"),
        ("LUKS2", 0, b"LUKS\xba\xbe\0\x02"),
        ("Parallels", 0, b"WithoutFreeSpace\x02\0\0\0"),
        ("Parallels ext", 0, b"WithouFreSpacExt\x02\0\0\0"),
        ("Bochs", 0, b"Bochs Virtual HD Image\0"),
        (
            "cloop",
            0,
            b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0",
        ),
        ("ZIP", 0, b"PK\x03\x04\x14\0"),
        ("7-Zip", 0, b"7z\xbc\xaf\x27\x1c\0\x04"),
        ("LZ4", 0, b"\x04\x22\x4d\x18"),
    ];
    for (name, offset, magic) in magics {
        let mut bytes = vec![0; 64 << 10];
        bytes[*offset..offset + magic.len()].copy_from_slice(magic);
        set.bytes(
            format!("{name} as raw"),
            ErrorKind::OtherFormat,
            ImageType::Raw,
            bytes.clone(),
        );
        if !magic.starts_with(b"QFI\xfb\0\0\0\x03") {
            set.bytes(
                format!("{name} as qcow2"),
                ErrorKind::NotThisFormat,
                ImageType::Qcow2,
                bytes,
            );
        }
    }
    for (name, trailer) in [("fixed VHD", b"conectix"), ("DMG", b"koly\0\0\0\x04")] {
        let mut bytes = vec![7; 64 << 10];
        let at = bytes.len() - 512;
        bytes[at..at + 8].copy_from_slice(trailer);
        set.bytes(
            format!("{name} as raw"),
            ErrorKind::OtherFormat,
            ImageType::Raw,
            bytes,
        );
    }
    let whole = plain().bytes;
    set.bytes(
        "a whole qcow2 as raw",
        ErrorKind::OtherFormat,
        ImageType::Raw,
        whole,
    );
    let disk = vec![0; 1 << 20];
    set.bytes(
        "a disk of zeros as qcow2",
        ErrorKind::NotThisFormat,
        ImageType::Qcow2,
        disk,
    );
}

/// Raw images in streams that are damaged or hold something else.
pub(super) fn raw_streams(set: &mut Set) {
    use ErrorKind::{BadStream, OtherFormat, Truncated};
    let disk: Vec<u8> = (0..200_000_usize).map(|at| (at / 300) as u8).collect();
    for (name, pack) in PACKERS {
        let packed = pack(&disk);
        let raw = ImageType::Raw;
        for cut in [
            1,
            2,
            5,
            packed.len() / 2,
            packed.len() - 9,
            packed.len() - 1,
        ] {
            let bytes = packed[..cut].to_vec();
            set.bytes(format!("{name} cut at {cut}"), Truncated, raw, bytes);
        }
        // The other two codecs' tools ignore it.
        if matches!(*name, "xz" | "zstd") {
            let mut bytes = packed.clone();
            bytes.extend_from_slice(b"something else entirely");
            set.bytes(format!("{name} with a tail"), BadStream, raw, bytes);
        }
        let mut bytes = packed.clone();
        bytes.extend_from_slice(&packed[..packed.len() / 2]);
        set.bytes(
            format!("{name} with half a member more"),
            Truncated,
            raw,
            bytes,
        );
        let middle = packed.len() / 2;
        let mut bytes = packed.clone();
        for byte in &mut bytes[middle..middle + 8] {
            *byte ^= 0xff;
        }
        set.bytes(format!("{name} damaged"), BadStream, raw, bytes);
        set.bytes(format!("{name} of nothing"), Truncated, raw, pack(&[]));
        set.bytes(
            format!("{name} of qcow2"),
            OtherFormat,
            raw,
            pack(&plain().bytes),
        );
        let mut vhd = disk.clone();
        vhd[200_000 - 512..][..8].copy_from_slice(b"conectix");
        set.bytes(
            format!("{name} of a fixed VHD"),
            OtherFormat,
            raw,
            pack(&vhd),
        );
        set.bytes(
            format!("{name} of a stream"),
            OtherFormat,
            raw,
            pack(&packed),
        );
        set.bytes(format!("{name} of a VMDK"), OtherFormat, raw, pack(b"KDMV"));
        set.bytes(
            format!("{name} as qcow2"),
            ErrorKind::NotThisFormat,
            ImageType::Qcow2,
            packed,
        );
    }
}

pub(crate) type Packer = fn(&[u8]) -> Vec<u8>;

/// The four codecs, by their libraries.
pub(crate) const PACKERS: &[(&str, Packer)] =
    &[("gzip", gzip), ("xz", xz), ("zstd", zstd), ("bzip2", bzip2)];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let mut out = vec![0; compressor.gzip_compress_bound(bytes.len())];
    let len = compressor.gzip_compress(bytes, &mut out).unwrap();
    out.truncate(len);
    out
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut context = zstd_safe::CCtx::create();
    context
        .set_parameter(zstd_safe::CParameter::ChecksumFlag(true))
        .unwrap();
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
    context.compress2(&mut out, bytes).unwrap();
    out
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
