//! Parses checksum files, in every syntax that publishers use.
//!
//! Supported are a bare digest, the lines of `sha256sum` (text `HEX  NAME`, binary `HEX *NAME`, with the leading
//! backslash of an escaped name), of BSD (`SHA256 (NAME) = HEX`), of `openssl dgst` (`SHA2-256(NAME)= HEX`),
//! `sha256:HEX`, and the tables of PowerShell and certutil. Comments are ignored, and so is anything in a
//! clearsigned text that the signature does not cover. The bytes may be UTF-8 or UTF-16.
//!
//! If a text has only one digest, it is the image's whatever name it has, as images get renamed when they are
//! published; of several, the one with the object's name is the image's.

mod line;
mod text;

use lvp_api::{Checksum, Sha256Digest, Sha512Digest};

use line::Line;

/// How much of a text that holds no digest an error shows.
const SHOWN_CHARS: usize = 80;

/// Which digests a file may hold, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Sha256,
    Sha512,
    /// The name `CHECKSUM` does not say which.
    Either,
}

/// Whose digests a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Of the one image that the file is named after: a single digest is the image's, and a file without one is
    /// an error.
    Image,
    /// Of a directory: a line counts by its name, and an image without a line has no digest here.
    Directory,
    /// Of whatever a signature covers: only a line with the image's name is about the image, as otherwise one
    /// image's digest could be put beside another image.
    Signed,
}

/// The digests that a file has for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Found {
    pub(super) sha256: Option<Sha256Digest>,
    pub(super) sha512: Option<Sha512Digest>,
}

impl Algorithm {
    fn takes(self, checksum: &Checksum) -> bool {
        matches!(
            (self, checksum),
            (Self::Sha256 | Self::Either, Checksum::Sha256(_))
                | (Self::Sha512 | Self::Either, Checksum::Sha512(_))
        )
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA-256",
            Self::Sha512 => "SHA-512",
            Self::Either => "SHA-256 or SHA-512",
        }
    }
}

/// Finds the digests for the object called `base_name`; the error says what was found instead.
pub(super) fn parse(
    bytes: &[u8],
    base_name: &str,
    algorithm: Algorithm,
    scope: Scope,
) -> Result<Found, String> {
    let text = text::decode(bytes);
    let lines = text::covered(&text);
    let digests: Vec<Line<'_>> = lines
        .iter()
        .filter_map(|line| line::parse(line))
        .filter(|line| algorithm.takes(&line.checksum))
        .collect();
    let mut found = Found::default();
    let named = digests.iter().filter(|line| line.names(base_name));
    for line in named {
        found.add(line.checksum, base_name)?;
    }
    if found != Found::default() {
        return Ok(found);
    }
    if scope == Scope::Signed {
        return match digests.iter().any(|line| line.name.is_none()) {
            true => Err(
                "the signed text has a digest without a file name, so the signature could \
                be moved to any other name: sign the output of sha256sum IMAGE"
                    .to_owned(),
            ),
            false => Ok(found),
        };
    }
    if scope == Scope::Directory {
        // A bare digest is taken for that of the directory's only image.
        for line in digests.iter().filter(|_| digests.len() == 1) {
            if line.name.is_none() {
                found.add(line.checksum, base_name)?;
            }
        }
        return Ok(found);
    }
    match (digests.first(), lines.first()) {
        (Some(first), _) if digests.iter().all(|line| line.checksum == first.checksum) => {
            found.add(first.checksum, base_name)?;
            Ok(found)
        }
        (Some(_), Some(first)) => Err(format!(
            "none of its {} lines names {base_name:?}; the first reads {}",
            lines.len(),
            shown(first)
        )),
        (None, Some(first)) => Err(format!(
            "it has no {} digest; it reads {}",
            algorithm.name(),
            shown(first)
        )),
        (_, None) => Err("it is empty".to_owned()),
    }
}

impl Found {
    fn add(&mut self, checksum: Checksum, base_name: &str) -> Result<(), String> {
        let is_other = match checksum {
            Checksum::Sha256(digest) => *self.sha256.get_or_insert(digest) != digest,
            Checksum::Sha512(digest) => *self.sha512.get_or_insert(digest) != digest,
        };
        match is_other {
            true => Err(format!("it names {base_name:?} with different digests")),
            false => Ok(()),
        }
    }
}

/// The beginning of a text in quotes, printable characters only.
fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .take(SHOWN_CHARS)
        .collect();
    if text.chars().count() > SHOWN_CHARS {
        shown.push('…');
    }
    format!("{shown:?}")
}

#[cfg(test)]
mod tests;
