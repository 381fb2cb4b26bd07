//! Decodes compressed clusters.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::plan::Encoding;

/// Decodes compressed clusters, one at a time; every worker thread has its own.
pub struct Decoder {
    deflate: libdeflater::Decompressor,
}

impl Decoder {
    /// A decoder for clusters of any size and encoding.
    pub fn new() -> Self {
        Self {
            deflate: libdeflater::Decompressor::new(),
        }
    }

    /// Decodes one cluster.
    ///
    /// `input` is the extent's host bytes, `output` a buffer of the cluster's size. It is filled
    /// completely, or the cluster is refused as [`ErrorKind::BadCluster`].
    pub fn decode(&mut self, encoding: Encoding, input: &[u8], output: &mut [u8]) -> Result<()> {
        let filled = match encoding {
            Encoding::Deflate => self.deflate.deflate_decompress(input, output).ok(),
            Encoding::Plain | Encoding::Zstd => None,
        };
        if filled == Some(output.len()) {
            Ok(())
        } else {
            Err(Error::new(
                ErrorKind::BadCluster,
                "A compressed cluster does not decompress to a whole cluster",
            ))
        }
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}
