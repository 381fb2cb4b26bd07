//! The work of one thread that finds out whether an image can be decoded; nothing is written.

use super::engine::Lease;
use super::view::{View, at_cluster, length, pieces};
use super::work::{SpanBytes, Work, Worker};
use crate::decode::Decoder;
use crate::error::{Error, ErrorKind, Result};
use crate::map::Encoding;
use crate::sys::AlignedBuf;

/// Decodes every compressed cluster that it gets.
pub(crate) struct Verifier {
    lease: Lease,
    decoder: Decoder,
    /// Read buffer, allocated with the first work item.
    input: Option<AlignedBuf>,
    /// The decoded cluster.
    cluster: Vec<u8>,
}

impl Verifier {
    /// `cluster_bytes` is the decoded size of a compressed cluster.
    pub(crate) fn new(lease: Lease, cluster_bytes: usize) -> Self {
        Self {
            lease,
            decoder: Decoder::new(),
            input: None,
            cluster: vec![0; cluster_bytes],
        }
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
        let input = match &mut self.input {
            Some(input) => input,
            none => none.insert(
                self.lease
                    .buffer()
                    .map_err(|e| Error::io(ErrorKind::Read, "Allocating a buffer failed", e))?,
            ),
        };
        let inside = source.read(&span.host, input)?;
        let view = View::new(span.host.start, std::iter::once(&input[inside]));
        for piece in pieces(&span) {
            if piece.encoding != Encoding::Plain {
                let (_, _, stream) = view.part(piece.host_range())?;
                let needed = length(piece.guest_len)?.min(self.cluster.len());
                self.decoder
                    .decode_part(piece.encoding, stream, &mut self.cluster, needed)
                    .map_err(|error| at_cluster(&error, &piece))?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.lease.return_buffers(self.input.take());
    }
}
