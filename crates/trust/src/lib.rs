//! Who signed a file: OpenPGP (RFC 9580) and minisign, with the keys that somebody gave.
//!
//! Everything but the keys comes from a server that may lie, so parsing is bounded by the length of its input, which
//! callers bound ([`MAX_SIGNATURE_BYTES`]), and all doubt is a [`Refusal`]. Nothing is read and nothing is asked here:
//! keys, signatures and what they are over are bytes.
//!
//! - [`verify`] is for a file in memory, [`verify_cleartext`] for a text that carries its signature.
//! - [`begin`] is for what comes as a stream: it refuses at once what can never verify, and yields a [`Pending`] that
//!   is fed and then [finished](Pending::finish).
//!
//! # What counts
//!
//! A file may carry several signatures, as files of distributions do. It is verified when one of them is good and
//! none that a known key claims to have made is wrong; what unknown or unusable keys say beside a good signature counts
//! for nothing. A key is usable when it is neither revoked (whatever the reason, and whenever) nor expired now, is
//! strong enough and may sign; a signature when it is made with a strong hash, is not from the future and has not
//! expired.

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

/// Largest file of signatures that is read; one signature has some hundred bytes, or as many KiB with notations.
pub const MAX_SIGNATURE_BYTES: usize = 64 << 10; // 64 KiB

/// Largest file of keys: a keyring of a distribution has some hundred KiB.
pub const MAX_KEYS_BYTES: u64 = 1 << 20; // 1 MiB

/// Signatures of one file that are looked at.
const MAX_SIGNATURES: usize = 16;

/// How a minisign signature begins, and its public key.
const MINISIGN_BEGIN: &[u8] = b"untrusted comment:";

/// Verifies a signature over a file that is in memory.
pub fn verify(signature: &[u8], data: &[u8], keys: &Keys, now: Now) -> Result<Signer, Refusal> {
    check_length(signature)?;
    match signature.starts_with(MINISIGN_BEGIN) {
        true => minisign::verify(signature, data, keys.minisign()),
        false => openpgp::verify(signature, data, keys.certificates(), now),
    }
}

/// Verifies a text that carries its signature (RFC 9580, section 7), and yields what of it is signed.
pub fn verify_cleartext(text: &[u8], keys: &Keys, now: Now) -> Result<(String, Signer), Refusal> {
    openpgp::verify_cleartext(text, keys.certificates(), now)
}

/// Whether a text claims to carry its signature.
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
