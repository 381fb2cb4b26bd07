//! What a plan promises holds for any VMDK that is accepted.
#![no_main]

#[path = "../src/plan.rs"]
mod plan;

use libfuzzer_sys::fuzz_target;
use lvp_image::format::ImageType;

fuzz_target!(|data: &[u8]| plan::plan(data, ImageType::Vmdk));
