//! Pieces of work, and who does them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::cut::{SPAN_BYTES, Span};
use super::local::LocalSource;
use crate::error::Result;

/// Something for a worker to do.
#[derive(Debug)]
pub(crate) enum Work {
    /// Decode these extents.
    Extents { span: Span, bytes: SpanBytes },
    /// Write these guest bytes.
    Block { guest_offset: u64, bytes: Bytes },
    /// Make this guest range read as zero.
    Zero(Range<u64>),
}

/// Where a span's host bytes come from.
#[derive(Debug)]
pub(crate) enum SpanBytes {
    /// They are here: slices in host order, without gaps.
    Fed(Vec<Bytes>),
    /// The worker reads them.
    Read(Arc<LocalSource>),
}

impl Work {
    /// What it counts against the bound of the queue.
    pub(crate) fn cost(&self) -> u64 {
        match self {
            Self::Extents { span, bytes } => match bytes {
                SpanBytes::Fed(_) => span.host.end - span.host.start,
                // Costs no memory before it is worked on; the bound keeps the queue short.
                SpanBytes::Read(_) => SPAN_BYTES,
            },
            // Bounded by its pool.
            Self::Block { .. } => 0,
            // Costs no memory either.
            Self::Zero(_) => SPAN_BYTES,
        }
    }
}

/// Does the work of one thread.
pub(crate) trait Worker: Send + 'static {
    /// Does a piece of work. What it writes may be in progress still when this returns.
    fn run(&mut self, work: Work) -> Result<()>;

    /// Waits until everything is written.
    fn flush(&mut self) -> Result<()>;
}
