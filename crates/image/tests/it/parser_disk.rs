//! A guest's disk, to be compared with another.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests know how large their numbers are"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// The guest's disk as the pieces that are not zero, by their offsets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) size: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

/// Blocks of this size are kept when they are not zero.
const BLOCK: usize = 4096;

impl Disk {
    pub(crate) fn new(size: u64) -> Self {
        Self {
            size,
            blocks: BTreeMap::new(),
        }
    }

    pub(crate) fn write(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let inside = offset as usize % BLOCK;
            let (piece, rest) = bytes.split_at(bytes.len().min(BLOCK - inside));
            if piece.iter().any(|byte| *byte != 0) {
                let block = self
                    .blocks
                    .entry(offset - inside as u64)
                    .or_insert_with(|| vec![0; BLOCK]);
                block[inside..inside + piece.len()].copy_from_slice(piece);
            }
            offset += piece.len() as u64;
            bytes = rest;
        }
    }

    /// A raw image file; its holes are not read.
    pub(crate) fn from_raw_file(path: &Path) -> Self {
        use std::os::unix::fs::FileExt;
        let file = File::open(path).unwrap();
        let size = file.metadata().unwrap().len();
        let mut disk = Self::new(size);
        let mut buf = vec![0; 1 << 20];
        let mut offset = 0;
        while let Ok(data) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(offset)) {
            let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(data)).unwrap();
            offset = data;
            while offset < hole {
                let len = (hole - offset).min(buf.len() as u64) as usize;
                file.read_exact_at(&mut buf[..len], offset).unwrap();
                disk.write(offset, &buf[..len]);
                offset += len as u64;
            }
        }
        disk
    }

    /// Panics at the first difference.
    #[track_caller]
    pub(crate) fn assert_same(&self, other: &Self, what: &str) {
        assert_eq!(self.size, other.size, "{what}: the sizes differ");
        for offset in self.blocks.keys().chain(other.blocks.keys()) {
            assert!(
                self.blocks.get(offset) == other.blocks.get(offset),
                "{what}: the disks differ in the block at {offset:#x}"
            );
        }
    }
}
