//! Verifies who signed a file: OpenPGP (RFC 9580) and minisign signatures, by given keys.
//!
//! Everything except the keys comes from a server that may lie, so parsing is bounded by the length of its
//! input, which callers limit ([`MAX_SIGNATURE_BYTES`]), and anything doubtful is a [`Refusal`]. This crate
//! does no I/O: keys, signatures and signed data are passed in as bytes.
//!
//! - [`verify`] is for a file in memory, [`verify_cleartext`] for a text that contains its signature.
//! - [`begin`] is for a stream: it refuses at once what can never be valid, and returns a [`Pending`] that gets
//!   the bytes and is then [finished](Pending::finish).
//!
//! # Which signatures are accepted
//!
//! A file may have several signatures, as those of distributions do. It is verified if one of them is good and
//! none that claims to be made with a known key is wrong; beside a good signature, those by unknown or unusable
//! keys are ignored. A key is usable if it is neither revoked (whatever the reason and the time) nor expired,
//! is strong enough and may sign; a signature is usable if it is made with a strong hash, is not from the
//! future and has not expired.

mod certificate;
mod keys;
mod minisign;
mod openpgp;
mod pending;
mod refusal;
mod time;

pub use keys::{KeyError, Keys};
pub use pending::Pending;
pub use refusal::{Format, Refusal, Signer};
pub use time::Now;

/// Largest signature file that is read; one signature has some hundred bytes, or several KiB with notations.
pub const MAX_SIGNATURE_BYTES: usize = 64 << 10; // 64 KiB

/// Largest key file that is read: a distribution's keyring has some hundred KiB.
pub const MAX_KEYS_BYTES: u64 = 1 << 20; // 1 MiB

/// Most signatures in one file.
const MAX_SIGNATURES: usize = 16;

/// The beginning of a minisign signature or public key.
const MINISIGN_BEGIN: &[u8] = b"untrusted comment:";

/// Verifies a signature over a file that is in memory.
pub fn verify(signature: &[u8], data: &[u8], keys: &Keys, now: Now) -> Result<Signer, Refusal> {
    check_length(signature)?;
    match signature.starts_with(MINISIGN_BEGIN) {
        true => minisign::verify(signature, data, keys.minisign()),
        false => openpgp::verify(signature, data, keys.certificates(), now),
    }
}

/// Verifies a text that contains its signature (RFC 9580, section 7), and returns the signed part.
pub fn verify_cleartext(text: &[u8], keys: &Keys, now: Now) -> Result<(String, Signer), Refusal> {
    openpgp::verify_cleartext(text, keys.certificates(), now)
}

/// Whether a text claims to contain its signature.
pub fn is_cleartext(text: &[u8]) -> bool {
    openpgp::is_cleartext(text)
}

/// Begins to verify a signature over bytes that are still to come.
pub fn begin(signature: &[u8], keys: &Keys, now: Now) -> Result<Pending, Refusal> {
    check_length(signature)?;
    let streams = match signature.starts_with(MINISIGN_BEGIN) {
        true => vec![minisign::begin(signature, keys.minisign())?],
        false => openpgp::begin(signature, keys.certificates(), now)?,
    };
    Ok(Pending::new(streams))
}

fn check_length(signature: &[u8]) -> Result<(), Refusal> {
    match signature.len() > MAX_SIGNATURE_BYTES {
        true => Err(Refusal::Unreadable(format!(
            "it is larger than {} KiB",
            MAX_SIGNATURE_BYTES >> 10
        ))),
        false => Ok(()),
    }
}
