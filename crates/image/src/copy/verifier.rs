//! The work of one thread that finds out whether an image can be decoded; nothing is written.

use std::sync::Arc;

use super::clusters::Clusters;
use super::engine::{BUFFER_BYTES, Lease};
use super::stop::StopSignal;
use super::view::{View, length, pieces};
use super::work::{SpanBytes, Work, Worker};
use crate::error::{Error, ErrorKind, Result};
use crate::map::Encoding;
use crate::sys::AlignedBuf;

/// How many clusters another process gets at a time.
const CLUSTERS: usize = 32;

/// Decodes every compressed cluster that it gets.
pub(crate) struct Verifier {
    lease: Lease,
    stop: Arc<StopSignal>,
    cluster_bytes: usize,
    /// Made with the first work item.
    means: Option<Means>,
}

struct Means {
    clusters: Clusters,
    /// What is read.
    input: AlignedBuf,
    /// Where clusters are decoded to, all to the same place.
    output: AlignedBuf,
}

impl Verifier {
    /// `cluster_bytes` is the decoded size of a compressed cluster.
    pub(crate) fn new(lease: Lease, stop: &Arc<StopSignal>, cluster_bytes: usize) -> Self {
        Self {
            lease,
            stop: Arc::clone(stop),
            cluster_bytes: cluster_bytes.min(BUFFER_BYTES),
            means: None,
        }
    }

    fn means(&mut self) -> Result<Means> {
        if let Some(means) = self.means.take() {
            return Ok(means);
        }
        let (clusters, buffers) = Clusters::new(self.lease.decoders(), &self.stop)?;
        let buffer = || {
            (self.lease.buffer())
                .map_err(|e| Error::io(ErrorKind::Read, "Allocating a buffer failed", e))
        };
        let output = match buffers.and_then(|mut buffers| buffers.pop()) {
            Some(shared) => shared,
            None => buffer()?,
        };
        Ok(Means {
            clusters,
            input: buffer()?,
            output,
        })
    }
}

impl Worker for Verifier {
    fn run(&mut self, work: Work) -> Result<()> {
        let Work::Extents {
            span,
            bytes: SpanBytes::Read(source),
        } = work
        else {
            return Err(Error::new(
                ErrorKind::Internal,
                "A verification was given something to write, which is a bug in this program",
            ));
        };
        let means = self.means()?;
        let Means {
            clusters,
            input,
            output,
        } = self.means.insert(means);
        let inside = source.read(&span.host, input)?;
        let view = View::new(span.host.start, std::iter::once(&input[inside]));
        clusters.begin();
        let compressed = pieces(&span).into_iter();
        let compressed = compressed.filter(|piece| piece.encoding != Encoding::Plain);
        for (number, piece) in compressed.enumerate() {
            let needed = length(piece.guest_len)?.min(self.cluster_bytes);
            let to = (&mut *output, 0, self.cluster_bytes);
            clusters.decode(&piece, &view, to, needed)?;
            if number % CLUSTERS == CLUSTERS - 1 {
                clusters.run()?;
            }
        }
        clusters.run()
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        if let Some(means) = self.means.take() {
            self.lease.return_buffers([means.input, means.output]);
        }
    }
}
