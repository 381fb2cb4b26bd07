//! Parts of a copy by themselves: decoding one cluster, planning an image.
//!
//! The data is this program's own machine code: neither easy nor hard to compress.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark without its data has nothing to go on with"
)]

use std::io::Read as _;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use flate2::{Decompress, FlushDecompress};
use lvp_image::builder::{ImageBuilder, Stored};
use lvp_image::decode::Decoder;
use lvp_image::format::{Compression, ImageType};
use lvp_image::plan::{Encoding, Planner};

const CLUSTERS: [usize; 3] = [4 << 10, 64 << 10, 2 << 20];

fn main() {
    divan::main();
}

fn cluster(bytes: usize) -> Vec<u8> {
    let mut data = Vec::new();
    std::fs::File::open(std::env::current_exe().unwrap())
        .unwrap()
        .take(bytes as u64)
        .read_to_end(&mut data)
        .unwrap();
    assert_eq!(data.len(), bytes, "this program is smaller than a cluster");
    data
}

/// As `qemu-img convert -c` does it: raw deflate with a window of 4 KiB, level 1, is too special for
/// a library call, and decodes no differently.
fn deflated(data: &[u8]) -> Vec<u8> {
    let level = libdeflater::CompressionLvl::default();
    let mut compressor = libdeflater::Compressor::new(level);
    let mut out = vec![0; compressor.deflate_compress_bound(data.len())];
    let len = compressor.deflate_compress(data, &mut out).unwrap();
    out.truncate(len);
    out
}

fn zstd_frame(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(data.len()));
    zstd_safe::compress(&mut out, data, zstd_safe::CLEVEL_DEFAULT).unwrap();
    out
}

fn decode(bencher: Bencher<'_, '_>, encoding: Encoding, input: &[u8], bytes: usize) {
    let mut output = vec![0; bytes];
    let mut decoder = Decoder::new();
    bencher
        .counter(BytesCount::new(bytes))
        .bench_local(move || {
            decoder
                .decode(encoding, black_box(input), &mut output)
                .unwrap()
        });
}

#[divan::bench(args = CLUSTERS)]
fn decode_deflate(bencher: Bencher<'_, '_>, bytes: usize) {
    decode(
        bencher,
        Encoding::Deflate,
        &deflated(&cluster(bytes)),
        bytes,
    );
}

/// The decoder that only streams libdeflate does not take go to.
#[divan::bench(args = CLUSTERS)]
fn decode_deflate_by_zlib_rs(bencher: Bencher<'_, '_>, bytes: usize) {
    let input = deflated(&cluster(bytes));
    let mut output = vec![0; bytes];
    let mut inflate = Decompress::new(false);
    bencher
        .counter(BytesCount::new(bytes))
        .bench_local(move || {
            inflate.reset(false);
            inflate
                .decompress(black_box(&input), &mut output, FlushDecompress::Finish)
                .unwrap()
        });
}

#[divan::bench(args = CLUSTERS)]
fn decode_zstd(bencher: Bencher<'_, '_>, bytes: usize) {
    decode(bencher, Encoding::Zstd, &zstd_frame(&cluster(bytes)), bytes);
}

#[divan::bench(args = CLUSTERS)]
fn copy_plain(bencher: Bencher<'_, '_>, bytes: usize) {
    decode(bencher, Encoding::Plain, &cluster(bytes), bytes);
}

/// 4,096 clusters in guest order, and in random order.
#[divan::bench(args = [false, true])]
fn plan(bencher: Bencher<'_, '_>, shuffled: bool) {
    let mut builder = ImageBuilder::new(4096 << 16).compression(Compression::Zlib);
    if shuffled {
        builder = builder.shuffled(1);
    }
    for index in 0..4096 {
        builder.write(index << 16, &[1; 512], Stored::Compressed);
    }
    let image = builder.build();
    bencher.bench_local(|| {
        let mut planner = Planner::open(black_box(&image[..]), ImageType::Qcow2).unwrap();
        planner.next_batch().unwrap()
    });
}

/// An image without data, by its virtual size in GiB.
#[divan::bench(args = [1, 1024])]
fn plan_empty(bencher: Bencher<'_, '_>, gib: u64) {
    let image = ImageBuilder::new(gib << 30).build();
    bencher.bench_local(|| {
        let mut planner = Planner::open(black_box(&image[..]), ImageType::Qcow2).unwrap();
        planner.next_batch().unwrap()
    });
}
