//! Sizes and offsets.

use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};

/// Sizes that follow from the cluster size and the kind of L2 entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) extended_l2: bool,
}

impl Geometry {
    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub(super) fn is_aligned(&self, offset: u64) -> bool {
        offset.is_multiple_of(self.cluster_size())
    }

    /// Bytes of an L2 entry: 8, or 16 with the subclusters' bitmap.
    pub(super) fn l2_entry_len(&self) -> usize {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Bytes of an L2 table: one cluster.
    pub(super) fn l2_table_len(&self) -> usize {
        1 << self.cluster_bits
    }

    /// Guest bytes that one L2 table maps.
    pub(super) fn l2_coverage(&self) -> u64 {
        (self.l2_table_len() / self.l2_entry_len()) as u64 * self.cluster_size()
    }
}

/// Checks that a table is inside the file.
pub(super) fn inside(what: &str, table: &Range<u64>, file_size: u64) -> Result<()> {
    if table.is_empty() || table.end <= file_size {
        return Ok(());
    }
    Err(if table.start >= file_size {
        Error::new(
            ErrorKind::OutsideFile,
            format!(
                "{what} is at {:#x}, outside the image file of {file_size} bytes; \
                 fetch the image again",
                table.start
            ),
        )
    } else {
        Error::new(
            ErrorKind::Truncated,
            format!(
                "{what} reaches to {:#x}, beyond the image file of {file_size} bytes; fetch the \
                 image again",
                table.end
            ),
        )
    })
}
