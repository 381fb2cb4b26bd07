//! Images that are refused.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use lvp_testkit::daemon::Daemon;
use serde_json::json;

use super::{DISK, Told};
use crate::support::{World, image};

/// A valid qcow2 image, to be damaged. Offsets are those of the header in docs/interop/qcow2.txt of QEMU.
struct Qcow2(Vec<u8>);

/// Bits 9 to 55 of an entry of the L1 and the L2 table: an offset in the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

impl Qcow2 {
    fn new() -> Self {
        Self(image(DISK, 40, 3).build())
    }

    fn u64_at(&self, at: usize) -> u64 {
        let bytes = self.0[at..at + 8].try_into().expect("eight bytes");
        u64::from_be_bytes(bytes)
    }

    fn with(mut self, at: usize, bytes: &[u8]) -> Vec<u8> {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self.0
    }

    fn with_u64(self, at: usize, value: u64) -> Vec<u8> {
        self.with(at, &value.to_be_bytes())
    }

    fn l1(&self) -> usize {
        usize::try_from(self.u64_at(40)).expect("in the file")
    }

    fn l2(&self) -> usize {
        usize::try_from(self.u64_at(self.l1()) & OFFSET).expect("in the file")
    }

    /// Where a compressed cluster is.
    fn stream(&self) -> usize {
        let l2 = self.l2();
        let entries = (0..8192).map(|index| self.u64_at(l2 + 8 * index));
        let compressed = entries.into_iter().find(|entry| entry >> 62 == 1);
        // With clusters of 64 KiB, bits 0 to 53 are the offset.
        let offset = compressed.expect("one is compressed") & ((1 << 54) - 1);
        usize::try_from(offset).expect("in the file")
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

/// An archive in the format of v7: names, lengths and sums (pax(1), "ustar Interchange Format").
fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, bytes) in members {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(bytes);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

async fn refuse(
    told: &mut Told,
    world: &World,
    daemon: &Daemon,
    word: &str,
    kind: &str,
    bytes: &[u8],
) {
    let url = world.put(&format!("{word}.img"), bytes);
    let request = json!({"image_url": url, "image_type": kind});
    told.of(word, world, daemon, request).await;
}

pub(super) async fn refused(told: &mut Told) {
    let world = World::new().await;
    let daemon = world.start();
    let valid = Qcow2::new();
    let (l1, l2, stream) = (valid.l1(), valid.l2(), valid.stream());
    let features = |bit: u32| Qcow2::new().with_u64(72, 1 << bit);
    let backed = {
        let mut image = Qcow2::new();
        // The name takes the last bytes of the first cluster.
        image.0[16..20].copy_from_slice(&8_u32.to_be_bytes());
        image.0[8..16].copy_from_slice(&65_528_u64.to_be_bytes());
        image.with(65_528, b"base.img")
    };
    let packed = gzip(&image(DISK, 40, 3).disk());
    let mut damaged = packed.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0xff);
    let images: [(&str, &str, Vec<u8>); 15] = [
        ("not_this_format", "qcow2", vec![0; 1 << 20]),
        ("other_format", "raw", valid.0.clone()),
        ("backing_file", "qcow2", backed),
        ("external_data_file", "qcow2", features(2)),
        ("encrypted", "qcow2", Qcow2::new().with(32, &[0, 0, 0, 2])),
        ("corrupt", "qcow2", features(1)),
        ("unknown_feature", "qcow2", features(40)),
        ("bad_header", "qcow2", Qcow2::new().with(20, &[0, 0, 0, 5])),
        (
            "bad_table",
            "qcow2",
            Qcow2::new().with_u64(l1, 1 << 57 | l2 as u64),
        ),
        (
            "outside_file",
            "qcow2",
            Qcow2::new().with_u64(l2, 1 << 63 | 1 << 40),
        ),
        (
            "overlap",
            "qcow2",
            Qcow2::new().with_u64(l2, 1 << 63 | l1 as u64),
        ),
        ("truncated", "raw", packed[..middle].to_vec()),
        (
            "bad_cluster",
            "qcow2",
            Qcow2::new().with(stream, &[0xff; 16]),
        ),
        ("bad_stream", "raw", damaged),
        (
            "too_large",
            "qcow2",
            Qcow2::new().with(36, &[0x7f, 0xff, 0xff, 0xff]),
        ),
    ];
    for (word, kind, bytes) in images {
        refuse(told, &world, &daemon, word, kind, &bytes).await;
    }
    let disk = image(DISK, 10, 3).disk();
    let sum =
        "SHA256(disk.raw)= 0000000000000000000000000000000000000000000000000000000000000000\n";
    let archive = tar(&[
        ("vm.ovf", b"<Envelope/>"),
        ("vm.mf", sum.as_bytes()),
        ("disk.raw", &disk),
    ]);
    refuse(told, &world, &daemon, "bad_manifest", "raw", &archive).await;
    // A disk that says it has a GPT, and has none (UEFI 2.10, section 5.2.3).
    let mut protective = disk;
    protective[446 + 4] = 0xee;
    protective[510..512].copy_from_slice(&[0x55, 0xaa]);
    let url = world.put("gpt.raw", &protective);
    let request = json!({"image_url": url, "image_type": "raw", "expand": "gpt"});
    told.of("bad_partition_table", &world, &daemon, request)
        .await;
    let url = world.put("large.qcow2", &image(2 * DISK, 10, 3).build());
    told.of(
        "image_too_large",
        &world,
        &daemon,
        json!({"image_url": url}),
    )
    .await;
}
