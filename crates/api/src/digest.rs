//! Digests as text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The text is not a digest of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {algorithm} digest: {digits} hex digits are expected")]
pub struct ParseDigestError {
    algorithm: &'static str,
    digits: usize,
    text: String,
}

/// Defines a digest type: bytes in memory, and twice as many lowercase hex digits as text.
macro_rules! digest {
    ($(#[$doc:meta])* $name:ident, $algorithm:literal, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Wraps the bytes that a hasher returned.
            pub fn new(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The digest's bytes.
            pub fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseDigestError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; $bytes];
                match fill(&mut bytes, text) {
                    Some(()) => Ok(Self(bytes)),
                    None => Err(ParseDigestError {
                        algorithm: $algorithm,
                        digits: 2 * $bytes,
                        text: text.chars().take(80).collect(),
                    }),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseDigestError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(digest: $name) -> Self {
                digest.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

digest!(
    /// A SHA-256 digest: 32 bytes, written as 64 lowercase hex digits.
    Sha256Digest,
    "SHA-256",
    32
);

digest!(
    /// A SHA-512 digest: 64 bytes, written as 128 lowercase hex digits.
    Sha512Digest,
    "SHA-512",
    64
);

/// A digest with the name of its algorithm: `sha256:HEX` or `sha512:HEX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Checksum {
    /// `sha256:` and 64 hex digits.
    Sha256(Sha256Digest),
    /// `sha512:` and 128 hex digits.
    Sha512(Sha512Digest),
}

/// The text is not a [`Checksum`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseChecksumError {
    /// It does not begin with a known algorithm.
    #[error("{0:?} is not a checksum: write sha256:HEX or sha512:HEX")]
    Algorithm(String),
    /// What follows the algorithm is not its digest.
    #[error(transparent)]
    Digest(#[from] ParseDigestError),
}

impl FromStr for Checksum {
    type Err = ParseChecksumError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (algorithm, hex) = text.split_once(':').unwrap_or(("", text));
        match algorithm.to_ascii_lowercase().as_str() {
            "sha256" => Ok(Self::Sha256(hex.parse()?)),
            "sha512" => Ok(Self::Sha512(hex.parse()?)),
            _ => Err(ParseChecksumError::Algorithm(
                text.chars().take(80).collect(),
            )),
        }
    }
}

impl TryFrom<String> for Checksum {
    type Error = ParseChecksumError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Checksum> for String {
    fn from(checksum: Checksum) -> Self {
        checksum.to_string()
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => write!(f, "sha256:{digest}"),
            Self::Sha512(digest) => write!(f, "sha512:{digest}"),
        }
    }
}

fn fill(bytes: &mut [u8], text: &str) -> Option<()> {
    if text.len() != 2 * bytes.len() || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_text() {
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest: Sha256Digest = text.parse().expect("it is a digest");
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.to_uppercase().parse(), Ok(digest));
    }

    #[test]
    fn other_lengths_and_other_letters_are_refused() {
        for text in [
            "",
            "e3b0",
            &"g".repeat(64),
            &"é".repeat(32),
            &"0".repeat(65),
        ] {
            assert!(text.parse::<Sha256Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_checksum_names_its_algorithm() {
        for (algorithm, digits) in [("sha256", 64), ("sha512", 128)] {
            let text = format!("{algorithm}:{}", "a1".repeat(digits / 2));
            let checksum: Checksum = text.parse().expect("it is a checksum");
            assert_eq!(checksum.to_string(), text);
            assert_eq!(text.to_uppercase().parse(), Ok(checksum));
            assert!(text[..text.len() - 1].parse::<Checksum>().is_err());
        }
        for text in ["", "sha256", "a1", "md5:00", &"a1".repeat(32)] {
            let error = text
                .parse::<Checksum>()
                .expect_err("it is none")
                .to_string();
            assert!(
                error.contains("sha256:HEX") || error.contains("SHA-256"),
                "{error}"
            );
        }
    }
}
