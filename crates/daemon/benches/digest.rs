//! The digest of an image's bytes, in chunks as they arrive: by the crate that is used, and by the
//! one that TLS brings along.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use sha2::{Digest as _, Sha256};

const CHUNK_BYTES: usize = 1 << 20; // 1 MiB

fn main() {
    divan::main();
}

#[divan::bench]
fn sha2(bencher: Bencher<'_, '_>) {
    let chunk = vec![0x5a; CHUNK_BYTES];
    bencher
        .counter(BytesCount::new(CHUNK_BYTES))
        .bench_local(move || Sha256::digest(black_box(&chunk)));
}

#[divan::bench]
fn aws_lc(bencher: Bencher<'_, '_>) {
    let chunk = vec![0x5a; CHUNK_BYTES];
    bencher
        .counter(BytesCount::new(CHUNK_BYTES))
        .bench_local(move || {
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, black_box(&chunk))
        });
}
