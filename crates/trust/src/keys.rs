//! Trusted keys.

use crate::certificate::Certificate;
use crate::minisign;
use crate::openpgp::{self, PUBLIC_KEY_BEGIN};
use crate::{MINISIGN_BEGIN, Signer};

/// Most certificates.
const MAX_KEYS: usize = 1000;

/// Why a key file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(pub(crate) String);

/// Trusted keys, read from files.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    certificates: Vec<Certificate>,
    minisign: Vec<minisign::Key>,
}

impl Keys {
    /// Adds the keys in a file: OpenPGP certificates, armored or not, or a minisign key as `minisign -G` writes
    /// it.
    pub fn add(&mut self, file: &[u8]) -> Result<(), KeyError> {
        if file.starts_with(MINISIGN_BEGIN) || minisign::looks_like_a_key(file) {
            self.minisign.push(minisign::Key::read(file)?);
            return Ok(());
        }
        let is_binary = file.first().is_some_and(|byte| byte & 0x80 != 0);
        let has_block = file
            .windows(PUBLIC_KEY_BEGIN.len())
            .any(|window| window == PUBLIC_KEY_BEGIN);
        if !is_binary && !has_block {
            let found = "it contains neither an OpenPGP public key nor a minisign public key";
            return Err(KeyError(found.to_owned()));
        }
        let certificates = openpgp::read_certificates(file)?;
        if certificates.is_empty() {
            return Err(KeyError("it contains no supported public key".to_owned()));
        }
        if self.certificates.len() + certificates.len() > MAX_KEYS {
            return Err(KeyError(format!("there are more than {MAX_KEYS} keys")));
        }
        self.certificates.extend(certificates);
        Ok(())
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty() && self.minisign.is_empty()
    }

    /// The owners of the keys, each with the reason if the key cannot be used.
    pub fn signers(&self, now: crate::Now) -> Vec<(Signer, Option<String>)> {
        let certificates = self
            .certificates
            .iter()
            .map(|certificate| certificate.judged(now));
        let minisign = self.minisign.iter().map(|key| (key.signer(), None));
        certificates.chain(minisign).collect()
    }

    pub(crate) fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    pub(crate) fn minisign(&self) -> &[minisign::Key] {
        &self.minisign
    }
}
