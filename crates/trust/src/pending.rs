//! Signatures over a stream of bytes.

use std::fmt;

use digest::DynDigest;

use crate::refusal::decide;
use crate::{Refusal, Signer};

/// One signature, with the hash of the bytes so far.
pub(crate) struct Stream {
    pub(crate) signer: Signer,
    pub(crate) hasher: Box<dyn DynDigest + Send>,
    /// Checks whether the hash of all bytes is the one that was signed.
    pub(crate) finish: Box<dyn FnOnce(Box<dyn DynDigest + Send>) -> bool + Send>,
}

/// Signatures by trusted, usable keys over bytes that are still to come.
pub struct Pending {
    streams: Vec<Stream>,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signers = self.streams.iter().map(|stream| &stream.signer);
        f.debug_list().entries(signers).finish()
    }
}

impl Pending {
    pub(crate) fn new(streams: Vec<Stream>) -> Self {
        Self { streams }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for stream in &mut self.streams {
            stream.hasher.update(bytes);
        }
    }

    /// Ends the stream and returns the signer.
    pub fn finish(self) -> Result<Signer, Refusal> {
        decide(
            self.streams
                .into_iter()
                .map(|stream| match (stream.finish)(stream.hasher) {
                    true => Ok(stream.signer),
                    false => Err(Refusal::Mismatch(stream.signer)),
                }),
        )
    }
}
