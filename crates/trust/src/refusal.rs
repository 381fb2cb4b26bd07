//! Who signed, or why it does not count.

use std::fmt;

/// A form of signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenPGP.
    OpenPgp,
    /// minisign.
    Minisign,
}

/// Whose signature was found to be good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The signature's form.
    pub format: Format,
    /// OpenPGP: the fingerprint of the certificate's primary key; minisign: the key's id. Upper case.
    pub fingerprint: String,
    /// What the key says of its owner, printable and bounded.
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

/// Why a signature does not count. The texts go on after the signature's name and a colon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It is no signature, or one of a form that is not taken.
    #[error("it cannot be used: {0}")]
    Unreadable(String),
    /// Nobody gave the key.
    #[error("it is by the key {0}, which is not among the trusted keys")]
    UnknownKey(String),
    /// The key is known and may not be used.
    #[error("it is by the key {signer}, {why}")]
    KeyUnusable {
        /// Whose it is.
        signer: Signer,
        /// As a part of the sentence: `which expired on ..`.
        why: String,
    },
    /// The key may be used, the signature may not.
    #[error("it is by the key {signer} and {why}")]
    SignatureUnusable {
        /// Whose it is.
        signer: Signer,
        /// As a part of the sentence: `is made with SHA1, ..`.
        why: String,
    },
    /// What was signed is something else.
    #[error(
        "it claims to be by the key {0} and does not match the bytes: they are not what was signed"
    )]
    Mismatch(Signer),
}

impl Refusal {
    /// Whether it says that the bytes are not what a known key signed, rather than that it says nothing.
    pub fn is_mismatch(&self) -> bool {
        matches!(self, Self::Mismatch(_))
    }
}

/// Of several signatures: the first good one, unless one that a known key is to have made is wrong.
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
        (None, None) => Err(Refusal::Unreadable("it holds no signature".to_owned())),
    }
}

/// A text that others chose, for one line: printable, and bounded.
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
