//! What a volume's bytes are.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use lvp_api::Sha256Digest;
use sha2::{Digest as _, Sha256};

/// Bytes read at a time.
const BLOCK_BYTES: usize = 1 << 20; // 1 MiB

/// SHA-256 of a disk's first bytes; None when it was told to stop. Blocks.
pub fn digest(file: &File, size_bytes: u64, stop: &AtomicBool) -> io::Result<Option<Sha256Digest>> {
    let mut hasher = Sha256::new();
    let mut block = vec![0; BLOCK_BYTES];
    let mut offset = 0;
    while offset < size_bytes {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let length =
            usize::try_from(size_bytes - offset).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES));
        file.read_exact_at(&mut block[..length], offset)?;
        hasher.update(&block[..length]);
        offset += length as u64;
    }
    Ok(Some(Sha256Digest::new(hasher.finalize().into())))
}
