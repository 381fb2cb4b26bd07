//! OpenPGP certificates: whether one of their keys may be used now.
//!
//! The certificate comes from the operator's file, so nobody else can have added a self-signature, and those
//! made with SHA-1 are accepted, as old certificates have no others. The owner's latest statement counts: the
//! latest of the direct signatures and the certifications of user ids that were not revoked.

use pgp::composed::{SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{
    KeyFlags, PublicKey, PublicSubkey, RevocationCode, Signature, SignatureType, SubpacketData,
};
use pgp::types::{
    Fingerprint, KeyDetails as _, KeyVersion, PublicParams, SignatureBytes, Tag, VerifyingKey as _,
};

use rsa::traits::PublicKeyParts as _;

use crate::refusal::printable;
use crate::time::date;
use crate::{Format, Now, Signer};

/// Shorter RSA keys are broken, or soon will be.
const RSA_MIN_BITS: usize = 2048;

/// A parsed certificate.
#[derive(Debug, Clone)]
pub(crate) struct Certificate(SignedPublicKey);

/// A key of a certificate that may have made a signature.
#[derive(Debug, Clone)]
pub(crate) enum SigningKey {
    Primary(PublicKey),
    Sub(PublicSubkey),
}

impl SigningKey {
    /// Whether a signature over bytes in memory is valid.
    pub(crate) fn has_signed(&self, signature: &Signature, data: &[u8]) -> bool {
        match self {
            Self::Primary(key) => signature.verify(key, data).is_ok(),
            Self::Sub(key) => signature.verify(key, data).is_ok(),
        }
    }

    /// Whether a signature over a hash is valid.
    pub(crate) fn has_signed_hash(
        &self,
        algorithm: HashAlgorithm,
        hash: &[u8],
        signature: &SignatureBytes,
    ) -> bool {
        match self {
            Self::Primary(key) => key.verify(algorithm, hash, signature).is_ok(),
            Self::Sub(key) => key.verify(algorithm, hash, signature).is_ok(),
        }
    }

    pub(crate) fn is_v6(&self) -> bool {
        let version = match self {
            Self::Primary(key) => key.version(),
            Self::Sub(key) => key.version(),
        };
        version == KeyVersion::V6
    }

    fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Primary(key) => key.fingerprint(),
            Self::Sub(key) => key.fingerprint(),
        }
    }
}

/// The owner's latest statement about a key.
struct Said<'a> {
    created: u64,
    signature: &'a Signature,
}

impl Certificate {
    pub(crate) fn new(key: SignedPublicKey) -> Self {
        Self(key)
    }

    /// The key that a signature claims to be made with, if it belongs to this certificate.
    pub(crate) fn issuer_of(&self, signature: &Signature) -> Option<SigningKey> {
        let primary = SigningKey::Primary(self.0.primary_key.clone());
        let subkeys = self.0.public_subkeys.iter();
        let keys = subkeys.map(|subkey| SigningKey::Sub(subkey.key.clone()));
        let (fingerprints, ids) = (signature.issuer_fingerprint(), signature.issuer_key_id());
        std::iter::once(primary).chain(keys).find(|key| {
            let id = match key {
                SigningKey::Primary(key) => key.legacy_key_id(),
                SigningKey::Sub(key) => key.legacy_key_id(),
            };
            match fingerprints.is_empty() {
                false => fingerprints.contains(&&key.fingerprint()),
                true => ids.contains(&&id),
            }
        })
    }

    /// The owner.
    pub(crate) fn signer(&self, now: Now) -> Signer {
        let users = &self.0.details.users;
        let valid = users
            .iter()
            .filter_map(|user| Some((self.said_of(user, now)?, &user.id)))
            .max_by_key(|(said, _)| (said.signature.is_primary(), said.created));
        Signer {
            format: Format::OpenPgp,
            fingerprint: shown(&self.0.primary_key.fingerprint()),
            name: valid.map(|(_, id)| printable(&String::from_utf8_lossy(id.id()))),
        }
    }

    /// The owner, and the reason if the primary key cannot be used at all.
    pub(crate) fn judged(&self, now: Now) -> (Signer, Option<String>) {
        (self.signer(now), self.check_primary(now).err())
    }

    /// Fails if a key may not be used to verify signatures over data now. The reason is part of a sentence.
    pub(crate) fn check(&self, key: &SigningKey, now: Now) -> Result<(), String> {
        let said = self.check_primary(now)?;
        let SigningKey::Sub(key) = key else {
            // A certificate without flags is older than the flags are.
            return match flags(said.signature) {
                Some(flags) if !flags.sign() => Err("which may not sign data".to_owned()),
                _ => Ok(()),
            };
        };
        let subkeys = self.0.public_subkeys.iter();
        let mut subkeys = subkeys.filter(|subkey| subkey.key.fingerprint() == key.fingerprint());
        let subkey = subkeys.next().ok_or("which is not in its certificate")?;
        self.check_subkey(subkey, now)
    }

    fn check_primary(&self, now: Now) -> Result<Said<'_>, String> {
        let (key, details) = (&self.0.primary_key, &self.0.details);
        check_strength(key.version(), key.public_params())?;
        let own = key.fingerprint();
        for revocation in &details.revocation_signatures {
            // A revocation by another key was made by a designated revoker, whose certificate is not available.
            // It is accepted, as the file is the operator's.
            let is_foreign = !revocation.issuer_fingerprint().contains(&&own)
                && !revocation.issuer_key_id().contains(&&key.legacy_key_id());
            if is_foreign || revocation.verify_key(key).is_ok() {
                return Err(revoked(revocation));
            }
        }
        let direct = details
            .direct_signatures
            .iter()
            .filter(|signature| signature.verify_key(key).is_ok())
            .filter_map(|signature| said(signature, now));
        let users = details
            .users
            .iter()
            .filter_map(|user| self.said_of(user, now));
        let latest = direct.chain(users).max_by_key(|said| said.created);
        let latest = latest.ok_or("which has no valid self-signature")?;
        let created = u64::from(key.created_at().as_secs());
        check_validity(created, latest.signature, now)?;
        Ok(latest)
    }

    /// The owner's latest statement about a user id, unless it was revoked.
    fn said_of<'a>(&'a self, user: &'a pgp::types::SignedUser, now: Now) -> Option<Said<'a>> {
        let key = &self.0.primary_key;
        let own = user.signatures.iter().filter(|signature| {
            let by_own_id = signature.issuer_key_id().contains(&&key.legacy_key_id());
            (by_own_id || signature.issuer_fingerprint().contains(&&key.fingerprint()))
                && signature
                    .verify_certification(key, Tag::UserId, &user.id)
                    .is_ok()
        });
        let latest = own
            .filter_map(|signature| said(signature, now))
            // If both have the same second, a revocation counts.
            .max_by_key(|said| (said.created, is_revocation(said.signature)))?;
        (!is_revocation(latest.signature)).then_some(latest)
    }

    fn check_subkey(&self, subkey: &SignedPublicSubKey, now: Now) -> Result<(), String> {
        let (primary, key) = (&self.0.primary_key, &subkey.key);
        check_strength(key.version(), key.public_params())?;
        let mut latest: Option<Said<'_>> = None;
        for signature in &subkey.signatures {
            if signature.verify_subkey_binding(primary, key).is_err() {
                continue;
            }
            if signature.typ() == Some(SignatureType::SubkeyRevocation) {
                return Err(revoked(signature));
            }
            if let Some(said) = said(signature, now)
                && latest
                    .as_ref()
                    .is_none_or(|latest| latest.created <= said.created)
            {
                latest = Some(said);
            }
        }
        let latest = latest
            .ok_or("whose subkey that signed is not bound to it")?
            .signature;
        if !flags(latest).is_some_and(|flags| flags.sign()) {
            return Err("whose subkey that signed may not sign data".to_owned());
        }
        // Otherwise, somebody could present another certificate's subkey as their own.
        let back = latest.embedded_signature();
        if !back.is_some_and(|back| {
            is_strong_for_keys(back) && back.verify_primary_key_binding(key, primary).is_ok()
        }) {
            return Err("whose subkey that signed has not confirmed the binding".to_owned());
        }
        check_validity(u64::from(key.created_at().as_secs()), latest, now)
    }
}

/// `AB12..`, in upper case, as other tools print it.
pub(crate) fn shown(fingerprint: &Fingerprint) -> String {
    format!("{fingerprint:X}")
}

/// A self-signature, if it is valid now.
fn said(signature: &Signature, now: Now) -> Option<Said<'_>> {
    let created = u64::from(signature.created()?.as_secs());
    let is_over = signature
        .signature_expiration_time()
        .map(|valid| u64::from(valid.as_secs()))
        .is_some_and(|valid| valid > 0 && now.is_after(created, valid));
    let counts = !is_over && !now.is_before(created) && is_strong_for_keys(signature);
    counts.then_some(Said { created, signature })
}

fn is_strong_for_keys(signature: &Signature) -> bool {
    !matches!(
        signature.hash_alg(),
        None | Some(HashAlgorithm::None | HashAlgorithm::Md5 | HashAlgorithm::Ripemd160)
    )
}

fn is_revocation(signature: &Signature) -> bool {
    signature.typ() == Some(SignatureType::CertRevocation)
}

/// What a key may be used for, if its owner has said so.
fn flags(signature: &Signature) -> Option<KeyFlags> {
    let subpackets = signature.config()?.hashed_subpackets();
    let mut flags = subpackets.filter_map(|subpacket| match &subpacket.data {
        SubpacketData::KeyFlags(flags) => Some(flags.clone()),
        _ => None,
    });
    flags.next()
}

fn revoked(signature: &Signature) -> String {
    let why = match signature.revocation_reason_code() {
        Some(RevocationCode::KeyCompromised) => ": it was compromised",
        Some(RevocationCode::KeySuperseded) => ": it was superseded",
        Some(RevocationCode::KeyRetired) => ": it was retired",
        _ => "",
    };
    match signature.created() {
        Some(created) => format!(
            "which was revoked on {}{why}",
            date(u64::from(created.as_secs()))
        ),
        None => format!("which was revoked{why}"),
    }
}

fn check_validity(created: u64, said: &Signature, now: Now) -> Result<(), String> {
    if now.is_before(created) {
        return Err(format!(
            "which was made on {}: it is not valid yet, or this host's clock is wrong",
            date(created)
        ));
    }
    match said
        .key_expiration_time()
        .map(|valid| u64::from(valid.as_secs()))
    {
        Some(valid) if valid > 0 && now.is_after(created, valid) => Err(format!(
            "which expired on {}",
            date(created.saturating_add(valid))
        )),
        _ => Ok(()),
    }
}

fn check_strength(version: KeyVersion, parameters: &PublicParams) -> Result<(), String> {
    if !matches!(version, KeyVersion::V4 | KeyVersion::V6) {
        return Err("which has an unsupported version".to_owned());
    }
    match parameters {
        PublicParams::RSA(rsa) => {
            let bits = rsa.key.n().bits();
            match bits < RSA_MIN_BITS {
                true => Err(format!(
                    "which is too weak: RSA of {bits} bits, and at least {RSA_MIN_BITS} are \
                     required"
                )),
                false => Ok(()),
            }
        }
        PublicParams::ECDSA(_)
        | PublicParams::EdDSALegacy(_)
        | PublicParams::Ed25519(_)
        | PublicParams::Ed448(_) => Ok(()),
        PublicParams::DSA(_) => Err("which is a DSA key, and DSA is not supported".to_owned()),
        _ => Err("whose algorithm cannot sign".to_owned()),
    }
}
