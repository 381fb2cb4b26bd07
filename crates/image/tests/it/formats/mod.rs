//! VMDK, VHD, VHDX and VDI: valid images are read as qemu-img reads them, damaged ones likewise or not at all.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests know how large their numbers are"
)]

mod auto;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

use std::fs::File;
use std::path::{Path, PathBuf};

use lvp_image::ErrorKind;
use lvp_image::format::ImageType;
use lvp_image::source::FileSource;

use crate::parser_support::{Disk, read_file, read_within, run, try_run, verdict};

/// Writes in an order that is not the guest's, for a disk of 40 MiB.
const MIXED: &[&str] = &[
    "write -P 0x11 33M 1M",
    "write -P 0x22 0 70k",
    "write -P 0x33 9000k 512",
    "write -P 0x44 7M 65536",
    "write -P 0x55 16M 4M",
    "write -P 0x66 12289k 511k",
    "write -P 0x77 5M 100k",
    "write -P 0x88 39M 1000k",
];

/// An image of a format in a directory of its own.
pub(super) struct Bench {
    dir: tempfile::TempDir,
    pub(super) declared: ImageType,
    /// QEMU's name of the format.
    qemu: &'static str,
    pub(super) image: PathBuf,
}

impl Bench {
    pub(super) fn new(declared: ImageType) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let qemu = match declared {
            ImageType::Vhd => "vpc",
            other => other.as_str(),
        };
        Self {
            dir,
            declared,
            qemu,
            image,
        }
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn path(&self) -> &str {
        self.image.to_str().unwrap()
    }

    /// `qemu-img create`, and then writes by qemu-io.
    #[track_caller]
    pub(super) fn create(declared: ImageType, options: &str, size: &str, writes: &[&str]) -> Self {
        let bench = Self::new(declared);
        let mut args = vec!["create", "-q", "-f", bench.qemu];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend([bench.path(), size]);
        run("qemu-img", &args);
        if !writes.is_empty() {
            let mut args = vec!["-f", bench.qemu];
            for command in writes {
                args.extend(["-c", command]);
            }
            args.push(bench.path());
            let output = run("qemu-io", &args);
            assert!(!output.contains("failed"), "{output}");
        }
        bench
    }

    /// `qemu-img convert` of a raw disk with data, zeros and holes, which has so many bytes.
    #[track_caller]
    pub(super) fn converted(declared: ImageType, options: &str, size: usize) -> Self {
        let bench = Self::new(declared);
        let mut disk = vec![0; size];
        for (index, byte) in disk.iter_mut().enumerate() {
            if index / 300_000 % 3 != 1 {
                *byte = (index / 7 + index / 65_536 * 31) as u8;
            }
        }
        let raw = bench.file("raw");
        std::fs::write(&raw, disk).unwrap();
        let mut args = vec!["convert", "-f", "raw", "-O", bench.qemu];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend([&raw, bench.path()]);
        run("qemu-img", &args);
        bench
    }

    /// The disk as qemu-img reads it; `None` when it refuses the image.
    pub(super) fn oracle(&self, image: &str) -> Option<Disk> {
        let raw = self.file("oracle");
        let args = [
            "10", "qemu-img", "convert", "-f", self.qemu, "-O", "raw", image, &raw,
        ];
        let is_read = try_run("timeout", &args).status.success();
        let disk = is_read.then(|| Disk::from_raw_file(Path::new(&raw)));
        std::fs::remove_file(raw).ok();
        disk
    }

    /// Both readers read the same, ours in one batch, in many, and by the content alone.
    #[track_caller]
    pub(super) fn compare(&self, what: &str) {
        let ours = match read_file(&self.image, self.declared) {
            Ok(disk) => disk,
            Err(error) => panic!("{what}: refused as {:?}: {error}", error.kind()),
        };
        let theirs = self.oracle(self.path());
        ours.assert_same(&theirs.expect("qemu-img reads it"), what);
        let source = FileSource::new(File::open(&self.image).unwrap()).unwrap();
        let in_batches = read_within(source, self.declared, 0).unwrap();
        in_batches.assert_same(&ours, &format!("{what}, in many batches"));
        let recognised = read_file(&self.image, ImageType::Auto).unwrap();
        recognised.assert_same(&ours, &format!("{what}, recognised"));
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.image).unwrap()
    }

    /// The image with some of its bytes changed is refused as this.
    #[track_caller]
    pub(super) fn refused(&self, what: &str, kind: ErrorKind, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.bytes();
        change(&mut bytes);
        assert_eq!(verdict(&bytes, self.declared), Some(kind), "{what}");
    }

    /// Changes single bytes of the metadata; what is still read has to be what qemu-img reads.
    ///
    /// Returns how many were read by both, and how many were refused by us alone.
    #[track_caller]
    pub(super) fn mutate(&self, places: &[usize], values: &[u8]) -> (u32, u32) {
        let sound = self.bytes();
        let changed = self.file("changed");
        let (mut same, mut stricter) = (0, 0);
        for place in places {
            for value in values {
                let mut bytes = sound.clone();
                bytes[*place] ^= value;
                std::fs::write(&changed, &bytes).unwrap();
                let ours = read_file(Path::new(&changed), self.declared);
                let theirs = self.oracle(&changed);
                let what = format!("byte {place:#x} ^ {value:#x}");
                match (ours, theirs) {
                    (Ok(ours), Some(theirs)) => {
                        ours.assert_same(&theirs, &what);
                        same += 1;
                    }
                    (Ok(_), None) => panic!("{what}: qemu-img refuses it, and we do not"),
                    (Err(error), theirs) => {
                        assert!(error.kind().is_refusal(), "{what}: {error}");
                        stricter += u32::from(theirs.is_some());
                    }
                }
            }
        }
        (same, stricter)
    }

    /// Every shorter image is refused, or reads as zero where it ends.
    pub(super) fn cut_everywhere(&self, cuts: impl Iterator<Item = usize>) {
        let sound = self.bytes();
        for len in cuts {
            if let Err(error) = crate::parser_support::read(&sound[..len], self.declared) {
                assert!(error.kind().is_refusal(), "cut to {len}: {error}");
            }
        }
    }
}
