//! A stream decodes to the same however it is cut, or is refused however it is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lvp_image::format::StreamCodec;
use lvp_image::stream::StreamDecoder;
use lvp_image::{Error, ErrorKind, Result};

/// A small input may hold a very large disk; no more of it than this is looked at.
const MAX_DISK: usize = 4 << 20;

fuzz_target!(|data: &[u8]| {
    let [choice, piece_len, input @ ..] = data else {
        return;
    };
    let codec = [
        StreamCodec::Gzip,
        StreamCodec::Xz,
        StreamCodec::Zstd,
        StreamCodec::Bzip2,
    ][usize::from(choice % 4)];
    let whole = decode(codec, input, input.len().max(1));
    let in_pieces = decode(codec, input, usize::from(*piece_len) + 1);
    match (whole, in_pieces) {
        (Ok(whole), Ok(in_pieces)) => assert!(whole == in_pieces),
        (Err(whole), Err(in_pieces)) => {
            // Where a stream has two faults, it depends on the pieces which is met first.
            assert!(whole.kind().is_refusal() || whole.kind() == ErrorKind::Cancelled);
            assert!(in_pieces.kind().is_refusal() || in_pieces.kind() == ErrorKind::Cancelled);
        }
        (whole, in_pieces) => panic!("{:?}, but {:?}", whole.err(), in_pieces.err()),
    }
});

fn decode(codec: StreamCodec, input: &[u8], piece_len: usize) -> Result<Vec<u8>> {
    let mut disk = Vec::new();
    let mut sink = |piece: &[u8]| {
        if disk.len() + piece.len() > MAX_DISK {
            return Err(Error::new(ErrorKind::Cancelled, "That is enough"));
        }
        disk.extend_from_slice(piece);
        Ok(())
    };
    let mut decoder = StreamDecoder::new(codec)?;
    for piece in input.chunks(piece_len) {
        decoder.push(piece, &mut sink)?;
    }
    let size = decoder.finish(&mut sink)?;
    assert_eq!(size, disk.len() as u64);
    Ok(disk)
}
