//! What a plan promises holds for any VHD that is accepted. Checksums are made right, or nothing would get past
//! them.
#![no_main]

#[path = "../src/plan.rs"]
mod plan;

use libfuzzer_sys::fuzz_target;
use lvp_image::format::ImageType;

const FOOTER: std::ops::Range<usize> = 0..512;
const HEADER: std::ops::Range<usize> = 512..1536;

fuzz_target!(|data: &[u8]| {
    let mut image = data.to_vec();
    for (structure, checksum_at) in [(FOOTER, 64), (HEADER, 36)] {
        if let Some(structure) = image.get_mut(structure) {
            sum(structure, checksum_at);
        }
    }
    if let Some(tail) = image.len().checked_sub(512) {
        sum(&mut image[tail..], 64);
    }
    plan::plan(&image, ImageType::Vhd);
});

fn sum(structure: &mut [u8], checksum_at: usize) {
    structure[checksum_at..checksum_at + 4].fill(0);
    let sum: u32 = structure.iter().map(|byte| u32::from(*byte)).sum();
    structure[checksum_at..checksum_at + 4].copy_from_slice(&(!sum).to_be_bytes());
}
