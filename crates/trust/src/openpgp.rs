//! OpenPGP signatures: detached ones over files and streams, and cleartext-signed texts.

use std::iter;

use pgp::composed::{
    CleartextSignedMessage, Deserializable as _, DetachedSignature, SignedPublicKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{
    Signature, SignatureConfig, SignatureType, SignatureVersionSpecific, SubpacketData,
};

use crate::certificate::{Certificate, SigningKey, shown};
use crate::keys::KeyError;
use crate::pending::Stream;
use crate::refusal::{decide, printable};
use crate::time::date;
use crate::{MAX_SIGNATURES, Now, Refusal, Signer};

pub(crate) const PUBLIC_KEY_BEGIN: &[u8] = b"-----BEGIN PGP PUBLIC KEY BLOCK-----";
const SIGNATURE_BEGIN: &[u8] = b"-----BEGIN PGP SIGNATURE-----";
const CLEARTEXT_BEGIN: &[u8] = b"-----BEGIN PGP SIGNED MESSAGE-----";
const UTF8_MARK: &[u8] = &[0xef, 0xbb, 0xbf];

pub(crate) fn read_certificates(file: &[u8]) -> Result<Vec<Certificate>, KeyError> {
    let mut certificates = Vec::new();
    for part in parts(file, PUBLIC_KEY_BEGIN) {
        let unreadable = |error: pgp::errors::Error| {
            let why = printable(&error.to_string());
            KeyError(format!("it is not an OpenPGP public key: {why}"))
        };
        let (keys, _) = SignedPublicKey::from_reader_many_buf(part).map_err(unreadable)?;
        for key in keys {
            certificates.push(Certificate::new(key.map_err(unreadable)?));
        }
    }
    Ok(certificates)
}

/// The blocks of a file: armored ones may be joined with `cat`, and the library reads only the first.
fn parts<'a>(file: &'a [u8], begin: &'static [u8]) -> impl Iterator<Item = &'a [u8]> {
    let is_binary = file.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut rest = match is_binary {
        true => None,
        false => find(file, begin).map(|at| &file[at..]),
    };
    let armored = iter::from_fn(move || {
        let part = rest?;
        let next = find(&part[1..], begin).map(|at| at + 1);
        rest = next.map(|at| &part[at..]);
        Some(&part[..next.unwrap_or(part.len())])
    });
    is_binary.then_some(file).into_iter().chain(armored)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

fn unreadable(error: &pgp::errors::Error) -> Refusal {
    let why = printable(&error.to_string());
    Refusal::Unreadable(format!("it is not an OpenPGP signature: {why}"))
}

/// The signatures of a file.
fn read(file: &[u8]) -> Result<Vec<Signature>, Refusal> {
    let mut signatures = Vec::new();
    for part in parts(file, SIGNATURE_BEGIN) {
        let (found, _) =
            DetachedSignature::from_reader_many_buf(part).map_err(|error| unreadable(&error))?;
        for signature in found {
            signatures.push(signature.map_err(|error| unreadable(&error))?.signature);
            check_number(&signatures)?;
        }
    }
    match signatures.is_empty() {
        true => Err(Refusal::Unreadable(
            "it contains no supported OpenPGP or minisign signature".to_owned(),
        )),
        false => Ok(signatures),
    }
}

fn check_number(signatures: &[Signature]) -> Result<(), Refusal> {
    match signatures.len() > MAX_SIGNATURES {
        true => Err(Refusal::Unreadable(format!(
            "it contains more than {MAX_SIGNATURES} signatures"
        ))),
        false => Ok(()),
    }
}

/// A signature that may be verified: the signer, the key and the algorithms.
struct Candidate<'a> {
    signer: Signer,
    key: SigningKey,
    config: &'a SignatureConfig,
    signature: &'a Signature,
}

/// Finds the key, and refuses signatures that are never accepted.
fn candidate<'a>(
    signature: &'a Signature,
    certificates: &[Certificate],
    now: Now,
) -> Result<Candidate<'a>, Refusal> {
    let Some(config) = signature.config() else {
        return Err(Refusal::Unreadable("its version is unknown".to_owned()));
    };
    let issuer = certificates
        .iter()
        .find_map(|certificate| Some((certificate, certificate.issuer_of(signature)?)));
    let Some((certificate, key)) = issuer else {
        return Err(unknown(signature));
    };
    let signer = certificate.signer(now);
    if let Err(why) = certificate.check(&key, now) {
        return Err(Refusal::KeyUnusable { signer, why });
    }
    match check_signature(signature, config, now) {
        Err(why) => Err(Refusal::SignatureUnusable { signer, why }),
        Ok(()) => Ok(Candidate {
            signer,
            key,
            config,
            signature,
        }),
    }
}

fn unknown(signature: &Signature) -> Refusal {
    let fingerprint = signature
        .issuer_fingerprint()
        .first()
        .map(|found| shown(found));
    let id = || {
        signature
            .issuer_key_id()
            .first()
            .map(|id| id.to_string().to_uppercase())
    };
    match fingerprint.or_else(id) {
        Some(key) => Refusal::UnknownKey(key),
        None => Refusal::Unreadable("it does not say which key made it".to_owned()),
    }
}

/// Fails if a signature is not accepted, whoever made it. The reason is part of a sentence.
fn check_signature(
    signature: &Signature,
    config: &SignatureConfig,
    now: Now,
) -> Result<(), String> {
    if !matches!(config.typ(), SignatureType::Binary | SignatureType::Text) {
        return Err("is not a signature over a document".to_owned());
    }
    let is_strong = matches!(
        config.hash_alg,
        HashAlgorithm::Sha256
            | HashAlgorithm::Sha384
            | HashAlgorithm::Sha512
            | HashAlgorithm::Sha3_256
            | HashAlgorithm::Sha3_512
    );
    if !is_strong {
        return Err(format!(
            "is made with {}, which is too weak: sign again with SHA-256 or better",
            config.hash_alg
        ));
    }
    if !matches!(
        config.version_specific,
        SignatureVersionSpecific::V4 | SignatureVersionSpecific::V6 { .. }
    ) {
        return Err("has an unsupported version".to_owned());
    }
    let Some(created) = signature
        .created()
        .map(|created| u64::from(created.as_secs()))
    else {
        return Err("does not say when it was made".to_owned());
    };
    if now.is_before(created) {
        return Err(format!(
            "was made on {}: that is in the future, or this host's clock is wrong",
            date(created)
        ));
    }
    match signature
        .signature_expiration_time()
        .map(|valid| u64::from(valid.as_secs()))
    {
        Some(valid) if valid > 0 && now.is_after(created, valid) => {
            return Err(format!(
                "expired on {}",
                date(created.saturating_add(valid))
            ));
        }
        _ => {}
    }
    let is_notation = |data: &SubpacketData| matches!(data, SubpacketData::Notation(_));
    let mut subpackets = config.hashed_subpackets();
    if subpackets.any(|subpacket| subpacket.is_critical && is_notation(&subpacket.data)) {
        return Err("contains an unknown critical notation".to_owned());
    }
    Ok(())
}

impl Candidate<'_> {
    fn verify(self, data: &[u8]) -> Result<Signer, Refusal> {
        match self.key.has_signed(self.signature, data) {
            true => Ok(self.signer),
            false => Err(Refusal::Mismatch(self.signer)),
        }
    }

    /// Like the library's `Signature::verify`, which needs a reader (RFC 9580, section 5.2.4).
    fn begin(self) -> Result<Stream, Refusal> {
        let Self {
            signer,
            key,
            config,
            signature,
        } = self;
        let unusable = |why: &str| Refusal::SignatureUnusable {
            signer: signer.clone(),
            why: why.to_owned(),
        };
        if config.typ() == SignatureType::Text {
            let why = "is a signature over a text, which an image is not: sign it with gpg \
                --detach-sign";
            return Err(unusable(why));
        }
        let hasher = config.hash_alg.new_hasher();
        let mut hasher = hasher.map_err(|_| unusable("is made with an unknown hash"))?;
        if let SignatureVersionSpecific::V6 { salt } = &config.version_specific {
            if config.hash_alg.salt_len() != Some(salt.len()) {
                return Err(unusable("has a salt with the wrong length for its hash"));
            }
            hasher.update(salt);
        }
        let is_v6 = matches!(config.version_specific, SignatureVersionSpecific::V6 { .. });
        if is_v6 != key.is_v6() {
            return Err(unusable("has a different version than its key"));
        }
        let (Some(begins), Some(bytes)) = (signature.signed_hash_value(), signature.signature())
        else {
            return Err(unusable("has an unknown version"));
        };
        let (config, bytes) = (config.clone(), bytes.clone());
        Ok(Stream {
            signer,
            hasher,
            finish: Box::new(move |mut hasher| {
                let trailer = config
                    .hash_signature_data(&mut hasher)
                    .and_then(|length| config.trailer(length));
                let Ok(trailer) = trailer else {
                    return false;
                };
                hasher.update(&trailer);
                let hash = hasher.finalize();
                hash.starts_with(&begins) && key.has_signed_hash(config.hash_alg, &hash, &bytes)
            }),
        })
    }
}

pub(crate) fn verify(
    file: &[u8],
    data: &[u8],
    certificates: &[Certificate],
    now: Now,
) -> Result<Signer, Refusal> {
    let signatures = read(file)?;
    decide(
        signatures
            .iter()
            .map(|signature| candidate(signature, certificates, now)?.verify(data)),
    )
}

/// All signatures that claim to be made with usable keys; the first refusal if there are none.
pub(crate) fn begin(
    file: &[u8],
    certificates: &[Certificate],
    now: Now,
) -> Result<Vec<Stream>, Refusal> {
    let (mut streams, mut refused) = (Vec::new(), None);
    for signature in &read(file)? {
        match candidate(signature, certificates, now).and_then(Candidate::begin) {
            Ok(stream) => streams.push(stream),
            Err(refusal) => _ = refused.get_or_insert(refusal),
        }
    }
    match (streams.is_empty(), refused) {
        (true, Some(refusal)) => Err(refusal),
        _ => Ok(streams),
    }
}

fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(UTF8_MARK).unwrap_or(text)
}

pub(crate) fn is_cleartext(text: &[u8]) -> bool {
    without_mark(text)
        .trim_ascii_start()
        .starts_with(CLEARTEXT_BEGIN)
}

pub(crate) fn verify_cleartext(
    text: &[u8],
    certificates: &[Certificate],
    now: Now,
) -> Result<(String, Signer), Refusal> {
    let text = without_mark(text).trim_ascii_start();
    let read = CleartextSignedMessage::from_armor_buf(text, pgp::armor::DearmorOptions::default());
    let (message, _) = read.map_err(|error| unreadable(&error))?;
    check_number(message.signatures())?;
    let signed = message.signed_text();
    let signer = decide(
        message
            .signatures()
            .iter()
            .map(|signature| candidate(signature, certificates, now)?.verify(signed.as_bytes())),
    )?;
    Ok((signed, signer))
}
