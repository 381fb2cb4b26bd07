//! The map of a sparse member.

use std::collections::VecDeque;

use super::fields::{MAX_MEMBER_BYTES, damaged, number};
use crate::error::Result;
use crate::unpack::writer::Writer;

/// Maximum number of pieces of a sparse member.
const MAX_PIECES: usize = 1 << 16;

/// Where the bytes of the image belong.
#[derive(Debug, Default)]
pub(super) struct Map {
    pub(super) pieces: VecDeque<(u64, u64)>,
    pub(super) len: u64,
}

impl Map {
    /// Pieces with 12 digits of offset and 12 of length each; the first empty one ends the list.
    pub(super) fn add(&mut self, entries: &[u8]) -> Result<()> {
        for entry in entries.chunks_exact(24) {
            if entry[0] == 0 {
                return Ok(());
            }
            let piece = number(&entry[..12]).zip(number(&entry[12..]));
            let (offset, len) = piece
                .filter(|(offset, len)| offset.max(len) <= &MAX_MEMBER_BYTES)
                .filter(|_| self.pieces.len() < MAX_PIECES)
                .ok_or_else(|| damaged("a sparse member's map is invalid"))?;
            let end = self.pieces.back().map_or(0, |(offset, len)| offset + len);
            if offset < end {
                return Err(damaged("a sparse member's map is not in order"));
            }
            if len > 0 {
                self.pieces.push_back((offset, len));
            }
        }
        Ok(())
    }

    /// Writes the next bytes of the body where the map puts them.
    pub(super) fn write(&mut self, writer: &mut Writer, mut bytes: &[u8]) -> Result<()> {
        while let Some((offset, left)) = self.pieces.front_mut()
            && !bytes.is_empty()
        {
            let len = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
            writer.write(*offset, &bytes[..len])?;
            bytes = &bytes[len..];
            *offset += len as u64;
            *left -= len as u64;
            if *left == 0 {
                self.pieces.pop_front();
            }
        }
        Ok(())
    }
}
