//! Clusters are judged as by the library calls that QEMU makes.
#![no_main]

use flate2::{Decompress, FlushDecompress, Status};
use libfuzzer_sys::fuzz_target;
use lvp_image::decode::Decoder;
use lvp_image::plan::Encoding;
use zstd_safe::{DCtx, InBuffer, OutBuffer};

fuzz_target!(|data: &[u8]| {
    let [choice, input @ ..] = data else {
        return;
    };
    let cluster_size = 512_usize << (choice >> 1) % 9;
    let encoding = if choice & 1 == 0 {
        Encoding::Deflate
    } else {
        Encoding::Zstd
    };
    let mut ours = vec![0xaa; cluster_size];
    let mut theirs = vec![0xaa; cluster_size];
    let accepted = Decoder::new().decode(encoding, input, &mut ours).is_ok();
    let expected = match encoding {
        Encoding::Zstd => zstd(input, &mut theirs),
        _ => match deflate(input, &mut theirs) {
            Some(is_full) => is_full,
            // libdeflate reads a few codes that zlib refuses (docs/images.md).
            None => return,
        },
    };
    assert_eq!(accepted, expected);
    if accepted {
        assert!(ours == theirs);
    }
});

/// One call of zlib's inflate that has to fill the output; `None` where the stream is no deflate.
fn deflate(input: &[u8], output: &mut [u8]) -> Option<bool> {
    let mut inflate = Decompress::new(false);
    let status = inflate
        .decompress(input, output, FlushDecompress::Finish)
        .ok()?;
    let is_full = inflate.total_out() == output.len() as u64;
    Some(is_full && matches!(status, Status::StreamEnd | Status::BufError | Status::Ok))
}

/// Streaming calls until the output is full, the last of which has to end a frame.
fn zstd(input: &[u8], output: &mut [u8]) -> bool {
    let mut context = DCtx::create();
    let len = output.len();
    let mut from = InBuffer::around(input);
    let mut to = OutBuffer::around(output);
    let mut hint = 0;
    while to.pos() < len {
        let before = (from.pos(), to.pos());
        match context.decompress_stream(&mut to, &mut from) {
            Ok(left) => hint = left,
            Err(_) => return false,
        }
        if (from.pos(), to.pos()) == before {
            return false;
        }
    }
    hint == 0
}
