//! How an order is signed: in an envelope of DSSE (<https://github.com/secure-systems-lab/dsse>), version 1.
//!
//! What is signed is the payload's bytes as they travel, after their type and both lengths ("pre-authentication
//! encoding"). So nobody has to write an order in a canonical form a second time: a form of JSON that two programs have to
//! agree on (RFC 8785) has numbers, escapes and an order of names to disagree about, and is parsed before it is known to
//! be genuine. Here a host verifies bytes, and parses only what a trusted key has signed.
//!
//! One order has one text nevertheless ([`Order`] is written field by field in a fixed sequence), so that the same order
//! signed by the same key is the same message.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::names::OrderId;
use crate::order::{Order, OrderError};

/// What the payload is. Another version of the form has another type.
pub const PAYLOAD_TYPE: &str = "application/vnd.libvirt-volume-provisioner.order.v1+json";

/// Largest message: an order with [`VOLUMES_MAX`](crate::order::VOLUMES_MAX) volumes is smaller, and NATS allows 1 MiB.
pub const MESSAGE_MAX: usize = 512 << 10; // 512 KiB

/// Most signatures in one envelope.
const SIGNATURES_MAX: usize = 8;

/// What a file with a secret key begins with.
const SECRET_PREFIX: &str = "lvp-fleet-secret-key:";

/// Why a message is no order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// It is too large.
    #[error("the message has {0} bytes: an order has at most {MESSAGE_MAX}")]
    TooLarge(usize),
    /// It is no envelope.
    #[error("the message is not a signed envelope: {0}")]
    Unreadable(String),
    /// No signature is by a key that is trusted here.
    #[error("the order is signed by {0}, and fleet.trust has no such key")]
    UnknownKey(String),
    /// A signature that claims to be by a trusted key is wrong.
    #[error("the signature is not by {0}: the order was changed or forged")]
    BadSignature(String),
    /// It is genuine, and in a form that this version does not know.
    #[error("the order is of a form that this version does not know: {why}")]
    Unsupported {
        /// What it is called, if it says so.
        named: Option<(OrderId, u64)>,
        /// What is not known.
        why: String,
    },
    /// It is genuine, and breaks a rule.
    #[error("the order cannot be followed: {error}")]
    Invalid {
        /// What it is called.
        id: OrderId,
        /// Its revision.
        revision: u64,
        /// The rule.
        error: OrderError,
    },
}

impl EnvelopeError {
    /// The word for it, for metrics and logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::TooLarge(_) | Self::Unreadable(_) => "unreadable",
            Self::UnknownKey(_) => "unknown_key",
            Self::BadSignature(_) => "bad_signature",
            Self::Unsupported { .. } => "unsupported",
            Self::Invalid { .. } => "invalid",
        }
    }
}

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A trusted key is not in its form.
    #[error(
        "{0:?} is not NAME=KEY with the 64 hex digits that `lvpctl fleet keygen` printed as the key"
    )]
    Form(String),
    /// A point that anybody can sign for.
    #[error("the key of {0} is weak: make another by `lvpctl fleet keygen`")]
    Weak(String),
    /// Not a secret key's file.
    #[error("this is not a secret key that `lvpctl fleet keygen` wrote")]
    Secret,
}

/// A signed message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Envelope {
    payload_type: String,
    payload: String,
    signatures: Vec<Signed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    keyid: String,
    sig: String,
}

/// An order that a trusted key has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedOrder {
    /// The order.
    pub order: Order,
    /// Its bytes as they were signed.
    pub payload: Vec<u8>,
    /// The name of the key in `fleet.trust`.
    pub signer: String,
    /// The key's id.
    pub key_id: String,
}

/// A key that signs orders.
pub struct IssuerKey(SigningKey);

impl std::fmt::Debug for IssuerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("IssuerKey").field(&self.public()).finish()
    }
}

impl IssuerKey {
    /// A key from 32 random bytes.
    pub fn new(random: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(random))
    }

    /// The key in a file's text.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let hex = text.trim().strip_prefix(SECRET_PREFIX);
        let bytes = hex.and_then(from_hex).ok_or(KeyError::Secret)?;
        Ok(Self::new(&bytes))
    }

    /// The text of its file.
    pub fn secret_text(&self) -> String {
        format!("{SECRET_PREFIX}{}\n", to_hex(&self.0.to_bytes()))
    }

    /// The public key, as `fleet.trust` takes it.
    pub fn public(&self) -> String {
        to_hex(self.0.verifying_key().as_bytes())
    }

    /// Signs an order; what is returned is the message.
    pub fn sign(&self, order: &Order) -> Result<Vec<u8>, OrderError> {
        order.check()?;
        Ok(self.sign_bytes(PAYLOAD_TYPE, &payload(order)))
    }

    /// Signs a payload of any type, as later releases may have others.
    pub fn sign_bytes(&self, payload_type: &str, payload: &[u8]) -> Vec<u8> {
        let signature = self.0.sign(&signed_bytes(payload_type, payload));
        let envelope = Envelope {
            payload_type: payload_type.to_owned(),
            payload: BASE64.encode(payload),
            signatures: vec![Signed {
                keyid: key_id(&self.0.verifying_key()),
                sig: BASE64.encode(signature.to_bytes()),
            }],
        };
        // Texts in a struct can always be written.
        serde_json::to_vec(&envelope).unwrap_or_default()
    }
}

/// The keys whose orders are followed.
#[derive(Debug, Clone, Default)]
pub struct Trusted(Vec<(String, VerifyingKey)>);

impl Trusted {
    /// Of entries `NAME=KEY`.
    pub fn parse<T: AsRef<str>>(entries: &[T]) -> Result<Self, KeyError> {
        let one = |entry: &T| {
            let entry = entry.as_ref();
            let wrong = || KeyError::Form(entry.chars().take(120).collect());
            let (name, hex) = entry.split_once('=').ok_or_else(wrong)?;
            let bytes = from_hex(hex.trim()).ok_or_else(wrong)?;
            let name = name.trim();
            if name.is_empty() || name.chars().any(char::is_control) {
                return Err(wrong());
            }
            match VerifyingKey::from_bytes(&bytes) {
                Ok(key) if key.is_weak() => Err(KeyError::Weak(name.to_owned())),
                Ok(key) => Ok((name.to_owned(), key)),
                Err(_) => Err(wrong()),
            }
        };
        entries.iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// Whether no key is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The order in a message, if a trusted key signed it.
    pub fn verify(&self, message: &[u8]) -> Result<VerifiedOrder, EnvelopeError> {
        if message.len() > MESSAGE_MAX {
            return Err(EnvelopeError::TooLarge(message.len()));
        }
        let unreadable = |why: &str| EnvelopeError::Unreadable(why.to_owned());
        let envelope: Envelope = serde_json::from_slice(message)
            .map_err(|error| EnvelopeError::Unreadable(error.to_string()))?;
        if !(1..=SIGNATURES_MAX).contains(&envelope.signatures.len()) {
            return Err(unreadable("it has no signature, or too many"));
        }
        let payload = BASE64.decode(&envelope.payload);
        let payload = payload.map_err(|_| unreadable("its payload is not base64"))?;
        let bytes = signed_bytes(&envelope.payload_type, &payload);
        let (signer, key) = self.signer(&envelope, &bytes)?;
        let order = genuine(&envelope.payload_type, &payload)?;
        Ok(VerifiedOrder {
            order,
            payload,
            signer,
            key_id: key_id(key),
        })
    }

    /// Who signed. A wrong signature under a trusted key's id counts against the message, whoever else signed it.
    fn signer(
        &self,
        envelope: &Envelope,
        bytes: &[u8],
    ) -> Result<(String, &VerifyingKey), EnvelopeError> {
        let mut found = None;
        for signed in &envelope.signatures {
            let known = self.0.iter().find(|(_, key)| key_id(key) == signed.keyid);
            let Some((name, key)) = known else {
                continue;
            };
            let signature = BASE64.decode(&signed.sig).ok();
            let signature = signature.and_then(|bytes| Signature::from_slice(&bytes).ok());
            let is_good =
                signature.is_some_and(|signature| key.verify_strict(bytes, &signature).is_ok());
            match is_good {
                true => found = found.or(Some((name.clone(), key))),
                false => return Err(EnvelopeError::BadSignature(name.clone())),
            }
        }
        found.ok_or_else(|| {
            let ids = envelope
                .signatures
                .iter()
                .map(|signed| signed.keyid.as_str());
            let shown: String = ids.collect::<Vec<_>>().join(", ");
            EnvelopeError::UnknownKey(shown.chars().filter(|c| !c.is_control()).take(80).collect())
        })
    }
}

/// An order that was stored after it had been verified.
pub fn stored(payload: &[u8]) -> Result<Order, EnvelopeError> {
    genuine(PAYLOAD_TYPE, payload)
}

/// The order in a message, whoever signed it or did not: to be shown, or to be replaced, but never to be followed.
pub fn unverified(message: &[u8]) -> Option<Order> {
    let envelope: Envelope = serde_json::from_slice(message).ok()?;
    let payload = BASE64.decode(&envelope.payload).ok()?;
    genuine(&envelope.payload_type, &payload).ok()
}

/// Reads a payload that is known to be genuine.
fn genuine(payload_type: &str, payload: &[u8]) -> Result<Order, EnvelopeError> {
    #[derive(Deserialize)]
    struct Named {
        id: OrderId,
        revision: u64,
    }
    let unsupported = |why: String| {
        let named = serde_json::from_slice::<Named>(payload).ok();
        let named = named.map(|named| (named.id, named.revision));
        EnvelopeError::Unsupported { named, why }
    };
    if payload_type != PAYLOAD_TYPE {
        let shown: String = payload_type.chars().take(120).collect();
        return Err(unsupported(format!("its type is {shown:?}")));
    }
    let order: Order =
        serde_json::from_slice(payload).map_err(|error| unsupported(error.to_string()))?;
    match order.check() {
        Ok(()) => Ok(order),
        Err(error) => Err(EnvelopeError::Invalid {
            id: order.id,
            revision: order.revision,
            error,
        }),
    }
}

fn payload(order: &Order) -> Vec<u8> {
    // Numbers, texts and lists of them can always be written.
    serde_json::to_vec(order).unwrap_or_default()
}

/// DSSE's pre-authentication encoding.
fn signed_bytes(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let bytes = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    );
    let mut bytes = bytes.into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// A short name of a key, by which a verifier finds it. It proves nothing.
fn key_id(key: &VerifyingKey) -> String {
    to_hex(&key.as_bytes()[..8])
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    // A sign is a digit to from_str_radix.
    text.bytes().all(|c| c.is_ascii_hexdigit()).then_some(bytes)
}

#[cfg(test)]
mod tests;
