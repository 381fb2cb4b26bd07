//! Images inside streams and archives: unpacked within bounds, and read as if they had not been packed.

mod manifest;

use std::fs;
use std::path::{Path, PathBuf};

use lvp_image::convert::{ConvertOptions, Converted, convert};
use lvp_image::copy::{CopyOptions, Engine, TailPolicy};
use lvp_image::format::ImageType;
use lvp_image::{Error, ErrorKind};

use crate::engine_support::{Images, assert_same, text};
use crate::hostile::PACKERS;
use crate::parser_support::{qemu, require, run};

const MIB: usize = 1 << 20;

fn options() -> ConvertOptions {
    ConvertOptions {
        copy: CopyOptions::new(&Engine::new(), TailPolicy::Zero),
        verify_first: true,
        max_bytes: None,
    }
}

fn write(images: &Images, name: &str, bytes: &[u8]) -> PathBuf {
    let path = images.path(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn to(images: &Images, image: &Path, declared: ImageType) -> Result<Converted, Error> {
    convert(image, declared, &images.path("out"), &options())
}

#[track_caller]
fn is_the_disk(images: &Images, image: &Path, declared: ImageType) -> Converted {
    let what = format!("{} as {declared}", image.display());
    let converted = to(images, image, declared).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_same(&fs::read(images.path("out")).unwrap(), &images.disk, &what);
    converted
}

#[track_caller]
fn is_refused(images: &Images, image: &Path, declared: ImageType, kind: ErrorKind, words: &str) {
    fs::remove_file(images.path("out")).ok();
    let error = to(images, image, declared).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(words), "{error}");
    assert!(!images.path("out").exists());
}

/// A tar archive of files in the images' directory.
fn tar(images: &Images, name: &str, args: &[&str]) -> PathBuf {
    let path = images.path(name);
    let directory = images.directory.path();
    let first = ["-C", text(directory), "-cf", text(&path)];
    run("tar", &[&first[..], args].concat());
    path
}

#[test]
fn every_format_in_every_stream_is_read() {
    if !qemu() {
        return;
    }
    let images = Images::new(3 * MIB + 512);
    let made = [
        (
            images.qcow2("a.qcow2", "cluster_size=64k", true),
            ImageType::Qcow2,
        ),
        images.converted(
            "a.vmdk",
            "vmdk",
            "subformat=streamOptimized",
            ImageType::Vmdk,
        ),
        images.converted("a.vhd", "vpc", "force_size=on", ImageType::Vhd),
        images.converted(
            "b.vhd",
            "vpc",
            "force_size=on,subformat=fixed",
            ImageType::Vhd,
        ),
        images.converted("a.vhdx", "vhdx", "block_size=1M", ImageType::Vhdx),
        images.converted("a.vdi", "vdi", "static=off", ImageType::Vdi),
    ];
    for (image, declared) in made {
        let bytes = fs::read(&image).unwrap();
        for (name, pack) in PACKERS {
            let packed = write(&images, "packed", &pack(&bytes));
            let converted = is_the_disk(&images, &packed, declared);
            let unpacked = converted.unpacked.unwrap();
            assert_eq!(
                (unpacked.package.as_str(), unpacked.bytes),
                (*name, bytes.len() as u64)
            );
            // A fixed VHD shows only at its end, where a stream of a disk is long under way.
            if image.ends_with("b.vhd") {
                let kind = ErrorKind::OtherFormat;
                is_refused(&images, &packed, ImageType::Auto, kind, "declare it vhd");
            } else {
                is_the_disk(&images, &packed, ImageType::Auto);
                let kind = ErrorKind::OtherFormat;
                is_refused(
                    &images,
                    &packed,
                    ImageType::Raw,
                    kind,
                    &format!("declare it {declared}"),
                );
            }
        }
    }
    let disk = write(&images, "packed", &PACKERS[0].1(&images.disk));
    assert_eq!(is_the_disk(&images, &disk, ImageType::Auto).unpacked, None);
    is_refused(
        &images,
        &disk,
        ImageType::Qcow2,
        ErrorKind::NotThisFormat,
        "a gzip stream",
    );
    let names: Vec<_> = fs::read_dir(images.directory.path()).unwrap().collect();
    assert_eq!(names.len(), 8, "nothing is left: {names:?}");
}

#[test]
fn a_stream_in_a_stream_and_a_damaged_one_are_refused() {
    let images = Images::new(MIB);
    let (_, gzip) = PACKERS[0];
    let twice = write(&images, "twice", &gzip(&gzip(&images.disk)));
    for declared in [ImageType::Raw, ImageType::Auto, ImageType::Qcow2] {
        is_refused(
            &images,
            &twice,
            declared,
            ErrorKind::OtherFormat,
            "inside a gzip stream",
        );
    }
    if !qemu() {
        return;
    }
    let image = fs::read(images.qcow2("a.qcow2", "cluster_size=64k", false)).unwrap();
    for (name, pack) in PACKERS {
        let mut packed = pack(&image);
        packed.truncate(packed.len() - 3);
        let cut = write(&images, "cut", &packed);
        is_refused(&images, &cut, ImageType::Qcow2, ErrorKind::Truncated, "");
        let middle = packed.len() - 40;
        packed[middle] ^= 0x55;
        let damaged = write(&images, "damaged", &packed);
        let error = to(&images, &damaged, ImageType::Qcow2).unwrap_err();
        assert!(error.kind().is_refusal(), "{name}: {error}");
    }
}

#[test]
fn what_is_unpacked_and_what_a_stream_decodes_to_is_bounded() {
    if !qemu() {
        return;
    }
    let images = Images::new(4 * MIB);
    let image = fs::read(images.qcow2("a.qcow2", "cluster_size=64k", false)).unwrap();
    let packed_image = write(&images, "packed-image", &PACKERS[2].1(&image));
    let packed_disk = write(&images, "packed-disk", &PACKERS[2].1(&images.disk));
    let cases = [
        (packed_image, ImageType::Qcow2, image.len() as u64),
        (packed_disk, ImageType::Raw, 4 << 20),
        (images.path("a.qcow2"), ImageType::Qcow2, 4 << 20),
    ];
    for (image, declared, bytes) in cases {
        let mut options = options();
        let out = images.path("out");
        options.max_bytes = Some(bytes - 1);
        let error = convert(&image, declared, &out, &options).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::TooLarge,
            "{}: {error}",
            image.display()
        );
        assert!(!out.exists());
        options.max_bytes = Some(bytes.max(4 << 20));
        convert(&image, declared, &out, &options).unwrap();
        fs::remove_file(out).unwrap();
    }
}

#[test]
fn the_one_image_of_an_archive_is_read_in_all_formats_of_tar() {
    if !qemu() || !require("tar", &["tar"]) {
        return;
    }
    let images = Images::new(3 * MIB + 512);
    images.qcow2("a.qcow2", "cluster_size=64k", true);
    fs::write(images.path("README"), "words").unwrap();
    fs::create_dir(images.path("d")).unwrap();
    let long = format!("d/{}.raw", "n".repeat(180));
    fs::copy(images.path("disk.raw"), images.path(&long)).unwrap();
    for format in ["v7", "ustar", "gnu", "pax", "oldgnu"] {
        let format_arg = format!("--format={format}");
        let raw = tar(&images, "raw.tar", &[&format_arg, "README", "disk.raw"]);
        let converted = is_the_disk(&images, &raw, ImageType::Raw);
        let unpacked = converted.unpacked.unwrap();
        assert_eq!(
            (unpacked.package.as_str(), unpacked.name.as_deref()),
            ("tar", Some("disk.raw"))
        );
        is_the_disk(&images, &raw, ImageType::Auto);
        let qcow2 = tar(&images, "qcow2.tar", &[&format_arg, "a.qcow2", "README"]);
        is_the_disk(&images, &qcow2, ImageType::Qcow2);
        is_refused(
            &images,
            &qcow2,
            ImageType::Raw,
            ErrorKind::OtherFormat,
            "declare it qcow2",
        );
        for (name, pack) in PACKERS {
            let packed = write(&images, "packed", &pack(&fs::read(&qcow2).unwrap()));
            let converted = is_the_disk(&images, &packed, ImageType::Auto);
            assert_eq!(converted.unpacked.unwrap().package, format!("tar.{name}"));
        }
        if !matches!(format, "v7" | "ustar") {
            let named = tar(&images, "long.tar", &[&format_arg, &long]);
            let converted = is_the_disk(&images, &named, ImageType::Raw);
            assert_eq!(converted.unpacked.unwrap().name.as_ref(), Some(&long));
        }
    }
    for format in ["--format=gnu", "--format=oldgnu"] {
        let sparse = tar(&images, "sparse.tar", &["-S", format, "disk.raw"]);
        is_the_disk(&images, &sparse, ImageType::Raw);
    }
}

#[test]
fn a_sparse_member_with_many_holes_is_put_together() {
    if !require("tar", &["tar"]) {
        return;
    }
    let mut images = Images::new(MIB);
    images.disk = vec![0; 40 * MIB];
    // More pieces than a header has room for.
    for index in 0..40 {
        images.disk[index * MIB] = 1;
    }
    let raw = images.path("disk.raw");
    let file = fs::File::create(&raw).unwrap();
    file.set_len(40 * MIB as u64).unwrap();
    for index in 0..40 {
        std::os::unix::fs::FileExt::write_all_at(&file, &[1], index * MIB as u64).unwrap();
    }
    let sparse = tar(&images, "sparse.tar", &["-S", "--format=gnu", "disk.raw"]);
    is_the_disk(&images, &sparse, ImageType::Raw);
    let pax = tar(&images, "pax.tar", &["-S", "--format=pax", "disk.raw"]);
    is_refused(
        &images,
        &pax,
        ImageType::Raw,
        ErrorKind::UnknownFeature,
        "--format=gnu",
    );
}

#[test]
fn an_archive_of_several_images_or_none_is_refused_with_their_names() {
    if !require("tar", &["tar"]) {
        return;
    }
    let images = Images::new(MIB);
    fs::write(images.path("b.img"), "other").unwrap();
    fs::write(images.path("README"), "words").unwrap();
    let both = tar(&images, "both.tar", &["disk.raw", "README", "b.img"]);
    is_refused(
        &images,
        &both,
        ImageType::Raw,
        ErrorKind::OtherFormat,
        "\"disk.raw\", \"b.img\"",
    );
    let none = tar(&images, "none.tar", &["README"]);
    is_refused(
        &images,
        &none,
        ImageType::Raw,
        ErrorKind::OtherFormat,
        "\"README\"",
    );
    let inner = tar(&images, "inner.img", &["disk.raw"]);
    let outer = tar(
        &images,
        "outer.tar",
        &[inner.file_name().unwrap().to_str().unwrap()],
    );
    is_refused(
        &images,
        &outer,
        ImageType::Raw,
        ErrorKind::OtherFormat,
        "packed itself",
    );
    let bytes = fs::read(&both).unwrap();
    for len in [512 + 5, 512 + MIB - 7, 2 * 512 + MIB + 3] {
        let cut = write(&images, "cut.tar", &bytes[..len]);
        is_refused(
            &images,
            &cut,
            ImageType::Raw,
            ErrorKind::Truncated,
            "inside a member",
        );
    }
    // At a member's end an archive may end without its last blocks.
    let cut = write(&images, "cut.tar", &bytes[..512 + MIB]);
    is_the_disk(&images, &cut, ImageType::Raw);
    let mut damaged = bytes;
    damaged[512 + MIB + 100] ^= 1;
    let damaged = write(&images, "damaged.tar", &damaged);
    is_refused(
        &images,
        &damaged,
        ImageType::Raw,
        ErrorKind::BadStream,
        "checksum",
    );
}
