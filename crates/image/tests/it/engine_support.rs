//! Real components for the tests, each removed again when its guard is dropped.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lvp_image::format::ImageType;

use crate::parser_support::{pipe, require, run, try_run};

/// Whether loop devices and mounts are available; see `parser_support::require`.
pub(crate) fn loop_devices() -> bool {
    if !require("loop", &["losetup", "mount", "mkfs.ext4"]) {
        return false;
    }
    let usable = try_run("losetup", &["--find"]).status.success();
    let required = std::env::var("LVP_REQUIRE").unwrap_or_default();
    let is_required = required
        .split(',')
        .any(|name| name == "loop" || name == "all");
    assert!(
        usable || !is_required,
        "LVP_REQUIRE lists loop, but no loop device is available"
    );
    if !usable {
        eprintln!("SKIPPED: no loop device is available (not root?)");
    }
    usable
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A loop device over a sparse file, filled with a marker.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    pub(crate) path: PathBuf,
    _backing: tempfile::NamedTempFile,
}

/// What the devices are filled with: whatever of it is left shows.
pub(crate) const MARKER: u8 = 0xA5;

impl LoopDevice {
    pub(crate) fn new(bytes: u64, sector_bytes: u32) -> Self {
        let mut backing = tempfile::NamedTempFile::new().unwrap();
        let block = vec![MARKER; 1 << 20];
        let mut left = usize::try_from(bytes).unwrap();
        while left > 0 {
            let len = left.min(block.len());
            backing.write_all(&block[..len]).unwrap();
            left -= len;
        }
        backing.flush().unwrap();
        Self::attach(backing, sector_bytes)
    }

    /// A device of zeros that takes no space.
    pub(crate) fn sparse(bytes: u64) -> Self {
        let backing = tempfile::NamedTempFile::new().unwrap();
        backing.as_file().set_len(bytes).unwrap();
        Self::attach(backing, 512)
    }

    fn attach(backing: tempfile::NamedTempFile, sector_bytes: u32) -> Self {
        let sector = sector_bytes.to_string();
        let path = run(
            "losetup",
            &[
                "--find",
                "--show",
                "--sector-size",
                &sector,
                text(backing.path()),
            ],
        );
        Self {
            path: PathBuf::from(path.trim()),
            _backing: backing,
        }
    }

    /// All its bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        try_run("losetup", &["--detach", text(&self.path)]);
    }
}

/// A mounted file system, unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) path: tempfile::TempDir,
}

impl Mount {
    pub(crate) fn tmpfs(bytes: u64) -> Self {
        let path = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &size, "none", text(path.path())],
        );
        Self { path }
    }

    pub(crate) fn device(device: &Path) -> Self {
        let path = tempfile::tempdir().unwrap();
        run("mount", &[text(device), text(path.path())]);
        Self { path }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        try_run("umount", &[text(self.path.path())]);
    }
}

/// Deterministic bytes that do not compress.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A disk with every kind of content: noise, text that compresses, zeros of all lengths.
pub(crate) fn disk(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut offset = 0;
    for index in 0.. {
        if offset >= len {
            break;
        }
        let run = [64 << 10, 5000, 300 << 10, 4096, 1 << 20, 700 << 10, 512][index % 7];
        let end = len.min(offset + run);
        match index % 5 {
            0 | 3 => bytes[offset..end].copy_from_slice(&noise(index as u64, end - offset)),
            1 => {
                for (position, byte) in bytes[offset..end].iter_mut().enumerate() {
                    *byte = b"A disk that compresses well. "[position % 29];
                }
            }
            _ => {}
        }
        offset = end;
    }
    // A boot sector and a backup GPT, as far as these tests care.
    if let Some(head) = bytes.get_mut(..512) {
        head.fill(0xEB);
    }
    if let Some(start) = len.checked_sub(512) {
        bytes[start..].fill(0xEF);
    }
    bytes
}

/// A directory with a raw disk and images that qemu-img makes of it.
#[derive(Debug)]
pub(crate) struct Images {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) disk: Vec<u8>,
}

impl Images {
    pub(crate) fn new(disk_bytes: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let disk = disk(disk_bytes);
        std::fs::write(directory.path().join("disk.raw"), &disk).unwrap();
        Self { directory, disk }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The disk as a qcow2 image.
    pub(crate) fn qcow2(&self, name: &str, options: &str, compressed: bool) -> PathBuf {
        let (from, to) = (self.path("disk.raw"), self.path(name));
        let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", options];
        if compressed {
            args.push("-c");
        }
        args.extend([text(&from), text(&to)]);
        run("qemu-img", &args);
        to
    }

    /// The disk as an image of another format, by QEMU's name.
    pub(crate) fn converted(
        &self,
        name: &str,
        format: &str,
        options: &str,
        declared: ImageType,
    ) -> (PathBuf, ImageType) {
        let (from, to) = (self.path("disk.raw"), self.path(name));
        let args = ["convert", "-f", "raw", "-O", format, "-o", options];
        run("qemu-img", &[&args[..], &[text(&from), text(&to)]].concat());
        (to, declared)
    }

    /// A qcow2 image with the disk's bytes written in no order, in pieces, some of them compressed.
    pub(crate) fn scattered(&self, name: &str, options: &str, piece_bytes: usize) -> PathBuf {
        let to = self.path(name);
        let size = self.disk.len().to_string();
        run(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                options,
                text(&to),
                &size,
            ],
        );
        let mut pieces: Vec<usize> = (0..self.disk.len().div_ceil(piece_bytes)).collect();
        pieces.sort_by_key(|piece| noise(*piece as u64 + 1, 8));
        let mut script = String::new();
        for piece in pieces {
            let start = piece * piece_bytes;
            let len = piece_bytes.min(self.disk.len() - start);
            if self.disk[start..start + len].iter().all(|byte| *byte == 0) {
                continue;
            }
            let part = self.path(&format!("piece-{piece}"));
            std::fs::write(&part, &self.disk[start..start + len]).unwrap();
            let compressed = if piece % 3 == 0 { "-c " } else { "" };
            script.push_str(&format!(
                "write {compressed}-s {} {start} {len}\n",
                text(&part)
            ));
        }
        pipe("qemu-io", &["-f", "qcow2", text(&to)], script.as_bytes());
        to
    }

    /// A qcow2 image whose tables are sound, with a compressed cluster that is not. Its disk has
    /// the other's size, and every cluster of it compresses to about half.
    pub(crate) fn damaged(&self, options: &str) -> PathBuf {
        let (from, to) = (self.path("letters.raw"), self.path("damaged"));
        let mut letters = noise(99, self.disk.len());
        letters
            .iter_mut()
            .for_each(|byte| *byte = b'a' + *byte % 16);
        std::fs::write(&from, letters).unwrap();
        let args = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options];
        run("qemu-img", &[&args[..], &[text(&from), text(&to)]].concat());
        std::fs::remove_file(&from).unwrap();
        let middle = std::fs::metadata(&to).unwrap().len() / 2;
        write_at(&to, middle, &[0xFF; 100_000]);
        to
    }

    /// An image's disk, as qemu-img converts it.
    pub(crate) fn oracle(&self, image: &Path, format: &str) -> Vec<u8> {
        let to = self.path("oracle.raw");
        run(
            "qemu-img",
            &["convert", "-f", format, "-O", "raw", text(image), text(&to)],
        );
        std::fs::read(&to).unwrap()
    }
}

/// Compares without printing megabytes.
#[track_caller]
pub(crate) fn assert_same(actual: &[u8], expected: &[u8], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    if let Some(offset) = actual.iter().zip(expected).position(|(a, b)| a != b) {
        panic!(
            "{what}: differs at {offset:#x}: {:02x} instead of {:02x}",
            actual[offset], expected[offset]
        );
    }
}

#[track_caller]
pub(crate) fn assert_all(bytes: &[u8], value: u8, what: &str) {
    if let Some(offset) = bytes.iter().position(|byte| *byte != value) {
        panic!(
            "{what}: byte {offset:#x} is {:02x} instead of {value:02x}",
            bytes[offset]
        );
    }
}

/// Bytes of a file that is open anyway.
pub(crate) fn read_at(path: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open(path)
        .unwrap()
        .read_exact_at(&mut bytes, offset)
        .unwrap();
    bytes
}

/// Writes into a file that exists.
pub(crate) fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

/// Waits until a condition holds, which must be soon.
#[track_caller]
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}
