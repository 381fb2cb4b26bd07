//! Writes the corpus that the fuzz targets start from: `cargo run --bin seeds`.
//!
//! Everything comes from the image crate's own builder, so that a change of it shows in the seeds.
//! Images made by qemu-img are beside them as `qemu-*`; `qemu.sh` makes those.

use std::fs;
use std::io;
use std::path::Path;

use flate2::Crc;
use lvp_image::builder::{ImageBuilder, Stored};
use lvp_image::format::Compression;

/// The second word of an extended L2 entry whose every subcluster is data.
const ALL_SUBCLUSTERS: u64 = 0xffff_ffff;

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, image) in images() {
        put(&corpus, "plan_and_read", name, &image)?;
        // Subclusters need large clusters: once is enough.
        if name != "subclusters" {
            put(&corpus, "open", name, &image)?;
        }
    }
    for (name, raw) in [
        ("vmdk", b"# Disk DescriptorFile\nversion=1\n".as_slice()),
        ("boot-sector", b"\xeb\x63\x90boot"),
        ("gzip", b"\x1f\x8b\x08\0"),
    ] {
        put(&corpus, "open", name, raw)?;
    }
    for (index, bits) in [9_u8, 12, 16].into_iter().enumerate() {
        let text = text(1 << bits);
        let choice = (bits - 9) << 1;
        let streams = [(choice, deflated(&text)), (choice | 1, zstd(&text))];
        for (choice, stream) in streams {
            let name = format!("cluster-{index}-{}", choice & 1);
            put(
                &corpus,
                "decode",
                &name,
                &[&[choice], stream.as_slice()].concat(),
            )?;
        }
    }
    put(&corpus, "vhdx", "dynamic", &vhdx())?;
    for (name, sector) in [("512", 512), ("4096", 4096)] {
        put(&corpus, "gpt", name, &gpt(sector))?;
    }
    let disk = text(3000);
    for (choice, name, stream) in [
        (0_u8, "gzip", gzip(&disk)),
        (1, "xz", XZ.to_vec()),
        (2, "zstd", zstd(&disk)),
        (3, "bzip2", BZIP2.to_vec()),
    ] {
        let twice = [&[choice, 7], stream.as_slice(), &stream].concat();
        put(&corpus, "stream", name, &twice)?;
    }
    Ok(())
}

/// What the target `vhdx` puts at the structures' places: a disk of 2 MiB, one block of it present.
fn vhdx() -> Vec<u8> {
    const BLOCK_TABLE: [u8; 16] =
        *b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08";
    const METADATA: [u8; 16] = *b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e";
    const PARAMETERS: [u8; 16] =
        *b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b";
    const DISK_SIZE: [u8; 16] =
        *b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8";
    const SECTOR_SIZE: [u8; 16] =
        *b"\x1d\xbf\x41\x81\x6f\xa9\x09\x47\xba\x47\xf2\x33\xa8\xfa\xab\x5f";
    let mut header = vec![0; 80];
    header[..4].copy_from_slice(b"head");
    header[66] = 1;
    let mut regions = vec![0; 112];
    regions[..4].copy_from_slice(b"regi");
    regions[8] = 2;
    for (entry, guid, offset) in [(16, BLOCK_TABLE, 2_u64 << 20), (48, METADATA, 1 << 20)] {
        regions[entry..entry + 16].copy_from_slice(&guid);
        regions[entry + 16..entry + 24].copy_from_slice(&offset.to_le_bytes());
        regions[entry + 24..entry + 28].copy_from_slice(&(1_u32 << 20).to_le_bytes());
        regions[entry + 28] = 1;
    }
    let mut metadata = vec![0; 256];
    metadata[..8].copy_from_slice(b"metadata");
    metadata[10] = 3;
    for (index, (guid, offset, len)) in [
        (PARAMETERS, 0_u32, 8_u8),
        (DISK_SIZE, 8, 8),
        (SECTOR_SIZE, 16, 4),
    ]
    .into_iter()
    .enumerate()
    {
        let entry = 32 * (index + 1);
        metadata[entry..entry + 16].copy_from_slice(&guid);
        metadata[entry + 16..entry + 20].copy_from_slice(&((64 << 10) + offset).to_le_bytes());
        metadata[entry + 20] = len;
        metadata[entry + 24] = 4;
    }
    let mut items = vec![0; 64];
    items[..4].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    items[8..16].copy_from_slice(&(2_u64 << 20).to_le_bytes());
    items[16..20].copy_from_slice(&512_u32.to_le_bytes());
    let table = [(6 | 4_u64 << 20).to_le_bytes(), [0; 8]].concat();
    [header, regions, metadata, items, table].concat()
}

fn put(corpus: &Path, target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let dir = corpus.join(target);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(name), bytes)
}

fn text(len: usize) -> Vec<u8> {
    (0..=u8::MAX)
        .cycle()
        .flat_map(|byte| [byte; 3])
        .take(len)
        .collect()
}

fn images() -> Vec<(&'static str, Vec<u8>)> {
    let build = |version, compression, kinds: &[Stored]| {
        let mut builder = ImageBuilder::new(40 * 512 + 512)
            .version(version)
            .cluster_bits(9)
            .compression(compression)
            .shuffled(7);
        for (index, kind) in kinds.iter().enumerate() {
            builder.write(index as u64 * 1024, &text(512), *kind);
        }
        builder.build()
    };
    use Stored::{Compressed, Plain, Zero, ZeroAllocated};
    let mut large = ImageBuilder::new(16 << 20).cluster_bits(14);
    large.write(0, &[1], Plain);
    let mut subclusters = large.build();
    let l1 = be64(&subclusters, 40) as usize;
    let l2 = (be64(&subclusters, l1) & !(1 << 63)) as usize;
    subclusters[l2 + 8..l2 + 16].copy_from_slice(&ALL_SUBCLUSTERS.to_be_bytes());
    subclusters[79] = 1 << 4;
    vec![
        ("empty", ImageBuilder::new(0).cluster_bits(9).build()),
        (
            "v2",
            build(2, Compression::Zlib, &[Plain, Compressed, Plain]),
        ),
        (
            "v3",
            build(
                3,
                Compression::Zlib,
                &[Plain, Compressed, Zero, ZeroAllocated],
            ),
        ),
        (
            "zstd",
            build(3, Compression::Zstd, &[Compressed, Compressed, Plain]),
        ),
        ("subclusters", subclusters),
    ]
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(*bytes[at..].first_chunk().expect("it is inside the image"))
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 100);
    flate2::Compress::new(flate2::Compression::best(), false)
        .compress_vec(bytes, &mut out, flate2::FlushCompress::Finish)
        .expect("there is room for all of it");
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(bytes);
    let mut out = b"\x1f\x8b\x08\x08\0\0\0\0\0\x03name\0".to_vec();
    out.extend(deflated(bytes));
    out.extend(crc.sum().to_le_bytes());
    out.extend(crc.amount().to_le_bytes());
    out
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
    zstd_safe::compress(&mut out, bytes, 3).expect("there is room for all of it");
    out
}

/// `printf hello | xz`
const XZ: &[u8] = b"\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F\x02\x00!\x01\x16\x00\x00\x00t/\xe5\xa3\x01\x00\x04hello\x00\x00\x00\x00\xb17\xb9\xdb\xe5\xda\x1e\x9b\x00\x01\x1d\x05\xb8-\x80\xaf\x1f\xb6\xf3}\x01\x00\x00\x00\x00\x04YZ";
/// `printf hello | bzip2`
const BZIP2: &[u8] = b"BZh91AY&SY\x191e=\x00\x00\x00\x81\x00\x02D\xa0\x00!\x9ah3M\x073\x8b\xb9\x22\x9c(H\x0c\x98\xb2\x9e\x80";

/// A disk with a GPT of one partition, after what says that the volume is larger. The target makes its checksums.
fn gpt(sector: usize) -> Vec<u8> {
    let blocks = (2 << 20) / sector as u64;
    let mut disk = vec![0; 8 + 2 * sector + 128];
    disk[2] = 0xff;
    disk[4] = u8::from(sector == 4096);
    let content = &mut disk[8..];
    // The protective MBR: one partition of the type 0xee.
    content[446 + 4] = 0xee;
    content[446 + 8] = 1;
    content[446 + 12..446 + 16].copy_from_slice(&u32::MAX.to_le_bytes());
    content[510..512].copy_from_slice(&[0x55, 0xaa]);
    let header = &mut content[sector..2 * sector];
    header[..8].copy_from_slice(b"EFI PART");
    header[8..12].copy_from_slice(&0x1_0000_u32.to_le_bytes());
    header[12..16].copy_from_slice(&92_u32.to_le_bytes());
    for (at, value) in [
        (24, 1),
        (32, blocks - 1),
        (40, 64),
        (48, blocks - 40),
        (72, 2),
    ] {
        header[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
    }
    header[80..84].copy_from_slice(&1_u32.to_le_bytes());
    header[84..88].copy_from_slice(&128_u32.to_le_bytes());
    let entry = &mut content[2 * sector..];
    entry[..16].fill(7);
    entry[32..40].copy_from_slice(&64_u64.to_le_bytes());
    entry[40..48].copy_from_slice(&99_u64.to_le_bytes());
    disk
}
