//! Refcounts: where their tables are, and whether they count clusters that the file does not have.
//!
//! Reading needs no refcounts. But their tables have to be valid for the image to be valid, and
//! they are the only evidence of a truncated file if only snapshots had data in the missing part.

use super::claims::Claims;
use super::geometry::inside;
use super::header::Header;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::bytes::{be64, read};
use crate::limits::{MAX_REFCOUNT_BYTES_BEYOND_END, TABLE_READ_GAP_BYTES};
use crate::source::ReadAt;

/// Reserved bits of a refcount table entry: 0-8.
const RESERVED: u64 = 0x1ff;

/// A refcount block for clusters after the end of the file.
pub(super) struct BlockBeyondEnd {
    offset: u64,
    first_cluster: u64,
}

/// Claims every refcount block. Returns those for clusters after the end of the file.
pub(super) fn check<S: ReadAt>(
    source: &S,
    header: &Header,
    claims: &mut Claims,
) -> Result<Vec<BlockBeyondEnd>> {
    let file_size = source.len();
    let geometry = &header.geometry;
    let cluster_size = geometry.cluster_size();
    let clusters_per_block = (cluster_size * 8) >> header.refcount_order;
    // The first cluster that is completely after the end of the file.
    let beyond = file_size.div_ceil(cluster_size);

    let mut beyond_end = Vec::new();
    let mut chunk = vec![0; usize::try_from(TABLE_READ_GAP_BYTES).unwrap_or(1 << 16)];
    let mut first_cluster = 0;
    let mut offset = header.refcount_table.start;
    while offset < header.refcount_table.end {
        let len = (header.refcount_table.end - offset).min(chunk.len() as u64);
        let chunk = &mut chunk[..usize::try_from(len).unwrap_or(0)];
        read(source, "the refcount table", offset, chunk)?;
        for at in (0..chunk.len()).step_by(8) {
            let entry = be64(chunk, at);
            if entry != 0 {
                let what = || format!("The refcount block for clusters from {first_cluster}");
                if entry & RESERVED != 0 || !geometry.is_aligned(entry) {
                    return Err(Error::new(
                        ErrorKind::BadTable,
                        format!(
                            "{} is at {entry:#x}, which is not the start of a cluster",
                            what()
                        ),
                    ));
                }
                let block = entry..entry.saturating_add(cluster_size);
                inside(&what(), &block, file_size)?;
                claims.exclusive(block, what)?;
                if first_cluster + clusters_per_block > beyond && !header.dirty {
                    beyond_end.push(BlockBeyondEnd {
                        offset: entry,
                        first_cluster,
                    });
                    if beyond_end.len() as u64 * cluster_size > MAX_REFCOUNT_BYTES_BEYOND_END {
                        return Err(cut(file_size, first_cluster * cluster_size));
                    }
                }
            }
            first_cluster += clusters_per_block;
        }
        offset += len;
    }
    Ok(beyond_end)
}

/// Refuses an image with a refcount for a cluster that the file does not have.
///
/// Called last: an image with other faults may have anything in its refcount blocks.
pub(super) fn check_blocks_beyond_end<S: ReadAt>(
    source: &S,
    header: &Header,
    beyond_end: &[BlockBeyondEnd],
) -> Result<()> {
    let beyond = source.len().div_ceil(header.geometry.cluster_size());
    let mut block = vec![0; header.geometry.l2_table_len()];
    for block_beyond in beyond_end {
        read(source, "a refcount block", block_beyond.offset, &mut block)?;
        check_block_beyond_end(source, header, block_beyond.first_cluster, beyond, &block)?;
    }
    Ok(())
}

fn check_block_beyond_end<S: ReadAt>(
    source: &S,
    header: &Header,
    first_cluster: u64,
    beyond: u64,
    block: &[u8],
) -> Result<()> {
    // Refcounts narrower than a byte start at its least significant bit.
    let first_bit = beyond.saturating_sub(first_cluster) << header.refcount_order;
    let (byte, bit) = (first_bit / 8, first_bit % 8);
    let byte = usize::try_from(byte).unwrap_or(usize::MAX);
    let counted = block.get(byte..).is_some_and(|rest| {
        rest.first().is_some_and(|first| first >> bit != 0)
            || rest.iter().skip(1).any(|byte| *byte != 0)
    });
    if counted {
        return Err(cut(
            source.len(),
            first_cluster.max(beyond) * header.geometry.cluster_size(),
        ));
    }
    Ok(())
}

fn cut(file_size: u64, cluster_offset: u64) -> Error {
    Error::new(
        ErrorKind::Truncated,
        format!(
            "The image counts clusters from {cluster_offset:#x} on, but the file ends at \
             {file_size:#x}; fetch the image again"
        ),
    )
}
