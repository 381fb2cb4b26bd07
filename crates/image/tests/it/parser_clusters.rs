//! Compressed clusters of every shape are judged as QEMU judges them.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests know how large their numbers are"
)]

use flate2::{Compress, FlushCompress};
use lvp_image::builder::{ImageBuilder, Stored};
use lvp_image::format::{Compression, ImageType};

use crate::hostile::{COMPRESSED, Patient, field};
use crate::parser_support::{Lab, qemu, read, try_run};

const BITS: u32 = 16;
const CLUSTER: usize = 1 << BITS;

/// Where a stream stands and what its descriptor says of it.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Bytes after a cluster's begin.
    inside: usize,
    /// Sectors after the first; `None` for as many as the stream touches.
    sectors: Option<u64>,
    /// Whether the file ends with the stream.
    ends_file: bool,
}

const SOMEWHERE: Place = Place {
    inside: 0,
    sectors: None,
    ends_file: false,
};

/// An image of one cluster, whose stream is `stream`.
fn image(method: Compression, stream: &[u8], place: Place) -> Patient {
    let mut builder = ImageBuilder::new(CLUSTER as u64)
        .cluster_bits(BITS)
        .compression(method);
    builder.write(0, &[1; CLUSTER], Stored::Compressed);
    let mut patient = Patient::new(&builder);
    patient
        .bytes
        .resize(patient.bytes.len().next_multiple_of(CLUSTER), 0);
    let start = patient.bytes.len() + place.inside;
    patient.bytes.resize(start, 0);
    patient.bytes.extend_from_slice(stream);
    if !place.ends_file {
        patient
            .bytes
            .resize(patient.bytes.len().next_multiple_of(CLUSTER), 0);
    }
    let last = start + stream.len().max(1) - 1;
    let sectors = place.sectors.unwrap_or((last / 512 - start / 512) as u64);
    let entry = COMPRESSED | sectors << (62 - (BITS - 8)) | start as u64;
    patient.u64(patient.l2(0), entry);
    // Its refcount says that the cluster is used.
    let block = patient.get(patient.get(field::REFTABLE_OFFSET) as usize) as usize;
    for cluster in start / CLUSTER..=last / CLUSTER {
        patient.put(block + cluster * 2, &[0, 1]);
    }
    patient
}

/// Both accept the image and read the same, or both refuse it.
#[track_caller]
fn agree(name: &str, patient: &Patient, accepted: bool) {
    let ours = read(patient.bytes.as_slice(), ImageType::Qcow2);
    let verdict = ours.as_ref().map(|_| ()).map_err(lvp_image::Error::kind);
    if qemu() {
        let lab = Lab::new();
        std::fs::write(&lab.image, &patient.bytes).unwrap();
        let raw = lab.file("raw");
        let args = ["convert", "-f", "qcow2", "-O", "raw", lab.path(), &raw];
        let qemu = try_run("qemu-img", &args).status.success();
        assert_eq!(qemu, accepted, "{name}: qemu-img, ours is {verdict:?}");
        if let (Ok(ours), true) = (&ours, qemu) {
            ours.assert_same(&lab.oracle(), name);
        }
    }
    assert_eq!(verdict.is_ok(), accepted, "{name}: {verdict:?}");
}

fn text() -> Vec<u8> {
    (0..CLUSTER)
        .map(|at| (at / 11 % 200 + at / 3000) as u8)
        .collect()
}

/// Raw deflate at a level, ended or only flushed.
fn deflate(bytes: &[u8], level: u32, flush: FlushCompress) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() * 2 + 1000);
    Compress::new(flate2::Compression::new(level), false)
        .compress_vec(bytes, &mut out, flush)
        .unwrap();
    out
}

fn zstd(bytes: &[u8], content_size: bool, checksum: bool) -> Vec<u8> {
    let mut context = zstd_safe::CCtx::create();
    context
        .set_parameter(zstd_safe::CParameter::ChecksumFlag(checksum))
        .unwrap();
    context
        .set_parameter(zstd_safe::CParameter::ContentSizeFlag(content_size))
        .unwrap();
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
    context.compress2(&mut out, bytes).unwrap();
    out
}

#[test]
fn deflate_streams_are_judged_as_qemu_judges_them() {
    let text = text();
    let longer = [text.as_slice(), b"more"].concat();
    let check = |name: &str, stream: &[u8], accepted| {
        agree(name, &image(Compression::Zlib, stream, SOMEWHERE), accepted);
    };
    for level in [0, 1, 6, 9] {
        let whole = deflate(&text, level, FlushCompress::Finish);
        check(&format!("level {level}"), &whole, true);
        check(
            &format!("level {level}, too long"),
            &deflate(&longer, level, FlushCompress::Finish),
            true,
        );
        check(
            &format!("level {level}, a byte short"),
            &deflate(&text[1..], level, FlushCompress::Finish),
            false,
        );
        check(
            // zlib reads on behind the last byte, and the sector's zeros are no block.
            &format!("level {level}, not ended"),
            &deflate(&text, level, FlushCompress::Sync),
            false,
        );
        check(
            &format!("level {level}, with a tail"),
            &[whole.as_slice(), &[0x77; 5000]].concat(),
            true,
        );
        check(
            &format!("level {level}, half"),
            &whole[..whole.len() / 2],
            false,
        );
    }
    // Distances of up to 32 KiB, which a window of 4 KiB does not reach.
    let noise: Vec<u8> = (0..30_000_u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut far = noise.clone();
    far.extend_from_slice(&noise);
    far.resize(CLUSTER, 3);
    check(
        "far distances",
        &deflate(&far, 9, FlushCompress::Finish),
        true,
    );
    check("nothing", &[], false);
    check(
        "an empty stream",
        &deflate(&[], 9, FlushCompress::Finish),
        false,
    );
    check(
        "with a zlib header",
        &[
            b"\x78\x9c",
            deflate(&text, 6, FlushCompress::Finish).as_slice(),
        ]
        .concat(),
        false,
    );
    // Two blocks: the first fills the cluster, the second is of a type that does not exist.
    let mut two = deflate(&text, 6, FlushCompress::Full);
    two.push(0x07);
    check("garbage after a whole cluster", &two, false);
}

#[test]
fn zstd_streams_are_judged_as_qemu_judges_them() {
    let text = text();
    let check = |name: &str, stream: &[u8], accepted| {
        agree(name, &image(Compression::Zstd, stream, SOMEWHERE), accepted);
    };
    for content_size in [false, true] {
        for checksum in [false, true] {
            let name = format!("size {content_size}, checksum {checksum}");
            let pack = |bytes: &[u8]| zstd(bytes, content_size, checksum);
            let whole = pack(&text);
            let (one, two) = (pack(&text[..40_000]), pack(&text[40_000..]));
            let skippable = b"\x53\x2a\x4d\x18\x05\0\0\0abcde";
            check(&name, &whole, true);
            check(
                &format!("{name}, two frames"),
                &[one.as_slice(), &two].concat(),
                true,
            );
            check(
                &format!("{name}, a skippable frame between"),
                &[one.as_slice(), skippable, &two].concat(),
                true,
            );
            check(
                &format!("{name}, a skippable frame before"),
                &[skippable, whole.as_slice()].concat(),
                true,
            );
            check(
                &format!("{name}, an empty frame before"),
                &[pack(&[]).as_slice(), &whole].concat(),
                true,
            );
            check(
                &format!("{name}, with a tail"),
                &[whole.as_slice(), &[0x77; 3000]].concat(),
                true,
            );
            check(&format!("{name}, a byte short"), &pack(&text[1..]), false);
            check(
                &format!("{name}, a byte too many"),
                &pack(&[text.as_slice(), b"x"].concat()),
                false,
            );
            check(
                &format!("{name}, the second frame too long"),
                &[one.as_slice(), &pack(&text[39_000..])].concat(),
                false,
            );
            check(
                &format!("{name}, garbage between"),
                &[one.as_slice(), b"garb", &two].concat(),
                false,
            );
            check(&format!("{name}, only one frame"), &one, false);
            // The sector's rest of zeros stands for the missing byte.
            let cut = &whole[..whole.len() - 2];
            check(
                &format!("{name}, cut"),
                &[cut, &[0xee; 600]].concat(),
                false,
            );
            if checksum {
                let mut wrong = whole.clone();
                *wrong.last_mut().unwrap() ^= 1;
                check(&format!("{name}, wrong"), &wrong, false);
            }
        }
    }
    check("nothing", &[], false);
    check(
        "a skippable frame alone",
        b"\x53\x2a\x4d\x18\x05\0\0\0abcde",
        false,
    );
    for (window, accepted) in [(10, true), (17, true), (18, false), (21, false)] {
        // Raw blocks in a frame without content size.
        let mut frame = b"\x28\xb5\x2f\xfd\x00".to_vec();
        frame.push(window << 3);
        let block = if window == 10 { 1 << 16 } else { 1 << 15 };
        for piece in text.chunks(block) {
            let is_last = piece.as_ptr_range().end == text.as_ptr_range().end;
            let head = (piece.len() as u32) << 3 | u32::from(is_last);
            frame.extend_from_slice(&head.to_le_bytes()[..3]);
            frame.extend_from_slice(piece);
        }
        // The stream has more bytes than its cluster, as QEMU would not write it.
        check(&format!("window 2^{}", 10 + window), &frame, accepted);
    }
}

#[test]
fn a_stream_may_be_anywhere_and_end_with_the_file() {
    let text = text();
    for (method, stream) in [
        (Compression::Zlib, deflate(&text, 6, FlushCompress::Finish)),
        (Compression::Zstd, zstd(&text, true, false)),
    ] {
        for inside in [0, 1, 511, 512, 513, 1000, CLUSTER - 600, CLUSTER - 1] {
            for ends_file in [false, true] {
                let place = Place {
                    inside,
                    sectors: None,
                    ends_file,
                };
                agree(
                    &format!("{method}, {place:?}"),
                    &image(method, &stream, place),
                    true,
                );
            }
        }
        // More sectors than it needs, inside the file and beyond its end.
        for sectors in [20, 127, 255] {
            for ends_file in [false, true] {
                let place = Place {
                    inside: 77,
                    sectors: Some(sectors),
                    ends_file,
                };
                agree(
                    &format!("{method}, {place:?}"),
                    &image(method, &stream, place),
                    true,
                );
            }
        }
        // Fewer than it needs.
        let place = Place {
            inside: 0,
            sectors: Some(0),
            ends_file: false,
        };
        agree(
            &format!("{method}, one sector"),
            &image(method, &stream, place),
            false,
        );
    }
}

#[test]
fn a_stream_that_is_cut_by_the_end_of_the_file_is_refused() {
    let text = text();
    for (method, stream) in [
        (Compression::Zlib, deflate(&text, 6, FlushCompress::Finish)),
        (Compression::Zstd, zstd(&text, true, false)),
    ] {
        let place = Place {
            ends_file: true,
            ..SOMEWHERE
        };
        let whole = image(method, &stream, place);
        for cut in 1..stream.len() {
            // The last bytes of a deflate stream only say that it ends.
            if method == Compression::Zlib && cut <= 2 {
                continue;
            }
            let mut patient = whole.clone();
            patient.bytes.truncate(whole.bytes.len() - cut);
            let ours = read(patient.bytes.as_slice(), ImageType::Qcow2);
            assert!(ours.is_err(), "{method}, cut by {cut}");
        }
    }
}
