//! Work items, and the trait of workers.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::cut::{SPAN_BYTES, Span};
use super::local::LocalSource;
use crate::error::Result;

/// A work item.
#[derive(Debug)]
pub(crate) enum Work {
    /// Decode these extents.
    Extents { span: Span, bytes: SpanBytes },
    /// Write these guest bytes.
    Block { guest_offset: u64, bytes: Bytes },
    /// Make this guest range read as zero.
    Zero(Range<u64>),
}

/// The source of a span's host bytes.
#[derive(Debug)]
pub(crate) enum SpanBytes {
    /// In memory: slices in host order, contiguous.
    Fed(Vec<Bytes>),
    /// The worker reads them from the file.
    Read(Arc<LocalSource>),
}

impl Work {
    /// How much it counts towards the bound of the queue.
    pub(crate) fn cost(&self) -> u64 {
        match self {
            Self::Extents { span, bytes } => match bytes {
                SpanBytes::Fed(_) => span.host.end - span.host.start,
                // Takes no memory before it is processed; the bound keeps the queue short.
                SpanBytes::Read(_) => SPAN_BYTES,
            },
            // Bounded by the pool of its buffers.
            Self::Block { .. } => 0,
            // Takes no memory either.
            Self::Zero(_) => SPAN_BYTES,
        }
    }
}

/// The work of one thread.
pub(crate) trait Worker: Send + 'static {
    /// Processes a work item. Its writes may still be in progress when this returns.
    fn run(&mut self, work: Work) -> Result<()>;

    /// Waits until all writes are complete.
    fn flush(&mut self) -> Result<()>;
}
