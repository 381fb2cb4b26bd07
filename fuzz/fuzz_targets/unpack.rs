//! Unpacking any archive or stream ends, within its bound, in a file or a refusal.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use lvp_image::copy::Engine;
use lvp_image::format::ImageType;
use lvp_image::source::FileSource;
use lvp_image::unpack::{self, UnpackOptions};

const MAX_BYTES: u64 = 4 << 20;

fuzz_target!(|data: &[u8]| {
    // The sum of a tar header is made right, or hardly any would get past it.
    let mut archive = data.to_vec();
    for block in archive.chunks_exact_mut(512) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    for bytes in [data, &archive] {
        let mut file = tempfile::tempfile().expect("there is room");
        file.write_all(bytes).expect("there is room");
        let source = FileSource::new(file).expect("it has a length");
        let options = UnpackOptions {
            engine: Engine::new(),
            max_bytes: MAX_BYTES,
            cancel: Default::default(),
        };
        let scratch = || Ok(tempfile::tempfile().expect("there is room"));
        match unpack::open(source, ImageType::Auto, scratch, &options) {
            Ok((_, unpacked)) => assert!(unpacked.is_none_or(|one| one.bytes <= MAX_BYTES)),
            Err(error) => assert!(error.kind().is_refusal(), "{error}"),
        }
    }
});
