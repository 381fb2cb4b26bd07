//! Streams decode the same in another process, however their bytes arrive.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use lvp_image::ErrorKind;
use lvp_image::copy::Engine;
use lvp_image::format::StreamCodec;
use lvp_image::stream::{StreamDecoder, Windows};

use super::{Start, engine};

/// A disk that compresses somewhat, of a length that is no multiple of anything.
fn disk() -> Vec<u8> {
    let mut random = 88_172_645_463_325_252_u64;
    let mut disk = Vec::new();
    while disk.len() < 5_000_003 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let run = usize::try_from(random % 40).expect("small");
        disk.extend(std::iter::repeat_n(random.to_le_bytes()[0], run));
    }
    disk
}

fn gzip(disk: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(disk).expect("in memory");
    gzip.finish().expect("in memory")
}

/// A zstd frame that announces a window of 64 MiB, with its content in blocks as they are.
fn zstd(disk: &[u8]) -> Vec<u8> {
    let mut frame = b"\x28\xb5\x2f\xfd\x00\x80".to_vec();
    let mut blocks = disk.chunks(128 << 10).peekable();
    while let Some(block) = blocks.next() {
        let is_last = u32::from(blocks.peek().is_none());
        let header = u32::try_from(block.len()).expect("small") << 3 | is_last;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(block);
    }
    frame
}

/// Decodes a stream that arrives in chunks of this size. The disk, without its padding.
fn decoded(
    engine: &Engine,
    codec: StreamCodec,
    stream: &[u8],
    chunk: usize,
) -> lvp_image::Result<Vec<u8>> {
    let engine = engine.for_job();
    let mut disk = Vec::new();
    let mut sink = |piece: &[u8]| {
        disk.extend_from_slice(piece);
        Ok(())
    };
    let windows = Windows::default();
    let mut decoder = StreamDecoder::within(codec, engine.decoders(), windows, || false)?;
    for chunk in stream.chunks(chunk) {
        decoder.push(chunk, &mut sink)?;
    }
    decoder.finish(&mut sink)?;
    Ok(disk)
}

#[test]
fn a_stream_decodes_the_same_in_another_process_however_it_arrives() {
    let (here, apart) = (
        Engine::new(),
        engine(Start::hostile(), Duration::from_secs(60)),
    );
    let disk = disk();
    let twice = [gzip(&disk[..1_234_567]), gzip(&disk[1_234_567..])].concat();
    let trailed = [&twice[..], b"not a gzip member"].concat();
    for (codec, stream) in [
        (StreamCodec::Gzip, &twice),
        (StreamCodec::Gzip, &trailed),
        (StreamCodec::Zstd, &zstd(&disk)),
    ] {
        for chunk in [997, 65_536, 600_000, usize::MAX] {
            let expected = decoded(&here, codec, stream, chunk).expect("it is sound");
            let found = decoded(&apart, codec, stream, chunk).expect("it is sound");
            assert!(expected[..disk.len()] == disk[..], "{codec} {chunk}");
            assert!(found == expected, "{codec} in chunks of {chunk}");
        }
    }
}

#[test]
fn a_damaged_stream_is_refused_in_the_same_words_in_another_process() {
    let (here, apart) = (
        Engine::new(),
        engine(Start::hostile(), Duration::from_secs(60)),
    );
    let disk = disk();
    let sound = gzip(&disk);
    let mut flipped = sound.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    let cut = sound[..sound.len() - 3].to_vec();
    // A window of 2 GiB.
    let mut huge = zstd(&disk);
    huge[5] = (31 - 10) << 3;
    for (codec, stream, kind) in [
        (StreamCodec::Gzip, &flipped, ErrorKind::BadStream),
        (StreamCodec::Gzip, &cut, ErrorKind::Truncated),
        (StreamCodec::Zstd, &huge, ErrorKind::TooLarge),
        (StreamCodec::Xz, &sound, ErrorKind::BadStream),
        (StreamCodec::Bzip2, &sound, ErrorKind::BadStream),
    ] {
        let expected = decoded(&here, codec, stream, 100_000).expect_err("it is damaged");
        let found = decoded(&apart, codec, stream, 100_000).expect_err("it is damaged");
        assert_eq!(expected.kind(), kind, "{codec}: {expected}");
        assert_eq!(found.kind(), kind, "{codec}: {found}");
        assert_eq!(found.to_string(), expected.to_string());
    }
}
