//! What formats with a table of blocks have in common: from the table to batches of extents.

use std::fmt;
use std::ops::Range;

use super::reader::{Batches, Map, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Format;
use crate::map::batch::{Batch, BatchBuilder, Totals};
use crate::map::extent::Bounds;
use crate::source::ReadAt;

/// An image whose metadata has been read, and whose blocks can be told from there.
pub(super) trait Blocks: fmt::Debug + Send + Sync + 'static {
    /// What the extents are relative to.
    fn bounds(&self) -> Bounds;

    /// Where the metadata stands: ranges by ascending offset, in which no block may stand.
    fn reserved(&self) -> &[Range<u64>];

    /// Adds blocks from where the batch ends; true when it is full before the disk's end.
    fn fill(&self, source: &dyn ReadAt, batch: &mut BatchBuilder) -> Result<bool>;
}

/// Opens an image: every block is looked at, and the map is kept if one batch holds it.
pub(super) fn open<T: Blocks>(
    image: T,
    format: Format,
    cluster_size: Option<u64>,
    source: &dyn ReadAt,
    batch_bytes: usize,
) -> Result<Opened> {
    let bounds = image.bounds();
    let mut batch = BatchBuilder::new(0, bounds, batch_bytes);
    let mut totals = Totals::default();
    let mut is_whole = true;
    while image.fill(source, &mut batch)? {
        is_whole = false;
        check(&image, &mut batch)?;
        totals.add(&batch);
        batch.restart();
    }
    check(&image, &mut batch)?;
    totals.add(&batch);
    Ok(Opened {
        format,
        virtual_size: Some(bounds.virtual_size),
        cluster_size,
        totals,
        map: if is_whole {
            Map::Whole(Some(batch.finish()))
        } else {
            Map::Batches(Box::new(Later(image)))
        },
    })
}

/// Refuses blocks that stand in the same place as others of the batch or as the metadata.
fn check(image: &impl Blocks, batch: &mut BatchBuilder) -> Result<()> {
    match batch.overlap(image.reserved()) {
        None => Ok(()),
        Some(host_offset) => Err(Error::new(
            ErrorKind::Overlap,
            format!(
                "A block stands at {host_offset:#x}, where something else of the image stands as well"
            ),
        )),
    }
}

/// An image whose batches are made when they are asked for.
#[derive(Debug)]
struct Later<T>(T);

impl<T: Blocks> Batches for Later<T> {
    fn batch_at(&self, source: &dyn ReadAt, start: u64, batch_bytes: usize) -> Result<Batch> {
        let mut batch = BatchBuilder::new(start, self.0.bounds(), batch_bytes);
        self.0.fill(source, &mut batch)?;
        Ok(batch.finish())
    }
}

/// Where a block's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    /// Nowhere: it reads as zero.
    Zero,
    /// At this offset of the file, as they are.
    At(u64),
}

/// How much of a block has to be inside the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needed {
    /// All of it.
    Whole,
    /// What the guest sees of it.
    Seen,
}

/// Adds equal blocks to a batch, by what `block` says of each.
pub(super) fn fill(
    batch: &mut BatchBuilder,
    bounds: &Bounds,
    block_size: u64,
    needed: Needed,
    block: impl Fn(u64) -> Result<Block>,
) -> Result<bool> {
    while batch.next_guest_offset() < bounds.virtual_size {
        // A plain block is two extents at most, when joining it ends at a cut.
        if batch.is_full(2) {
            return Ok(true);
        }
        let guest_offset = batch.next_guest_offset();
        match block(guest_offset / block_size)? {
            Block::Zero => batch.zero(block_size),
            Block::At(host_offset) => {
                let seen = block_size.min(bounds.virtual_size - guest_offset);
                let len = match needed {
                    Needed::Whole => block_size,
                    Needed::Seen => seen,
                };
                let what = format_args!("The block for guest offset {guest_offset:#x}");
                inside(&what, host_offset, len, bounds.file_size)?;
                batch.plain(host_offset, block_size);
            }
        }
    }
    Ok(false)
}

/// Refuses what is not wholly inside the file.
pub(super) fn inside(
    what: &dyn fmt::Display,
    offset: u64,
    len: u64,
    file_size: u64,
) -> Result<Range<u64>> {
    match offset.checked_add(len) {
        Some(end) if end <= file_size => Ok(offset..end),
        _ => Err(Error::new(
            ErrorKind::OutsideFile,
            format!(
                "{what} has {len} bytes at {offset:#x}, and the image file only {file_size} bytes"
            ),
        )),
    }
}

/// A header's field that makes no sense.
pub(super) fn bad_header(context: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadHeader, context)
}

/// The refusal of an image that holds a part of a disk, the rest of which another file holds.
pub(super) fn needs_parent(format: &str) -> Error {
    Error::new(
        ErrorKind::BackingFile,
        format!(
            "The {format} image holds only what differs from another image; merge the two into one \
             before they are uploaded"
        ),
    )
}

/// The refusal of an image that is beyond a limit.
pub(super) fn too_large(context: impl Into<String>) -> Error {
    Error::new(ErrorKind::TooLarge, context)
}
