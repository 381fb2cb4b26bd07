//! The interface of a format.

use std::fmt;

use crate::error::Result;
use crate::format::Format;
use crate::map::Batch;
use crate::map::batch::Totals;
use crate::source::ReadAt;

/// The reader for images of a declared type.
pub(crate) trait ImageFormat {
    /// Reads and checks everything in an image except its data, and refuses what must be refused.
    ///
    /// A batch of the map takes at most `batch_bytes`.
    fn open(&self, source: &dyn ReadAt, batch_bytes: usize) -> Result<Opened>;
}

/// What is known of an image once it has been opened.
pub(crate) struct Opened {
    pub(crate) format: Format,
    /// `None` if it is known only once the data has been decoded.
    pub(crate) virtual_size: Option<u64>,
    /// The decoded size of a compressed cluster; `None` if the format has none.
    pub(crate) cluster_size: Option<u64>,
    pub(crate) totals: Totals,
    pub(crate) map: Map,
}

/// The map of the guest's bytes.
pub(crate) enum Map {
    /// Complete in one batch; `None` for a stream, which has no map.
    Whole(Option<Batch>),
    /// Made batch by batch.
    Batches(Box<dyn Batches>),
}

/// An image that was checked, and whose map is too large for one batch.
pub(crate) trait Batches: fmt::Debug + Send + Sync {
    /// The batch that begins at guest offset `start`.
    ///
    /// `source` is the one that was opened. If its content has changed since, the batch may be
    /// refused or map other bytes of the source, but nothing else happens.
    fn batch_at(&self, source: &dyn ReadAt, start: u64, batch_bytes: usize) -> Result<Batch>;
}
