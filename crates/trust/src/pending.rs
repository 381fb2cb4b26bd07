//! Signatures over bytes that come one after another.

use std::fmt;

use digest::DynDigest;

use crate::refusal::decide;
use crate::{Refusal, Signer};

/// One signature, whose bytes are being hashed.
pub(crate) struct Stream {
    pub(crate) signer: Signer,
    pub(crate) hasher: Box<dyn DynDigest + Send>,
    /// Takes the hash of all bytes, and tells whether it is what was signed.
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

    /// There are no more bytes: whose signature they have.
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
