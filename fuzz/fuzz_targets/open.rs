//! Opening any bytes as any type ends, within memory, in an image or a refusal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lvp_image::ErrorKind;
use lvp_image::format::ImageType;
use lvp_image::plan::Planner;

fuzz_target!(|data: &[u8]| {
    for declared in ImageType::ALL.iter().copied() {
        match Planner::open(data, declared) {
            Ok(planner) => {
                let info = planner.info();
                assert_eq!(info.file_size, data.len() as u64);
                assert!(info.alignment.is_power_of_two() && info.alignment <= 4096);
                assert!(
                    info.virtual_size
                        .is_none_or(|size| size.is_multiple_of(512))
                );
            }
            Err(error) => {
                // Memory cannot fail to be read, so every error is a verdict.
                let kind = error.kind();
                assert!(kind.is_refusal() || kind == ErrorKind::Packed, "{error}");
                assert!(!error.to_string().is_empty());
            }
        }
    }
});
