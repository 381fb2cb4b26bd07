//! What is taken of an image's bytes beside the bytes: digests, and the verdicts of its signatures.

use lvp_api::{Sha256Digest, Sha512Digest};
use lvp_trust::{Pending, Refusal, Signer};
use sha2::{Digest as _, Sha256, Sha512};

/// What is wanted beside the SHA-256.
#[derive(Debug, Default)]
pub struct Wanted {
    /// The SHA-512.
    pub sha512: bool,
    /// Signatures that the bytes are held against.
    pub signatures: Vec<Pending>,
}

impl Wanted {
    /// Whether that is nothing.
    pub fn is_empty(&self) -> bool {
        !self.sha512 && self.signatures.is_empty()
    }
}

/// Takes all bytes, in order.
#[derive(Debug)]
pub struct Hashers {
    sha256: Sha256,
    sha512: Option<Sha512>,
    signatures: Vec<Pending>,
}

/// What came of them.
#[derive(Debug)]
pub struct Digests {
    /// SHA-256 of all bytes.
    pub sha256: Sha256Digest,
    /// SHA-512 of them, if that was wanted.
    pub sha512: Option<Sha512Digest>,
    /// What the signatures came to, in their order.
    pub signatures: Vec<Result<Signer, Refusal>>,
}

impl Hashers {
    /// Begins.
    pub fn new(wanted: Wanted) -> Self {
        Self {
            sha256: Sha256::new(),
            sha512: wanted.sha512.then(Sha512::new),
            signatures: wanted.signatures,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
        for signature in &mut self.signatures {
            signature.update(bytes);
        }
    }

    /// There are no more.
    pub fn finish(self) -> Digests {
        let sha512 = self
            .sha512
            .map(|hasher| Sha512Digest::new(hasher.finalize().into()));
        Digests {
            sha256: Sha256Digest::new(self.sha256.finalize().into()),
            sha512,
            signatures: self.signatures.into_iter().map(Pending::finish).collect(),
        }
    }
}
