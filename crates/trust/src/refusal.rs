//! The result of a verification: the signer, or why the signature is refused.

use std::fmt;

/// A format of signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenPGP.
    OpenPgp,
    /// minisign.
    Minisign,
}

/// The owner of the key that made a good signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The signature's format.
    pub format: Format,
    /// OpenPGP: the fingerprint of the certificate's primary key; minisign: the key's id. Upper case.
    pub fingerprint: String,
    /// The owner's name according to the key, printable and bounded.
    pub name: Option<String>,
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint)?;
        match &self.name {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

/// Why a signature is refused. The texts follow the signature's name and a colon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It is not a signature, or one in an unsupported format.
    #[error("it cannot be used: {0}")]
    Unreadable(String),
    /// The key is not among the given ones.
    #[error("it was made with the key {0}, which is not among the trusted keys")]
    UnknownKey(String),
    /// The key is known and may not be used.
    #[error("it was made with the key {signer}, {why}")]
    KeyUnusable {
        /// Whose it is.
        signer: Signer,
        /// As a part of the sentence: `which expired on ..`.
        why: String,
    },
    /// The key may be used, the signature may not.
    #[error("it was made with the key {signer} and {why}")]
    SignatureUnusable {
        /// Whose it is.
        signer: Signer,
        /// As a part of the sentence: `is made with SHA1, ..`.
        why: String,
    },
    /// The signed data is different.
    #[error(
        "it claims to be made with the key {0} and does not match the bytes: they are not what \
         was signed"
    )]
    Mismatch(Signer),
}

impl Refusal {
    /// Whether it shows that the bytes are not what a known key signed, and not just that there is no usable
    /// signature.
    pub fn is_mismatch(&self) -> bool {
        matches!(self, Self::Mismatch(_))
    }
}

/// The result of several signatures: the first good one, unless one that claims to be made with a known key is
/// wrong.
pub(crate) fn decide(
    results: impl IntoIterator<Item = Result<Signer, Refusal>>,
) -> Result<Signer, Refusal> {
    let (mut good, mut refused) = (None, None);
    for result in results {
        match result {
            Ok(signer) => _ = good.get_or_insert(signer),
            Err(refusal) if refusal.is_mismatch() => return Err(refusal),
            Err(refusal) => _ = refused.get_or_insert(refusal),
        }
    }
    match (good, refused) {
        (Some(signer), _) => Ok(signer),
        (None, Some(refusal)) => Err(refusal),
        (None, None) => Err(Refusal::Unreadable("it contains no signature".to_owned())),
    }
}

/// An untrusted text, made printable and bounded for one line.
pub(crate) fn printable(text: &str) -> String {
    const MAX_CHARS: usize = 120;
    let mut shown: String = text
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .take(MAX_CHARS)
        .collect();
    if text.chars().count() > MAX_CHARS {
        shown.push('…');
    }
    shown
}
