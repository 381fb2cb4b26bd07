//! Records what a plan was made from, so that it can be compared with what is written.
//!
//! The planner reads an image's metadata by ranges; the object itself comes later, by other requests. The
//! image's digest covers only the latter: if a server answered the former with other bytes, clusters would be
//! written to wrong places although the digest is right. So the digest of every block that was read for the
//! plan is kept here, and the bytes that are hashed, cached and decoded are compared with these digests as they
//! pass.

use std::collections::HashMap;
use std::iter::Peekable;
use std::vec;

use lvp_image::limits::MAX_PLAN_BLOCKS;
use sha2::{Digest as _, Sha256};

use super::error::{Result, SourceError, SourceErrorKind};
use super::object::ObjectMeta;
use super::reader::BLOCK_BYTES;

type BlockDigest = [u8; 32];

/// The blocks that a [`super::RemoteReader`] has read.
#[derive(Debug, Default)]
pub(super) struct ReadRecord {
    blocks: HashMap<u64, BlockDigest>,
    /// Whether there were more blocks than can be kept.
    is_partial: bool,
}

impl ReadRecord {
    /// Records a block; false if it was read before and had other bytes.
    pub(super) fn note(&mut self, block: u64, bytes: &[u8]) -> bool {
        let digest = Sha256::digest(bytes).into();
        if let Some(before) = self.blocks.get(&block) {
            return *before == digest;
        }
        if self.blocks.len() < MAX_PLAN_BLOCKS {
            self.blocks.insert(block, digest);
        } else {
            self.is_partial = true;
        }
        true
    }

    /// A comparison with the object's bytes; None if not every block was kept.
    pub(super) fn into_check(self, object: &ObjectMeta) -> Option<PlanCheck> {
        if self.is_partial {
            return None;
        }
        let mut blocks: Vec<_> = self.blocks.into_iter().collect();
        blocks.sort_unstable_by_key(|(block, _)| *block);
        Some(PlanCheck {
            shown: object.url.to_string(),
            size: object.size,
            blocks: blocks.into_iter().peekable(),
            position: 0,
            hasher: Sha256::new(),
        })
    }
}

/// Compares an object's bytes with those that its plan was made from.
pub struct PlanCheck {
    shown: String,
    size: u64,
    /// The blocks that have not arrived yet, in order.
    blocks: Peekable<vec::IntoIter<(u64, BlockDigest)>>,
    /// How many of the object's bytes have arrived.
    position: u64,
    /// The digest of what has arrived of the next block.
    hasher: Sha256,
}

impl PlanCheck {
    /// Takes the object's next bytes. Fails at the first block that differs.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while let Some((block, expected)) = self.blocks.peek() {
            let start = block * BLOCK_BYTES;
            let end = (start + BLOCK_BYTES).min(self.size);
            let skip = length_within(start.saturating_sub(self.position), bytes);
            self.position += skip as u64;
            bytes = &bytes[skip..];
            let (now, later) = bytes.split_at(length_within(end - self.position, bytes));
            self.hasher.update(now);
            self.position += now.len() as u64;
            bytes = later;
            if self.position < end {
                return Ok(());
            }
            let found: BlockDigest = self.hasher.finalize_reset().into();
            if found != *expected {
                return Err(self.differs(start, end));
            }
            self.blocks.next();
        }
        Ok(())
    }

    /// Ends the comparison. Fails if the object ended before everything was compared.
    pub fn finish(mut self) -> Result<()> {
        match self.blocks.peek() {
            None => Ok(()),
            Some((block, _)) => {
                let start = block * BLOCK_BYTES;
                Err(self.differs(start, (start + BLOCK_BYTES).min(self.size)))
            }
        }
    }

    fn differs(&self, start: u64, end: u64) -> SourceError {
        changed(&self.shown, start, end)
    }
}

/// The error for blocks of one object that were read twice and differ.
pub(super) fn changed(shown: &str, start: u64, end: u64) -> SourceError {
    SourceError::new(
        SourceErrorKind::ObjectChanged,
        format!(
            "Bytes {start:#x}..{end:#x} of {shown} differ from those that the image's map was \
             read from: the object was replaced meanwhile, or its server gives inconsistent \
             answers"
        ),
    )
}

/// As many of these bytes as `wanted` reaches.
fn length_within(wanted: u64, bytes: &[u8]) -> usize {
    usize::try_from(wanted).map_or(bytes.len(), |wanted| wanted.min(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_bounded_and_says_when_it_is_not_all() {
        let mut record = ReadRecord::default();
        for block in 0..MAX_PLAN_BLOCKS as u64 {
            assert!(record.note(block, b"a"));
        }
        assert!(record.note(0, b"a") && !record.note(0, b"b"));
        assert!(!record.is_partial);
        assert!(record.note(MAX_PLAN_BLOCKS as u64, b"a"));
        assert!(record.is_partial);
        assert_eq!(record.blocks.len(), MAX_PLAN_BLOCKS);
    }
}
