//! What a plan promises holds for any VHDX that is accepted. The input is what the structures hold, which are put
//! at their places with their checksums: files of some MiB of zeros would teach the fuzzer nothing.
#![no_main]

#[path = "../src/plan.rs"]
mod plan;

use libfuzzer_sys::fuzz_target;
use lvp_image::format::ImageType;

const MIB: usize = 1 << 20;

/// Where a part of the input goes, how long it is at most, and how much a checksum covers.
const PARTS: [(usize, usize, usize); 5] = [
    (64 << 10, 80, 4096),
    (192 << 10, 112, 64 << 10),
    (MIB, 256, 0),
    (MIB + (64 << 10), 64, 0),
    (2 * MIB, 512, 0),
];

fuzz_target!(|data: &[u8]| {
    let mut image = vec![0; 5 * MIB];
    image[..8].copy_from_slice(b"vhdxfile");
    let mut rest = data;
    for (at, len, covered) in PARTS {
        let (part, after) = rest.split_at(rest.len().min(len));
        rest = after;
        image[at..at + part.len()].copy_from_slice(part);
        if covered > 0 {
            image[at + 4..at + 8].fill(0);
            let sum = crc32c(&image[at..at + covered]);
            image[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
        }
    }
    plan::plan(&image, ImageType::Vhdx);
});

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum: u32, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg())
        })
    })
}
