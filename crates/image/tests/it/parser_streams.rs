//! Raw images, as they are and inside streams made by the formats' own tools.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests know how large their numbers are"
)]

use lvp_image::ErrorKind;
use lvp_image::format::{Format, ImageType, StreamCodec};
use lvp_image::plan::Planner;
use lvp_image::stream::StreamDecoder;

use crate::hostile::PACKERS;
use crate::parser_support::{Disk, Lab, pipe, read, require, run, verdict};

fn disk(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at / 600 + at / 70_000 * 3) as u8)
        .collect()
}

/// The disk that qemu-img makes of a raw image: whole sectors.
fn padded(raw: &[u8]) -> Disk {
    let mut raw = raw.to_vec();
    raw.resize(raw.len().next_multiple_of(512), 0);
    read(raw.as_slice(), ImageType::Raw).unwrap()
}

#[track_caller]
fn accept(name: &str, stream: &[u8], raw: &[u8]) {
    match read(stream, ImageType::Raw) {
        Ok(disk) => disk.assert_same(&padded(raw), name),
        Err(error) => panic!("{name}: refused as {:?}: {error}", error.kind()),
    }
}

#[test]
fn a_raw_image_is_its_bytes_in_whole_sectors_as_for_qemu() {
    let there = require("qemu-img", &["qemu-img"]);
    for len in [1, 511, 512, 513, 1000, 4096, 100_000, 1 << 20] {
        let raw = disk(len);
        let ours = read(raw.as_slice(), ImageType::Raw).unwrap();
        assert_eq!(ours.size, (len as u64).next_multiple_of(512));
        if there {
            let lab = Lab::new();
            std::fs::write(&lab.image, &raw).unwrap();
            let to = lab.file("raw");
            run(
                "qemu-img",
                &["convert", "-f", "raw", "-O", "raw", lab.path(), &to],
            );
            let theirs = Disk::from_raw_file(to.as_ref());
            ours.assert_same(&theirs, &format!("{len} bytes"));
        }
    }
}

#[test]
fn each_codec_is_recognised_and_decoded() {
    for (index, (name, pack)) in PACKERS.iter().enumerate() {
        for len in [1, 511, 4095, 4096, 4097, 262_144, 1_000_000] {
            let raw = disk(len);
            let stream = pack(&raw);
            let planner = Planner::open(stream.as_slice(), ImageType::Raw).unwrap();
            let codecs = [
                StreamCodec::Gzip,
                StreamCodec::Xz,
                StreamCodec::Zstd,
                StreamCodec::Bzip2,
            ];
            assert_eq!(planner.info().format, Format::RawStream(codecs[index]));
            assert_eq!(planner.info().virtual_size, None);
            assert!(planner.is_one_pass());
            accept(&format!("{name}, {len}"), &stream, &raw);
        }
    }
}

#[test]
fn concatenated_members_are_one_image() {
    let raw = disk(300_000);
    for (name, pack) in PACKERS {
        let (one, two) = (pack(&raw[..1000]), pack(&raw[1000..]));
        let empty = pack(&[]);
        accept(name, &[one.as_slice(), &two].concat(), &raw);
        accept(name, &[one.as_slice(), &empty, &two, &empty].concat(), &raw);
        accept(name, &[empty.as_slice(), &one, &two].concat(), &raw);
    }
}

#[test]
fn padding_that_the_tools_allow_is_allowed() {
    let raw = disk(50_000);
    let zeros = [0; 1024];
    let gzip = PACKERS[0].1(&raw);
    accept("gzip", &[gzip.as_slice(), &zeros[..777]].concat(), &raw);
    let xz = PACKERS[1].1(&raw);
    accept("xz", &[xz.as_slice(), &zeros].concat(), &raw);
    accept(
        "xz, between",
        &[xz.as_slice(), &zeros[..4], &xz].concat(),
        &[&raw[..], &raw].concat(),
    );
    let odd = [xz.as_slice(), &zeros[..5]].concat();
    assert_eq!(verdict(&odd, ImageType::Raw), Some(ErrorKind::BadStream));
    let zstd = PACKERS[2].1(&raw);
    let skippable = b"\x5f\x2a\x4d\x18\x04\0\0\0abcd";
    accept(
        "zstd",
        &[skippable, zstd.as_slice(), skippable].concat(),
        &raw,
    );
}

#[test]
fn a_gzip_header_may_have_every_optional_field() {
    let raw = disk(50_000);
    let plain = PACKERS[0].1(&raw);
    for flags in 0..32_u8 {
        let mut stream = b"\x1f\x8b\x08".to_vec();
        stream.extend_from_slice(&[flags, 1, 2, 3, 4, 5, 6]);
        if flags & 4 != 0 {
            stream.extend_from_slice(b"\x05\x00extra");
        }
        if flags & 8 != 0 {
            stream.extend_from_slice(b"name\0");
        }
        if flags & 16 != 0 {
            stream.extend_from_slice(b"comment\0");
        }
        if flags & 2 != 0 {
            stream.extend_from_slice(b"\x12\x34");
        }
        stream.extend_from_slice(&plain[10..]);
        accept(&format!("flags {flags}"), &stream, &raw);
    }
    let mut reserved = plain.clone();
    reserved[3] = 0x20;
    assert_eq!(
        verdict(&reserved, ImageType::Raw),
        Some(ErrorKind::BadStream)
    );
}

#[test]
fn every_byte_of_a_streams_end_is_needed() {
    let raw = disk(3000);
    for (name, pack) in PACKERS {
        let stream = pack(&raw);
        for cut in 1..stream.len() {
            let kind = verdict(&stream[..stream.len() - cut], ImageType::Raw);
            assert_eq!(kind, Some(ErrorKind::Truncated), "{name}, cut by {cut}");
        }
    }
}

#[test]
fn streams_of_the_tools_themselves_are_decoded() {
    let raw = disk(700_000);
    for (tool, levels) in [
        ("gzip", &["-1", "-9"][..]),
        (
            "xz",
            &["-0", "-6", "-8e", "--check=none", "--check=sha256", "--x86"],
        ),
        ("zstd", &["-1", "-19", "--ultra", "--no-check", "--long=25"]),
        ("bzip2", &["-1", "-9"]),
    ] {
        if !require(tool, &[tool]) {
            continue;
        }
        for level in levels {
            let mut args = vec!["-c"];
            args.push(level);
            if *level == "--x86" {
                args.push("--lzma2");
            }
            accept(&format!("{tool} {level}"), &pipe(tool, &args, &raw), &raw);
        }
    }
}

#[test]
fn streams_with_the_largest_windows_that_the_tools_make_by_themselves_are_decoded() {
    let raw = disk(700_000);
    if require("zstd", &["zstd"]) {
        // As a pipe's length is not known, the frame says its window and no size.
        for args in [&["-c", "--ultra", "-22"][..], &["-c", "--long=27"]] {
            accept(&format!("zstd {args:?}"), &pipe("zstd", args, &raw), &raw);
        }
    }
    if require("xz", &["xz"]) {
        for args in [&["-c", "-9"][..], &["-c", "--lzma2=dict=128MiB"]] {
            accept(&format!("xz {args:?}"), &pipe("xz", args, &raw), &raw);
        }
        let small = pipe("xz", &["-c", "-1"], &raw);
        let large = pipe("xz", &["-c", "-9"], &raw);
        let both = [small, large].concat();
        accept("xz, the second larger", &both, &[&raw[..], &raw].concat());
    }
}

#[test]
fn bytes_after_a_stream_are_ignored_or_refused_as_by_its_own_tool() {
    let raw = disk(50_000);
    let ignored = |stream: &[u8], codec| {
        let mut decoder = StreamDecoder::new(codec).unwrap();
        let mut sink = |_: &[u8]| Ok(());
        for byte in stream.chunks(1) {
            decoder.push(byte, &mut sink).unwrap();
        }
        let ignored = decoder.ignored_bytes();
        decoder.finish(&mut sink).unwrap();
        ignored
    };
    let garbage: [&[u8]; 5] = [b"FWx0 metadata", b"x", b"\0\0\0x", b"\x1f", b"\x1fx"];
    for (index, codec) in [(0, StreamCodec::Gzip), (3, StreamCodec::Bzip2)] {
        let stream = PACKERS[index].1(&raw);
        assert_eq!(ignored(&stream, codec), 0);
        for garbage in garbage {
            let with = [&stream[..], garbage].concat();
            accept(&format!("{codec} and {garbage:?}"), &with, &raw);
            // Zeros behind gzip are padding.
            let zeros = garbage.iter().take_while(|byte| **byte == 0).count();
            let is_gzip = codec == StreamCodec::Gzip;
            let expected = garbage.len() - if is_gzip { zeros } else { 0 };
            assert_eq!(
                ignored(&with, codec),
                expected as u64,
                "{codec} and {garbage:?}"
            );
        }
        let begun = [&stream[..], &stream[..9]].concat();
        assert_eq!(
            verdict(&begun, ImageType::Raw),
            Some(ErrorKind::Truncated),
            "{codec}"
        );
    }
    for index in [1, 2] {
        let with = [&PACKERS[index].1(&raw)[..], b"FWx0 metadata"].concat();
        assert_eq!(verdict(&with, ImageType::Raw), Some(ErrorKind::BadStream));
    }
}

#[test]
fn a_stream_that_needs_too_much_memory_is_refused() {
    if require("zstd", &["zstd"]) {
        let stream = pipe("zstd", &["-c", "--long=28"], &vec![7; 1000]);
        assert_eq!(verdict(&stream, ImageType::Raw), Some(ErrorKind::TooLarge));
    }
    if require("xz", &["xz"]) {
        let stream = pipe("xz", &["-c", "--lzma2=dict=192MiB"], &vec![7; 1000]);
        assert_eq!(verdict(&stream, ImageType::Raw), Some(ErrorKind::TooLarge));
    }
}
