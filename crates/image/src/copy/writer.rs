//! The work of one thread of a copy: reads, decodes, joins and writes.

use std::sync::Arc;

use super::clusters::Clusters;
use super::cut::{SPAN_BYTES, Span};
use super::engine::{BUFFER_BYTES, Lease};
use super::join::Joiner;
use super::output::Output;
use super::view::{View, pieces};
use super::work::{SpanBytes, Work, Worker};
use super::write_queue::{Segment, WriteQueue};
use crate::error::Result;
use crate::map::Encoding;
use crate::sys::Memory;

const _: () = assert!(SPAN_BYTES < BUFFER_BYTES as u64);

/// Memory and decoders of one thread.
pub(crate) struct Writer {
    output: Arc<Output>,
    /// `None` until the first extents come.
    clusters: Option<Clusters>,
    cluster_bytes: usize,
    writes: WriteQueue,
}

impl Writer {
    /// `cluster_bytes` is the decoded size of a compressed cluster; 0 if the image has none.
    pub(crate) fn new(output: Arc<Output>, lease: Lease, cluster_bytes: usize) -> Self {
        Self {
            writes: WriteQueue::new(Arc::clone(&output), lease),
            output,
            clusters: None,
            cluster_bytes,
        }
    }

    /// What decodes. It is made here because another process is only started for an image that needs one.
    fn clusters(&mut self) -> Result<&mut Clusters> {
        let clusters = match self.clusters.take() {
            Some(clusters) => clusters,
            None if self.cluster_bytes == 0 => Clusters::here(),
            None => {
                let decoders = self.writes.lease().decoders();
                let (clusters, buffers) = Clusters::new(decoders, &self.output.stop)?;
                if let Some(buffers) = buffers {
                    self.writes.join_in(buffers);
                }
                clusters
            }
        };
        Ok(self.clusters.insert(clusters))
    }

    fn extents(&mut self, span: &Span, bytes: SpanBytes) -> Result<()> {
        self.clusters()?;
        match bytes {
            SpanBytes::Fed(parts) => {
                let view = View::new(span.host.start, parts.iter().map(|part| &part[..]));
                let direct = self.decode(span, &view)?;
                drop(view);
                for (part, segments) in parts.into_iter().zip(direct) {
                    self.writes.write(Memory::Shared(part), &segments)?;
                }
                Ok(())
            }
            SpanBytes::Read(source) => {
                let mut input = self.writes.buffer()?;
                self.output
                    .give_way_to_read(span.host.end - span.host.start)?;
                let read = || source.read(&span.host, &mut input);
                let inside = self.output.time().device(read)?;
                let view = View::new(span.host.start, std::iter::once(&input[inside.clone()]));
                let mut segments = self.decode(span, &view)?.pop().unwrap_or_default();
                for segment in &mut segments {
                    segment.range.start += inside.start;
                    segment.range.end += inside.start;
                }
                self.writes.write(Memory::Own(input), &segments)
            }
        }
    }

    /// Writes what has to be decoded or joined. Returns what can be written directly from its
    /// memory, for each part of the view.
    fn decode(&mut self, span: &Span, view: &View<'_>) -> Result<Vec<Vec<Segment>>> {
        let mut direct = vec![Vec::new(); view.parts.len()];
        let clusters = self.clusters.get_or_insert_with(Clusters::here);
        let bytes = self.cluster_bytes;
        let mut joiner = Joiner::new(&mut self.writes, &self.output, clusters, bytes);
        for piece in pieces(span) {
            match piece.encoding {
                Encoding::Plain => joiner.plain(&piece, view, &mut direct)?,
                Encoding::Deflate | Encoding::Zstd | Encoding::Grain => {
                    joiner.cluster(&piece, view)?;
                }
            }
        }
        joiner.flush()?;
        Ok(direct)
    }
}

impl Worker for Writer {
    fn run(&mut self, work: Work) -> Result<()> {
        let output = Arc::clone(&self.output);
        output.hold_still()?;
        output.time().busy(|| self.process(work))
    }

    fn flush(&mut self) -> Result<()> {
        let output = Arc::clone(&self.output);
        output.time().busy(|| self.writes.flush())
    }
}

impl Writer {
    fn process(&mut self, work: Work) -> Result<()> {
        match work {
            Work::Zero(range) => self.output.zero(range),
            Work::Block {
                guest_offset,
                bytes,
            } => {
                let range = 0..bytes.len();
                let segment = Segment {
                    guest_offset,
                    range,
                };
                self.writes.write(Memory::Shared(bytes), &[segment])
            }
            Work::Extents { span, bytes } => self.extents(&span, bytes),
        }
    }
}
