//! Detection by content: one format is recognised, an ambiguous content refused, a wrong declaration corrected.

use lvp_image::ErrorKind;
use lvp_image::format::{Format, ImageType};
use lvp_image::plan::Planner;

use super::Bench;
use crate::parser_support::{qemu, verdict};

fn reason(bytes: &[u8], declared: ImageType) -> (ErrorKind, String) {
    let error = Planner::open(bytes, declared).unwrap_err();
    (error.kind(), error.to_string())
}

#[test]
fn a_disk_is_raw_and_an_unknown_format_is_refused_by_name() {
    let disk = Planner::open([1; 1024].as_slice(), ImageType::Auto).unwrap();
    assert_eq!(disk.info().format, Format::Raw);
    let (kind, text) = reason(b"QED\0 and more", ImageType::Auto);
    assert_eq!(kind, ErrorKind::OtherFormat);
    assert!(text.contains("a QED image"), "{text}");
    assert_eq!(verdict(&[], ImageType::Auto), Some(ErrorKind::Truncated));
}

#[test]
fn content_that_fits_two_formats_is_refused_by_both_names() {
    let mut bytes = vec![0; 4096];
    bytes[..4].copy_from_slice(b"QFI\xfb");
    bytes[0x40..0x44].copy_from_slice(b"\x7f\x10\xda\xbe");
    let (kind, text) = reason(&bytes, ImageType::Auto);
    assert_eq!(kind, ErrorKind::OtherFormat);
    assert!(text.contains("qcow2") && text.contains("VDI"), "{text}");
    let mut bytes = vec![0; 4096];
    bytes[..4].copy_from_slice(b"KDMV");
    bytes[3584..3592].copy_from_slice(b"conectix");
    let (_, text) = reason(&bytes, ImageType::Auto);
    assert!(text.contains("VMDK") && text.contains("VHD"), "{text}");
}

#[test]
fn a_wrong_declaration_is_refused_with_the_right_one() {
    if !qemu() {
        return;
    }
    let types = [
        ImageType::Vmdk,
        ImageType::Vhd,
        ImageType::Vhdx,
        ImageType::Vdi,
        ImageType::Qcow2,
    ];
    for real in types {
        let bytes = Bench::create(real, "", "4M", &[]).bytes();
        for declared in types.into_iter().chain([ImageType::Raw]) {
            if declared == real {
                continue;
            }
            let (kind, text) = reason(&bytes, declared);
            assert!(matches!(
                kind,
                ErrorKind::NotThisFormat | ErrorKind::OtherFormat
            ));
            assert!(
                text.contains(&format!("declare it {real} (image_type)")),
                "{declared}: {text}"
            );
        }
    }
}

#[test]
fn an_archive_of_the_oldest_format_is_not_a_disk() {
    let mut header = [0_u8; 1024];
    header[..8].copy_from_slice(b"disk.raw");
    header[124..135].copy_from_slice(b"00000000000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let (kind, text) = reason(&header, ImageType::Raw);
    assert_eq!(kind, ErrorKind::Packed);
    assert!(text.contains("tar"), "{text}");
    header[1] ^= 1;
    assert_eq!(verdict(&header, ImageType::Raw), None);
}
