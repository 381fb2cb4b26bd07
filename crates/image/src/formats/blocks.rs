//! What formats with a table of blocks have in common: making batches of extents from the table.

use std::fmt;
use std::ops::Range;

use super::reader::{Batches, Map, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Format;
use crate::map::batch::{Batch, BatchBuilder, Totals};
use crate::map::extent::Bounds;
use crate::source::ReadAt;

/// The table of an image whose metadata has been read.
pub(super) trait Blocks: fmt::Debug + Send + Sync + 'static {
    /// Adds blocks from the end of the batch on. Returns true if the batch is full before the end
    /// of the disk.
    fn fill(&self, bounds: &Bounds, source: &dyn ReadAt, batch: &mut BatchBuilder) -> Result<bool>;
}

/// An image whose metadata has been read.
#[derive(Debug)]
pub(super) struct BlockImage<T> {
    /// What is known about the image.
    pub(super) bounds: Bounds,
    /// Where the metadata is: ranges by ascending offset, which no block may overlap.
    pub(super) reserved: Vec<Range<u64>>,
    /// The format's table.
    pub(super) blocks: T,
}

impl<T: Blocks> BlockImage<T> {
    fn fill(&self, source: &dyn ReadAt, batch: &mut BatchBuilder) -> Result<bool> {
        self.blocks.fill(&self.bounds, source, batch)
    }
}

/// Opens an image: every block is checked, and the map is kept if it fits in one batch.
pub(super) fn open<T: Blocks>(
    image: BlockImage<T>,
    format: Format,
    cluster_size: Option<u64>,
    source: &dyn ReadAt,
    batch_bytes: usize,
) -> Result<Opened> {
    let bounds = image.bounds;
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

/// Refuses parts of the metadata, by ascending offset, that overlap each other.
pub(super) fn refuse_overlap(reserved: &[Range<u64>]) -> Result<()> {
    match reserved.windows(2).find(|pair| pair[0].end > pair[1].start) {
        None => Ok(()),
        Some(pair) => Err(Error::new(
            ErrorKind::Overlap,
            format!(
                "The part of the image at {:#x} begins inside the part at {:#x}",
                pair[1].start, pair[0].start
            ),
        )),
    }
}

/// Refuses blocks that overlap others of the batch or the metadata.
fn check<T>(image: &BlockImage<T>, batch: &mut BatchBuilder) -> Result<()> {
    match batch.overlap(&image.reserved) {
        None => Ok(()),
        Some(host_offset) => Err(Error::new(
            ErrorKind::Overlap,
            format!("The block at {host_offset:#x} overlaps another part of the image"),
        )),
    }
}

/// An image whose batches are made on request.
#[derive(Debug)]
struct Later<T>(BlockImage<T>);

impl<T: Blocks> Batches for Later<T> {
    fn batch_at(&self, source: &dyn ReadAt, start: u64, batch_bytes: usize) -> Result<Batch> {
        let mut batch = BatchBuilder::new(start, self.0.bounds, batch_bytes);
        self.0.fill(source, &mut batch)?;
        Ok(batch.finish())
    }
}

/// Where a block's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    /// Not in the file: it reads as zero.
    Zero,
    /// At this offset of the file, as they are.
    At(u64),
}

/// Which part of a block has to be inside the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needed {
    /// All of it.
    Whole,
    /// The part that the guest sees.
    Seen,
}

/// Adds equal blocks to a batch; `block` returns the place of each.
pub(super) fn fill(
    batch: &mut BatchBuilder,
    bounds: &Bounds,
    block_size: u64,
    needed: Needed,
    block: impl Fn(u64) -> Result<Block>,
) -> Result<bool> {
    while batch.next_guest_offset() < bounds.virtual_size {
        // A plain block is two extents at most, if joining it ends at a cut.
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

/// Refuses a block that is not completely inside the file.
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

/// The error for an invalid header field.
pub(super) fn bad_header(context: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadHeader, context)
}

/// The error for an image that holds a part of a disk, whose rest is in another file.
pub(super) fn needs_parent(format: &str) -> Error {
    Error::new(
        ErrorKind::BackingFile,
        format!(
            "The {format} image holds only what differs from another image; merge the two into one \
             before they are uploaded"
        ),
    )
}

/// The error for an image that exceeds a limit.
pub(super) fn too_large(context: impl Into<String>) -> Error {
    Error::new(ErrorKind::TooLarge, context)
}
