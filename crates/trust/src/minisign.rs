//! minisign signatures: Ed25519 over the file's BLAKE2b hash, or over the file itself in the legacy format.
//!
//! Four lines: an untrusted comment; base64 of algorithm, key id and signature; a trusted comment; base64 of a second
//! signature, over the first and the trusted comment. The comments' content is not used.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::Blake2b512;
use digest::Digest as _;
use ed25519_dalek::{Signature, VerifyingKey};

use crate::keys::KeyError;
use crate::pending::Stream;
use crate::refusal::printable;
use crate::{Format, MINISIGN_BEGIN, Refusal, Signer};

/// Algorithm, key id, key.
const KEY_BYTES: usize = 2 + 8 + 32;
/// Algorithm, key id, signature.
const SIGNATURE_BYTES: usize = 2 + 8 + 64;
const TRUSTED_BEGIN: &str = "trusted comment: ";

/// A public key.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    id: [u8; 8],
    key: VerifyingKey,
    comment: Option<String>,
}

/// Whether a file is a public key without its comment, as it is passed on a command line.
pub(crate) fn looks_like_a_key(file: &[u8]) -> bool {
    let text = file.trim_ascii();
    text.len() == KEY_BYTES.div_ceil(3) * 4 && STANDARD.decode(text).is_ok()
}

impl Key {
    pub(crate) fn read(file: &[u8]) -> Result<Self, KeyError> {
        let error = |why: &str| KeyError(format!("it is not a minisign public key: {why}"));
        let text = std::str::from_utf8(file).map_err(|_| error("it is not UTF-8 text"))?;
        let mut lines = text.lines().map(str::trim_end);
        let first = lines.next().unwrap_or_default();
        let (comment, encoded) = match first.as_bytes().starts_with(MINISIGN_BEGIN) {
            true => (
                Some(first[MINISIGN_BEGIN.len()..].trim()),
                lines.next().unwrap_or_default(),
            ),
            false => (None, first),
        };
        let bytes = STANDARD.decode(encoded);
        let bytes = bytes.map_err(|_| error("its second line is not base64"))?;
        let Ok(bytes) = <[u8; KEY_BYTES]>::try_from(bytes) else {
            return Err(error("its key has the wrong length"));
        };
        if &bytes[..2] != b"Ed" {
            return Err(error("it is of an algorithm that is not known"));
        }
        let (mut id, mut key) = ([0; 8], [0; 32]);
        id.copy_from_slice(&bytes[2..10]);
        key.copy_from_slice(&bytes[10..]);
        let key = VerifyingKey::from_bytes(&key);
        let key = key.map_err(|_| error("its key is not a valid Ed25519 key"))?;
        if key.is_weak() {
            return Err(error(
                "its key is weak: anybody could make signatures for it",
            ));
        }
        let comment = comment.map(printable).filter(|comment| !comment.is_empty());
        Ok(Self { id, key, comment })
    }

    pub(crate) fn signer(&self) -> Signer {
        Signer {
            format: Format::Minisign,
            fingerprint: shown(&self.id),
            name: self.comment.clone(),
        }
    }
}

/// In minisign's format: a little-endian number in hexadecimal, without leading zeros (`PRIX64` in minisign.c).
fn shown(id: &[u8; 8]) -> String {
    format!("{:X}", u64::from_le_bytes(*id))
}

/// A parsed signature file, whose trusted comment is verified.
struct Signed<'a> {
    key: &'a Key,
    signature: Signature,
    is_prehashed: bool,
}

fn read<'a>(file: &[u8], keys: &'a [Key]) -> Result<Signed<'a>, Refusal> {
    let error = |why: &str| Refusal::Unreadable(format!("it is not a minisign signature: {why}"));
    let text = std::str::from_utf8(file).map_err(|_| error("it is not UTF-8 text"))?;
    let mut lines = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line));
    let mut line = || {
        lines
            .next()
            .ok_or_else(|| error("it has fewer than four lines"))
    };
    line()?;
    let decoded = |line: &str| {
        let decoded = STANDARD.decode(line.trim());
        decoded.map_err(|_| error("a line that must be base64 is not"))
    };
    let Ok(bytes) = <[u8; SIGNATURE_BYTES]>::try_from(decoded(line()?)?) else {
        return Err(error("its signature has the wrong length"));
    };
    let is_prehashed = match &bytes[..2] {
        b"ED" => true,
        b"Ed" => false,
        _ => return Err(error("it is of an algorithm that is not known")),
    };
    let (mut id, mut signature) = ([0; 8], [0; 64]);
    id.copy_from_slice(&bytes[2..10]);
    signature.copy_from_slice(&bytes[10..]);
    // signify's signatures have only the same first two lines.
    let comment = line()?.strip_prefix(TRUSTED_BEGIN);
    let comment = comment.ok_or_else(|| error("its third line is not a trusted comment"))?;
    let Ok(global) = <[u8; 64]>::try_from(decoded(line()?)?) else {
        return Err(error("its second signature has the wrong length"));
    };
    let key = keys.iter().find(|key| key.id == id);
    let key = key.ok_or_else(|| Refusal::UnknownKey(shown(&id)))?;
    let mut covered = signature.to_vec();
    covered.extend_from_slice(comment.as_bytes());
    let global = Signature::from_bytes(&global);
    if key.key.verify_strict(&covered, &global).is_err() {
        return Err(Refusal::Mismatch(key.signer()));
    }
    Ok(Signed {
        key,
        signature: Signature::from_bytes(&signature),
        is_prehashed,
    })
}

pub(crate) fn verify(file: &[u8], data: &[u8], keys: &[Key]) -> Result<Signer, Refusal> {
    let signed = read(file, keys)?;
    let hash: [u8; 64];
    let covered = match signed.is_prehashed {
        true => {
            hash = Blake2b512::digest(data).into();
            &hash
        }
        false => data,
    };
    match signed.key.key.verify_strict(covered, &signed.signature) {
        Ok(()) => Ok(signed.key.signer()),
        Err(_) => Err(Refusal::Mismatch(signed.key.signer())),
    }
}

pub(crate) fn begin(file: &[u8], keys: &[Key]) -> Result<Stream, Refusal> {
    let signed = read(file, keys)?;
    let signer = signed.key.signer();
    if !signed.is_prehashed {
        return Err(Refusal::SignatureUnusable {
            signer,
            why: "is in minisign's legacy format, for which the whole image would have to be in \
                memory: sign it without -l"
                .to_owned(),
        });
    }
    let (key, signature) = (signed.key.key, signed.signature);
    Ok(Stream {
        signer,
        hasher: Box::new(Blake2b512::new()),
        finish: Box::new(move |hasher| key.verify_strict(&hasher.finalize(), &signature).is_ok()),
    })
}
