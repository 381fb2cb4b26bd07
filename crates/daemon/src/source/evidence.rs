//! Evaluates the checksum files and signatures beside an image.
//!
//! Nothing is fetched here: files come as bytes, from a server or from a disk. If signatures are used, a
//! checksum file counts by its signature, and only its lines with the image's name are about the image. The
//! image's own signatures are verified against its bytes when these arrive.
//!
//! One good signature by a trusted key is enough. Other signatures are then only noted, unless one shows that
//! the bytes are not what a trusted key signed. Without a good one, the first bad one is the reason why the
//! image is refused.

use std::sync::Arc;

use lvp_api::{Checksum, SignatureFormat, Signer, Verified};
use lvp_trust::{Keys, Now, Pending, Refusal};

use super::checksums::Checksums;
use super::error::{Result, SourceError, SourceErrorKind};
use super::sums::{self, Algorithm, Found, Scope};
use super::url::Sibling;
use crate::config::SignaturePolicy;

/// Suffixes of files with signatures, of images and of checksum files.
pub(super) const SIGNATURES: [&str; 5] = [".minisig", ".asc", ".sig", ".gpg", ".sign"];

/// A file with signatures.
#[derive(Debug)]
pub struct SignatureFile {
    /// Its name in messages.
    pub shown: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// A checksum file, and its signatures.
#[derive(Debug)]
pub struct SumsFile {
    /// Whose digests it holds.
    pub sibling: Sibling,
    /// Which digests it may hold.
    pub(super) algorithm: Algorithm,
    /// Its name in messages.
    pub shown: String,
    /// Its content.
    pub bytes: Vec<u8>,
    /// Signatures over it.
    pub signatures: Vec<SignatureFile>,
}

/// Everything beside an image.
#[derive(Debug, Default)]
pub struct Beside {
    /// Its checksum files.
    pub sums: Vec<SumsFile>,
    /// Signatures over the image itself.
    pub signatures: Vec<SignatureFile>,
}

/// What is required of an image's signatures.
#[derive(Debug, Clone)]
pub struct Demand {
    /// Whether there must be one.
    pub policy: SignaturePolicy,
    /// The trusted keys.
    pub keys: Arc<Keys>,
    /// The time by which keys and signatures are judged.
    pub now: Now,
}

/// A signature over the image itself, to be verified against its bytes.
#[derive(Debug, Clone)]
pub struct ImageSignature {
    shown: String,
    bytes: Arc<[u8]>,
    demand: Demand,
}

impl ImageSignature {
    /// Begins to hash the image's bytes.
    pub fn begin(&self) -> Result<Pending> {
        lvp_trust::begin(&self.bytes, &self.demand.keys, self.demand.now)
            .map_err(|refusal| self.refused(&refusal))
    }

    /// The error for a refusal.
    pub fn refused(&self, refusal: &Refusal) -> SourceError {
        refused(&self.shown, refusal)
    }
}

/// Evaluates all files together. `base_name` is the image's name in the files, `image` its name in messages.
pub fn judge(
    beside: Beside,
    demand: &Demand,
    requested: Option<Checksum>,
    base_name: &str,
    image: &str,
) -> Result<Checksums> {
    let mut judged = Judged {
        checksums: Checksums::of_request(requested),
        refused: None,
        elsewhere: None,
    };
    for sums in beside.sums {
        judged.add_sums(&sums, demand, base_name, image)?;
    }
    for file in beside.signatures {
        judged.add_signature(file, demand)?;
    }
    judged.decide(demand.policy, image)
}

struct Judged {
    checksums: Checksums,
    /// The first signature that is not valid.
    refused: Option<SourceError>,
    /// A signed file that does not name the image.
    elsewhere: Option<String>,
}

impl Judged {
    fn add_sums(
        &mut self,
        sums: &SumsFile,
        demand: &Demand,
        base_name: &str,
        image: &str,
    ) -> Result<()> {
        let (by, verified) = said_by(sums.sibling);
        if demand.policy != SignaturePolicy::Off
            && let Some((signed, signer)) = self.signed(sums, demand)?
        {
            let found = sums::parse(&signed, base_name, sums.algorithm, Scope::Signed)
                .map_err(|why| misnamed(&sums.shown, &why))?;
            let is_own = matches!(sums.sibling, Sibling::Suffix(_));
            return match found == Found::default() {
                true if is_own => Err(misnamed(
                    &sums.shown,
                    &format!("it is signed, and none of its lines names {base_name:?}"),
                )),
                true => {
                    self.elsewhere = Some(format!("{} is signed by {signer}", sums.shown));
                    Ok(())
                }
                false => {
                    self.checksums.signer.get_or_insert(signer);
                    self.checksums.add(found, &by, Verified::Signature, image)
                }
            };
        }
        let scope = match sums.sibling {
            Sibling::Suffix(_) => Scope::Image,
            Sibling::Beside(_) => Scope::Directory,
        };
        let found = sums::parse(&sums.bytes, base_name, sums.algorithm, scope)
            .map_err(|why| no_digest(&sums.shown, &why))?;
        self.checksums.add(found, &by, verified, image)
    }

    /// The part of a checksum file that is signed by a trusted key, and the signer.
    fn signed(&mut self, sums: &SumsFile, demand: &Demand) -> Result<Option<(Vec<u8>, Signer)>> {
        let mut good = None;
        let mut add =
            |judged: &mut Self, shown: &str, verified: std::result::Result<_, Refusal>| {
                match verified {
                    Ok(signed) => _ = good.get_or_insert(signed),
                    Err(refusal) if refusal.is_mismatch() => return Err(refused(shown, &refusal)),
                    Err(refusal) => judged.refuse(refused(shown, &refusal)),
                }
                Ok(())
            };
        for file in &sums.signatures {
            let verified = lvp_trust::verify(&file.bytes, &sums.bytes, &demand.keys, demand.now);
            let verified = verified.map(|signer| (sums.bytes.clone(), api(signer)));
            add(self, &file.shown, verified)?;
        }
        if lvp_trust::is_cleartext(&sums.bytes) {
            let verified = lvp_trust::verify_cleartext(&sums.bytes, &demand.keys, demand.now);
            let verified = verified.map(|(text, signer)| (text.into_bytes(), api(signer)));
            add(self, &sums.shown, verified)?;
        }
        Ok(good)
    }

    fn add_signature(&mut self, file: SignatureFile, demand: &Demand) -> Result<()> {
        let signature = ImageSignature {
            shown: file.shown,
            bytes: file.bytes.into(),
            demand: demand.clone(),
        };
        match lvp_trust::begin(&signature.bytes, &demand.keys, demand.now) {
            Ok(_) => self.checksums.signatures.push(signature),
            // The signature of minisign's comment is verified at once.
            Err(refusal) if refusal.is_mismatch() => return Err(signature.refused(&refusal)),
            Err(refusal) => self.refuse(signature.refused(&refusal)),
        }
        Ok(())
    }

    fn refuse(&mut self, error: SourceError) {
        self.checksums.ignored.push(error.to_string());
        self.refused.get_or_insert(error);
    }

    fn decide(self, policy: SignaturePolicy, image: &str) -> Result<Checksums> {
        if self.checksums.is_signed() {
            return Ok(self.checksums);
        }
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        if policy == SignaturePolicy::Required {
            let elsewhere = self.elsewhere.map_or_else(String::new, |signed| {
                format!(" ({signed}, and does not name it)")
            });
            return Err(missing(&format!(
                "{image} has no signature, and trust.rules requires one{elsewhere}: sign the \
                 image, or a checksum file that names it, and upload the signature beside it"
            )));
        }
        Ok(self.checksums)
    }
}

/// How messages name a checksum file, and what an image is then verified against.
fn said_by(sibling: Sibling) -> (String, Verified) {
    match sibling {
        Sibling::Suffix(suffix) => (format!("its {suffix} object"), Verified::Sidecar),
        Sibling::Beside(name) => (format!("its directory's {name}"), Verified::Sums),
    }
}

/// A key as jobs show it.
pub fn api(signer: lvp_trust::Signer) -> Signer {
    Signer {
        format: match signer.format {
            lvp_trust::Format::OpenPgp => SignatureFormat::OpenPgp,
            lvp_trust::Format::Minisign => SignatureFormat::Minisign,
        },
        fingerprint: signer.fingerprint,
        name: signer.name,
    }
}

pub(super) fn missing(context: &str) -> SourceError {
    SourceError::new(SourceErrorKind::SignatureMissing, context)
}

fn refused(shown: &str, refusal: &Refusal) -> SourceError {
    SourceError::new(
        SourceErrorKind::SignatureRefused,
        format!("The signature {shown} is not accepted: {refusal}"),
    )
}

fn misnamed(shown: &str, why: &str) -> SourceError {
    SourceError::new(
        SourceErrorKind::SignatureRefused,
        format!("The signed checksum file {shown} is not accepted: {why}"),
    )
}

pub(super) fn no_digest(shown: &str, found: &str) -> SourceError {
    SourceError::new(
        SourceErrorKind::SidecarInvalid,
        format!("The checksum file {shown} has no digest of the image: {found}"),
    )
}
