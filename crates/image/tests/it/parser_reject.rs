//! Every case of the hostile set is refused, as what it is, within a second.

use std::time::{Duration, Instant};

use lvp_image::ErrorKind;
use lvp_image::format::ImageType;

use crate::hostile::{cases, field, plain};
use crate::parser_support::{Lab, qemu, read, read_file, try_run};

/// What the slowest refusal may take, built without optimisation and on a busy machine.
const MAX_TIME: Duration = Duration::from_secs(1);

#[test]
fn every_hostile_image_is_refused_with_the_right_kind_within_a_second() {
    let cases = cases();
    assert!(cases.len() >= 120, "there are only {}", cases.len());
    let mut wrong = Vec::new();
    let mut slowest = (Duration::ZERO, String::new());
    for case in &cases {
        let start = Instant::now();
        let outcome = read(case.bytes.as_slice(), case.declared);
        let took = start.elapsed();
        if took > slowest.0 {
            slowest = (took, case.name.clone());
        }
        match outcome {
            Err(error) if error.kind() == case.kind || Some(error.kind()) == case.or => {
                assert!(error.kind().is_refusal());
            }
            Err(error) => wrong.push(format!(
                "{}: refused as {:?} instead of {:?}: {error}",
                case.name,
                error.kind(),
                case.kind
            )),
            Ok(_) => wrong.push(format!("{}: accepted", case.name)),
        }
    }
    eprintln!("{} cases, the slowest took {slowest:?}", cases.len());
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(slowest.0 < MAX_TIME, "{slowest:?}");
}

#[test]
fn an_unknown_feature_is_refused_by_the_name_that_the_image_gives_it() {
    let mut table = vec![0; 96];
    table[..9].copy_from_slice(b"\x01\x2dno this");
    table[48..61].copy_from_slice(b"\x00\x2dtime\x1btravel");
    let mut patient = plain();
    patient
        .u64(field::INCOMPATIBLE, 1 << 45 | 1 << 50)
        .extensions(&[(0x6803_f857, &table)]);
    let error = read(patient.bytes.as_slice(), ImageType::Qcow2).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("bit 45 (\"time?travel\"), bit 50"), "{text}");
}

#[test]
fn every_other_format_that_qemu_img_creates_is_refused_as_raw_and_as_qcow2() {
    if !qemu() {
        return;
    }
    for (format, options) in [
        ("qcow2", "compat=1.1"),
        ("qcow2", "compat=0.10"),
        ("qcow", ""),
        ("qed", ""),
        ("vdi", ""),
        ("vdi", "static=on"),
        ("vhdx", "subformat=dynamic"),
        ("vhdx", "subformat=fixed"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=monolithicFlat"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
        ("vmdk", "subformat=twoGbMaxExtentFlat"),
        ("vmdk", "subformat=streamOptimized"),
        ("vpc", "subformat=dynamic"),
        ("vpc", "subformat=fixed"),
        ("vpc", "subformat=fixed,force_size=on"),
        ("parallels", ""),
    ] {
        let lab = Lab::new();
        let mut args = vec!["create", "-q", "-f", format];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend([lab.path(), "8M"]);
        let output = try_run("qemu-img", &args);
        assert!(output.status.success(), "{format}, {options}: {output:?}");
        let kind = |declared| {
            read_file(&lab.image, declared)
                .err()
                .map(|error| error.kind())
        };
        let name = format!("{format}, {options}");
        assert_eq!(kind(ImageType::Raw), Some(ErrorKind::OtherFormat), "{name}");
        if format != "qcow2" {
            assert_eq!(
                kind(ImageType::Qcow2),
                Some(ErrorKind::NotThisFormat),
                "{name}"
            );
        }
    }
}

/// What qemu-img wrote at the beginning of a file, up to the names of features: version 3,
/// `crypt_method` 2 at byte 32, and the extension that says where LUKS has its header. Not made
/// anew each time: to choose a number of rounds, qemu-img measures the time that it gets from the
/// processor, and gives up where the clock is too coarse ("Unable to get accurate CPU usage").
const LUKS: [u8; 136] = *b"QFI\xfb\0\0\0\x03\0\0\0\0\0\0\0\0\
    \0\0\0\0\0\0\0\x10\0\0\0\0\0\x40\0\0\
    \0\0\0\x02\0\0\0\x01\0\0\0\0\0\x03\0\0\
    \0\0\0\0\0\x01\0\0\0\0\0\x01\0\0\0\0\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
    \0\0\0\x04\0\0\0\x70\0\0\0\0\0\0\0\0\
    \x05\x37\xbe\x77\0\0\0\x10\0\0\0\0\0\x04\0\0\
    \0\0\0\0\0\x1f\x90\0";

/// The length of that file: the guest's 4 MiB are not allocated.
const LUKS_FILE_BYTES: usize = 2_359_296;

#[test]
fn an_image_that_qemu_img_encrypted_with_luks_is_refused() {
    let mut image = LUKS.to_vec();
    image.resize(LUKS_FILE_BYTES, 0);
    let kind = |image: &[u8]| read(image, ImageType::Qcow2).err().map(|e| e.kind());
    assert_eq!(kind(&image), Some(ErrorKind::Encrypted));
    // Either sign of it is enough, and nothing else of this image is one.
    image[35] = 0;
    assert_eq!(kind(&image), Some(ErrorKind::Encrypted));
    image[112..116].fill(0);
    assert_ne!(kind(&image), Some(ErrorKind::Encrypted));
}

#[test]
fn encrypted_images_and_external_data_files_of_qemu_img_are_refused() {
    if !qemu() {
        return;
    }
    let secret = "secret,id=s,data=0123456789";
    for (options, kind) in [
        (
            "encrypt.format=aes,encrypt.key-secret=s",
            ErrorKind::Encrypted,
        ),
        ("data_file=DATA", ErrorKind::ExternalDataFile),
        (
            "data_file=DATA,data_file_raw=on",
            ErrorKind::ExternalDataFile,
        ),
    ] {
        let lab = Lab::new();
        let options = options.replace("DATA", &lab.file("data"));
        let args = [
            "create", "-q", "--object", secret, "-f", "qcow2", "-o", &options,
        ];
        let output = try_run("qemu-img", &[&args[..], &[lab.path(), "4M"]].concat());
        assert!(output.status.success(), "{options}: {output:?}");
        let error = read_file(&lab.image, ImageType::Qcow2).unwrap_err();
        assert_eq!(error.kind(), kind, "{options}");
    }
}
