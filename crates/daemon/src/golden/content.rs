//! The digest of a volume's content, and comparisons of contents.
//!
//! Most of a fresh disk is zeros, and it is read back whole when a golden volume is made. So the digest of a disk is a
//! digest of digests: SHA-256 over the SHA-256s of its blocks of 1 MiB, the last of which may be shorter. A block of
//! zeros costs a comparison, and one in a file's hole is not read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lvp_api::{ByteRange, Sha256Digest};
use lvp_image::copy::Counters;
use lvp_image::gpt;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

/// Bytes read at a time, and the blocks of a disk's digest.
const BLOCK_BYTES: usize = 1 << 20; // 1 MiB

/// Who looks at a long reading.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// Set to end it.
    pub stop: Arc<AtomicBool>,
    /// Set when nobody waits for its end any more.
    pub abandoned: Arc<AtomicBool>,
    /// Where the bytes that were read count, as bytes of the guest's disk.
    pub counters: Arc<Counters>,
}

impl Watch {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.abandoned.load(Ordering::Relaxed)
    }
}

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// Granularity in which differences are reported.
const PIECE_BYTES: usize = 4096;

/// How many differing parts are reported.
const TOLD: usize = 16;

/// Where two volumes differ.
#[derive(Debug, Default)]
pub struct Differences {
    /// The first parts.
    pub parts: Vec<ByteRange>,
    /// Whether there are more.
    pub has_more: bool,
}

impl Differences {
    fn add(&mut self, offset: u64, length: u64) {
        let is_full = self.parts.len() == TOLD;
        match self.parts.last_mut() {
            Some(last) if last.offset + last.length == offset && !self.has_more => {
                last.length += length;
            }
            _ if is_full => self.has_more = true,
            _ => self.parts.push(ByteRange { offset, length }),
        }
    }
}

/// Changes that were made to a volume after its image's disk had been cloned, and that are taken back in memory, so
/// that the volume can be compared with the image's disk.
#[derive(Debug, Default)]
pub struct TakenBack(Vec<Replaced>);

/// Bytes that were replaced.
#[derive(Debug)]
struct Replaced {
    offset: u64,
    before: Vec<u8>,
    now: Vec<u8>,
}

impl TakenBack {
    /// What moving the backup GPT changed on a clone of this golden volume.
    pub fn of_gpt(golden: &File, disk_bytes: u64, volume_bytes: u64) -> io::Result<Self> {
        let moved = gpt::plan_file(golden, disk_bytes, volume_bytes).map_err(io::Error::other)?;
        let replaced = moved.changes.into_iter().map(|change| {
            let mut before = vec![0; change.bytes.len()];
            let on_disk = usize::try_from(disk_bytes.saturating_sub(change.offset))
                .map_or(before.len(), |left| left.min(before.len()));
            golden.read_exact_at(&mut before[..on_disk], change.offset)?;
            Ok(Replaced {
                offset: change.offset,
                before,
                now: change.bytes,
            })
        });
        replaced.collect::<io::Result<_>>().map(Self)
    }

    /// The parts of a block that changed as they should have, as they were before. None if there are none.
    fn apply(&self, offset: u64, block: &[u8]) -> Option<Vec<u8>> {
        let mut changed = None;
        let end = offset + block.len() as u64;
        for Replaced {
            offset: start,
            before,
            now,
        } in &self.0
        {
            let part = offset.max(*start)..end.min(start + now.len() as u64);
            if part.is_empty() {
                continue;
            }
            let index = |position: u64, from: u64| usize::try_from(position - from).unwrap_or(0);
            let there = index(part.start, *start)..index(part.end, *start);
            let here = index(part.start, offset)..index(part.end, offset);
            if block[here.clone()] == now[there.clone()] {
                let changed = changed.get_or_insert_with(|| block.to_vec());
                changed[here].copy_from_slice(&before[there]);
            }
        }
        changed
    }
}

/// The digest of a disk of this size; None if it was told to stop. Blocks.
pub fn digest(file: &File, size_bytes: u64, watch: &Watch) -> io::Result<Option<Sha256Digest>> {
    digest_before(file, size_bytes, &TakenBack::default(), watch)
}

/// The digest that a disk had before it was changed.
pub fn digest_before(
    file: &File,
    size_bytes: u64,
    taken_back: &TakenBack,
    watch: &Watch,
) -> io::Result<Option<Sha256Digest>> {
    let zeros = Sha256::digest(ZEROS);
    let mut hasher = Sha256::new();
    let ended = read(file, 0..size_bytes, taken_back, watch, |_, block| {
        match block == ZEROS {
            true => hasher.update(zeros),
            false => hasher.update(Sha256::digest(block)),
        }
        Ok(())
    })?;
    Ok(ended.map(|()| Sha256Digest::new(hasher.finalize().into())))
}

/// Adds the parts of a file that are not zero; None if it was told to stop. Blocks.
pub fn compare_with_zeros(
    file: &File,
    range: Range<u64>,
    taken_back: &TakenBack,
    watch: &Watch,
    differences: &mut Differences,
) -> io::Result<Option<()>> {
    read(file, range, taken_back, watch, |offset, block| {
        for (index, piece) in block.chunks(PIECE_BYTES).enumerate() {
            if piece.iter().any(|byte| *byte != 0) {
                let at = (index * PIECE_BYTES) as u64;
                differences.add(offset + at, piece.len() as u64);
            }
        }
        Ok(())
    })
}

/// Adds the parts of the first `size_bytes` in which two files differ; None if it was told to stop. Blocks.
pub fn compare(
    file: &File,
    other: &File,
    size_bytes: u64,
    taken_back: &TakenBack,
    watch: &Watch,
    differences: &mut Differences,
) -> io::Result<Option<()>> {
    let mut second = vec![0; BLOCK_BYTES];
    read(file, 0..size_bytes, taken_back, watch, |offset, block| {
        let second = &mut second[..block.len()];
        other.read_exact_at(second, offset)?;
        let pieces = block.chunks(PIECE_BYTES).zip(second.chunks(PIECE_BYTES));
        for (index, (piece, other)) in pieces.enumerate() {
            if piece != other {
                let at = (index * PIECE_BYTES) as u64;
                differences.add(offset + at, piece.len() as u64);
            }
        }
        Ok(())
    })
}

fn read(
    file: &File,
    range: Range<u64>,
    taken_back: &TakenBack,
    watch: &Watch,
    mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<Option<()>> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut offset = range.start;
    let mut data = offset;
    // A file that is too short does not read as zeros. A block device's length is not in its metadata, and it
    // has no holes.
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.len() < range.end {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    while offset < range.end {
        if watch.is_stopped() {
            return Ok(None);
        }
        let length =
            usize::try_from(range.end - offset).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES));
        let end = offset + length as u64;
        if data <= offset {
            data = next_data(file, offset)?;
        }
        let found = match data >= end {
            true => &ZEROS[..length],
            false => {
                file.read_exact_at(&mut block[..length], offset)?;
                &block[..length]
            }
        };
        match taken_back.apply(offset, found) {
            Some(before) => each(offset, &before)?,
            None => each(offset, found)?,
        }
        offset = end;
        let done = &watch.counters.guest_bytes;
        done.fetch_add(length as u64, Ordering::Relaxed);
    }
    Ok(Some(()))
}

/// The start of the next data that is not a hole, at or after `offset`; `offset` itself if holes cannot be
/// found.
fn next_data(file: &File, offset: u64) -> io::Result<u64> {
    match seek(file, SeekFrom::Data(offset)) {
        Ok(data) => Ok(data),
        // Nothing but a hole is left.
        Err(Errno::NXIO) => Ok(u64::MAX),
        // A block device, or a file system without holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(offset),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("there is room");
        file.write_all(bytes).expect("it is written");
        file
    }

    #[test]
    fn differences_are_told_where_they_are_and_only_the_first_of_many() {
        let (stop, nothing) = (Watch::default(), TakenBack::default());
        let size = 2 * BLOCK_BYTES as u64 + 100;
        let plain = vec![7; 2 * BLOCK_BYTES + 100];
        let mut changed = plain.clone();
        // Over the edge of a block, and at the end.
        changed[BLOCK_BYTES - 1] = 0;
        changed[BLOCK_BYTES] = 0;
        changed[2 * BLOCK_BYTES + 99] = 0;
        let mut found = Differences::default();
        let (first, second) = (file(&plain), file(&changed));
        compare(&second, &first, size, &nothing, &stop, &mut found).expect("they are read");
        let part = |offset, length| ByteRange { offset, length };
        let (block, piece) = (BLOCK_BYTES as u64, PIECE_BYTES as u64);
        assert_eq!(
            found.parts,
            [part(block - piece, 2 * piece), part(2 * block, 100)]
        );
        assert!(!found.has_more);

        let mut holes = vec![0; 64 * PIECE_BYTES];
        for piece in holes.chunks_mut(2 * PIECE_BYTES) {
            piece[0] = 1;
        }
        let mut found = Differences::default();
        let size = holes.len() as u64;
        compare_with_zeros(&file(&holes), 0..size, &nothing, &stop, &mut found)
            .expect("it is read");
        assert_eq!((found.parts.len(), found.has_more), (TOLD, true));
    }

    #[test]
    fn a_disks_digest_is_that_of_its_blocks_digests_with_holes_or_without() {
        let stop = Watch::default();
        let mut bytes = vec![0; 3 * BLOCK_BYTES + 100];
        bytes[BLOCK_BYTES + 5] = 9;
        let mut expected = Sha256::new();
        for block in bytes.chunks(BLOCK_BYTES) {
            expected.update(Sha256::digest(block));
        }
        let expected = Sha256Digest::new(expected.finalize().into());
        let size = bytes.len() as u64;
        let written = file(&bytes);
        assert_eq!(
            digest(&written, size, &stop).expect("it is read"),
            Some(expected)
        );
        let sparse = tempfile::tempfile().expect("there is room");
        sparse.set_len(size).expect("it grows");
        sparse
            .write_all_at(&[9], BLOCK_BYTES as u64 + 5)
            .expect("it is written");
        assert_eq!(
            digest(&sparse, size, &stop).expect("it is read"),
            Some(expected)
        );
        // A byte that is not there is not taken for a zero.
        assert!(digest(&sparse, size + 1, &stop).is_err());
    }

    #[test]
    fn reading_ends_when_it_is_told_to() {
        let stop = Watch::default();
        stop.stop.store(true, Ordering::Relaxed);
        let read = digest(&file(&[1; 100]), 100, &stop).expect("nothing is read");
        assert_eq!(read, None);
    }
}
