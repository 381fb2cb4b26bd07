//! Time and memory stay bounded whatever an image says, sparse files of a terabyte included.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests know how large their numbers are"
)]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use lvp_image::ErrorKind;
use lvp_image::format::ImageType;
use lvp_image::plan::Planner;
use lvp_image::source::FileSource;

use crate::hostile::{COPIED, field};

/// Of the processor's time: these tests do not have the machine for themselves.
const MAX_TIME: Duration = Duration::from_secs(1);
const MAX_MEMORY_KIB: u64 = 64 << 10; // 64 MiB

/// A header of version 3 and whatever else is put into the sparse file.
struct Sparse {
    file: File,
    header: Vec<u8>,
}

impl Sparse {
    fn new(cluster_bits: u32, size: u64, len: u64) -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        let mut header = vec![0; 112];
        header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        let mut sparse = Self { file, header };
        sparse.u32(field::CLUSTER_BITS, cluster_bits);
        sparse.u64(field::SIZE, size);
        sparse.u64(field::REFTABLE_OFFSET, 1 << cluster_bits);
        sparse.u32(field::REFTABLE_CLUSTERS, 1);
        sparse.u32(field::REFCOUNT_ORDER, 4);
        sparse.u32(field::HEADER_LENGTH, 112);
        sparse
    }

    fn u32(&mut self, at: usize, value: u32) {
        self.header[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    fn u64(&mut self, at: usize, value: u64) {
        self.header[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }

    /// Writes entries one after the other.
    fn table(&self, offset: u64, entries: impl Iterator<Item = u64>) {
        let bytes: Vec<u8> = entries.flat_map(u64::to_be_bytes).collect();
        self.file.write_all_at(&bytes, offset).unwrap();
    }

    fn l1(&mut self, offset: u64, entries: impl ExactSizeIterator<Item = u64>) {
        self.u32(field::L1_SIZE, entries.len() as u32);
        self.u64(field::L1_OFFSET, offset);
        self.table(offset, entries);
    }

    fn finish(self) -> File {
        self.file.write_all_at(&self.header, 0).unwrap();
        self.file
    }
}

const TIB: u64 = 1 << 40;

/// As many L2 tables as an L1 table can name, each an empty part of a sparse file, `step` apart.
fn many_tables(cluster_bits: u32, count: u64, step: u64) -> File {
    let coverage = 1 << (2 * cluster_bits - 3);
    let mut sparse = Sparse::new(cluster_bits, count * coverage, 8 * TIB);
    sparse.l1(
        1 << 30,
        (0..count as usize).map(|index| ((1 << 31) + index as u64 * step) | COPIED),
    );
    sparse.finish()
}

fn many_refcount_blocks() -> File {
    let mut sparse = Sparse::new(16, 0, 8 * TIB);
    sparse.u32(field::REFTABLE_CLUSTERS, 128);
    sparse.table(1 << 16, (0..1 << 20).map(|index| (1 << 30) + (index << 21)));
    sparse.finish()
}

fn many_snapshots() -> File {
    let mut sparse = Sparse::new(9, 0, 8 * TIB);
    sparse.u32(field::SNAPSHOTS, 65536);
    sparse.u64(field::SNAPSHOTS_OFFSET, 1 << 30);
    // Each with an L1 table of 32 MiB.
    sparse.table(
        1 << 30,
        (0..65536_u64).flat_map(|index| [(1 << 32) + (index << 25), (4 << 20) << 32, 0, 0, 0]),
    );
    sparse.finish()
}

fn many_stray_blocks() -> File {
    let mut sparse = Sparse::new(21, 0, 64 << 30);
    sparse.u32(field::REFTABLE_CLUSTERS, 4);
    sparse.table(
        1 << 21,
        (0..1 << 14).map(|index| if index < 10 { 0 } else { index << 21 }),
    );
    sparse.finish()
}

fn many_bitmaps() -> File {
    let mut sparse = Sparse::new(9, 0, 8 * TIB);
    sparse.u64(field::AUTOCLEAR, 1);
    sparse
        .header
        .extend_from_slice(&0x2385_2875_u32.to_be_bytes());
    sparse.header.extend_from_slice(&24_u32.to_be_bytes());
    sparse.header.extend_from_slice(&65535_u32.to_be_bytes());
    sparse.header.extend_from_slice(&[0; 4]);
    sparse
        .header
        .extend_from_slice(&(65535_u64 * 24).to_be_bytes());
    sparse
        .header
        .extend_from_slice(&(1_u64 << 30).to_be_bytes());
    // In use, so that their size is free: tables of 8 MiB.
    sparse.table(
        1 << 30,
        (0..65535_u64).flat_map(|index| {
            [
                (1 << 32) + (index << 23),
                1 << 52 | 1,
                0x0110_0000_0000_0000,
            ]
        }),
    );
    sparse.finish()
}

/// A disk of 64 PiB and nothing in it.
fn largest_disk() -> File {
    let mut sparse = Sparse::new(21, 1 << 56, 64 << 20);
    sparse.l1(1 << 22, (0..1 << 17).map(|_| 0));
    sparse.finish()
}

/// A map of many times its budget: every second 512-byte cluster of a disk of 512 MiB.
fn many_extents() -> File {
    let mut sparse = Sparse::new(9, 2 << 30, 8 << 30);
    let tables = (2_u64 << 30) / (64 * 512);
    sparse.l1(
        1 << 20,
        (0..tables as usize).map(|index| ((1 << 24) + index as u64 * 512) | COPIED),
    );
    for table in 0..tables {
        let entries = (0..64_u64).map(|index| {
            let cluster = table * 64 + index;
            if index % 2 == 0 {
                ((1 << 30) + cluster * 1024) | COPIED
            } else {
                0
            }
        });
        sparse.table((1 << 24) + table * 512, entries);
    }
    sparse.finish()
}

type Case = (&'static str, fn() -> File, Option<ErrorKind>);

const CASES: &[Case] = &[
    (
        "2 GiB of L2 tables",
        || many_tables(9, 4 << 20, 512),
        Some(ErrorKind::TooLarge),
    ),
    (
        "scattered L2 tables",
        || many_tables(9, 4 << 20, 1 << 20),
        Some(ErrorKind::TooLarge),
    ),
    (
        "near L2 tables",
        || many_tables(9, 4 << 20, 32 << 10),
        Some(ErrorKind::TooLarge),
    ),
    (
        "large L2 tables",
        || many_tables(21, 1 << 17, 16 << 20),
        Some(ErrorKind::TooLarge),
    ),
    (
        "half a GiB of L2 tables",
        || many_tables(16, 8000, 1 << 20),
        None,
    ),
    (
        "a million refcount blocks",
        many_refcount_blocks,
        Some(ErrorKind::Truncated),
    ),
    ("65536 snapshots", many_snapshots, Some(ErrorKind::TooLarge)),
    (
        "stray refcount blocks",
        many_stray_blocks,
        Some(ErrorKind::Truncated),
    ),
    ("65535 bitmaps", many_bitmaps, Some(ErrorKind::TooLarge)),
    ("the largest disk", largest_disk, None),
    ("two million extents", many_extents, None),
];

const CHILD: &str = "LVP_LIMITS_CHILD";

/// What this thread has had of it.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Opens one case and maps it, in a process of its own whose memory is its own.
fn child(index: usize) {
    let (name, make, expected) = CASES[index];
    let file = make();
    // The case itself was made in memory: begin to count again.
    File::options()
        .write(true)
        .open("/proc/self/clear_refs")
        .and_then(|mut file| file.write_all(b"5"))
        .unwrap();
    let start = processor_time();
    let outcome = Planner::open(FileSource::new(file).unwrap(), ImageType::Qcow2);
    let kind = outcome.as_ref().err().map(lvp_image::Error::kind);
    let opened = processor_time() - start;
    let mut batches = 0;
    if let Ok(mut planner) = outcome {
        while let Some(batch) = planner.next_batch().unwrap() {
            batches += 1 + u64::from(batch.is_empty());
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!(
        "{name}: {kind:?} in {opened:?}, {batches} batches, peak {} MiB",
        peak >> 10
    );
    assert_eq!(kind, expected, "{name}");
    assert!(opened < MAX_TIME, "{name}: {opened:?}");
    assert!(peak < MAX_MEMORY_KIB, "{name}: {peak} KiB");
}

#[test]
fn sparse_giants_take_little_time_and_memory() {
    if let Ok(index) = std::env::var(CHILD) {
        return child(index.parse().unwrap());
    }
    for index in 0..CASES.len() {
        #[expect(clippy::disallowed_methods, reason = "a test runs itself")]
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("parser_limits::sparse_giants_take_little_time_and_memory")
            .env(CHILD, index.to_string())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        eprintln!(
            "{}",
            text.lines()
                .find(|line| line.contains("peak"))
                .unwrap_or_default()
        );
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.contains("1 passed"), "{text}");
    }
}

#[test]
fn a_file_of_any_length_is_recognised_from_a_few_reads() {
    // What is read of a sparse file of 8 TiB without any header is one sector.
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(8 * TIB).unwrap();
    let open = |path: &Path| FileSource::new(File::open(path).unwrap()).unwrap();
    let error = Planner::open(open(file.path()), ImageType::Qcow2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotThisFormat);
    let planner = Planner::open(open(file.path()), ImageType::Raw).unwrap();
    assert_eq!(planner.info().virtual_size, Some(8 * TIB));
    assert_eq!(planner.info().extents, 8 * TIB / (2 << 30));
}
