//! What a format has to do to be read.

use std::fmt;

use crate::error::Result;
use crate::format::Format;
use crate::map::Batch;
use crate::map::batch::Totals;
use crate::source::ReadAt;

/// A format that images are declared to be of.
pub(crate) trait ImageFormat {
    /// Reads and checks everything of an image but its data; refuses what must be refused.
    ///
    /// A batch of the map takes at most `batch_bytes`.
    fn open(&self, source: &dyn ReadAt, batch_bytes: usize) -> Result<Opened>;
}

/// What is known of an image once it has been opened.
pub(crate) struct Opened {
    pub(crate) format: Format,
    /// `None` when it is known only once the data has been decoded.
    pub(crate) virtual_size: Option<u64>,
    /// What a compressed cluster decodes to; `None` where the format has none.
    pub(crate) cluster_size: Option<u64>,
    pub(crate) totals: Totals,
    pub(crate) map: Map,
}

/// Where the guest's bytes stand.
pub(crate) enum Map {
    /// All of them in one batch; `None` for a stream, which has no map.
    Whole(Option<Batch>),
    /// The map is made batch by batch.
    Batches(Box<dyn Batches>),
}

/// An image that has been checked, and whose map is too large for one batch.
pub(crate) trait Batches: fmt::Debug + Send + Sync {
    /// The batch that begins at guest offset `start`.
    ///
    /// `source` is the one that was opened. Should its content have changed since, the batch may be
    /// refused or map other bytes of the source, but nothing else.
    fn batch_at(&self, source: &dyn ReadAt, start: u64, batch_bytes: usize) -> Result<Batch>;
}
