//! The digests that an image must have: the request's, and those in checksum files beside the image.
//!
//! All files are requested at the same time, so that they cost one round trip. Those that exist have to agree:
//! an image with contradicting digests is refused, as it is unknown which one is right.

use futures::future::join_all;
use lvp_api::{Checksum, Sha256Digest, Sha512Digest, Signer, Verified};
use lvp_trust::Pending;

use super::error::{Result, SourceError, SourceErrorKind};
use super::evidence::{self, Beside, ImageSignature, SIGNATURES, SignatureFile, SumsFile};
use super::sums::{Algorithm, Found};
use super::url::ImageUrl;
use super::{Source, url::Sibling};
use crate::config::SignaturePolicy;
use crate::threads::{Crashed, blocking};

/// Longest checksum file of one image that is read: `sha256sum` of a few hundred files.
pub(super) const MAX_IMAGE_BYTES: usize = 64 << 10; // 64 KiB

/// Longest checksum file of a directory that is read: some ten thousand files.
pub(super) const MAX_DIRECTORY_BYTES: usize = 1 << 20; // 1 MiB

/// The files that are looked for.
pub(super) const FILES: [(Sibling, Algorithm); 7] = [
    (Sibling::Suffix(".sha256"), Algorithm::Sha256),
    (Sibling::Suffix(".SHA256"), Algorithm::Sha256),
    (Sibling::Suffix(".sha256sum"), Algorithm::Sha256),
    (Sibling::Suffix(".sha512"), Algorithm::Sha512),
    (Sibling::Beside("SHA256SUMS"), Algorithm::Sha256),
    (Sibling::Beside("SHA512SUMS"), Algorithm::Sha512),
    (Sibling::Beside("CHECKSUM"), Algorithm::Either),
];

/// Whether a key names a checksum file.
pub fn is_checksum_file(key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or_default();
    FILES.iter().any(|(sibling, _)| match sibling {
        Sibling::Suffix(suffix) => name.ends_with(suffix),
        Sibling::Beside(beside) => name == *beside,
    })
}

/// The keys under which checksum files of this object alone are looked for.
pub fn own_checksum_files(key: &str) -> impl Iterator<Item = String> {
    FILES.iter().filter_map(move |(sibling, _)| match sibling {
        Sibling::Suffix(suffix) => Some(format!("{key}{suffix}")),
        Sibling::Beside(_) => None,
    })
}

/// A digest that the image should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced<D> {
    /// The digest.
    pub digest: D,
    /// Where it comes from, as part of a sentence: `its .sha256 object`.
    pub by: String,
    verified: Verified,
}

/// The digests and signatures that an image should have.
#[derive(Debug, Clone, Default)]
pub struct Checksums {
    /// Its SHA-256.
    pub sha256: Option<Announced<Sha256Digest>>,
    /// Its SHA-512.
    pub sha512: Option<Announced<Sha512Digest>>,
    /// Signatures of the image itself, by keys that are trusted for it.
    pub signatures: Vec<ImageSignature>,
    /// Who signed one of the digests.
    pub signer: Option<Signer>,
    /// Signatures that are not valid, beside one that is.
    pub ignored: Vec<String>,
}

impl Checksums {
    /// The digest of a request.
    pub fn of_request(checksum: Option<Checksum>) -> Self {
        let by = || "the request's checksum".to_owned();
        let mut checksums = Self::default();
        match checksum {
            Some(Checksum::Sha256(digest)) => {
                checksums.sha256 = Some(Announced {
                    digest,
                    by: by(),
                    verified: Verified::Request,
                });
            }
            Some(Checksum::Sha512(digest)) => {
                checksums.sha512 = Some(Announced {
                    digest,
                    by: by(),
                    verified: Verified::Request,
                });
            }
            None => {}
        }
        checksums
    }

    /// Whether there are no digests and no signatures.
    pub fn is_empty(&self) -> bool {
        self.sha256.is_none() && self.sha512.is_none() && self.signatures.is_empty()
    }

    /// Whether a trusted key has signed the image, or one of its digests.
    pub fn is_signed(&self) -> bool {
        self.signer.is_some() || !self.signatures.is_empty()
    }

    /// How the image's digests differ from the expected ones, if they do.
    pub fn mismatch(&self, sha256: &Sha256Digest, sha512: Option<&Sha512Digest>) -> Option<String> {
        differs("SHA-256", self.sha256.as_ref(), Some(sha256))
            .or_else(|| differs("SHA-512", self.sha512.as_ref(), sha512))
    }

    /// Begins to verify the image's own signatures.
    pub fn pending(&self) -> Result<Vec<Pending>> {
        self.signatures.iter().map(ImageSignature::begin).collect()
    }

    /// Evaluates the results of the image's own signatures, in order; returns the signer.
    pub fn signed_by(
        &self,
        results: Vec<std::result::Result<lvp_trust::Signer, lvp_trust::Refusal>>,
    ) -> Result<Option<Signer>> {
        let mut signer = self.signer.clone();
        for (signature, result) in self.signatures.iter().zip(results) {
            match result {
                Ok(by) => _ = signer.get_or_insert(evidence::api(by)),
                Err(refusal) => return Err(signature.refused(&refusal)),
            }
        }
        Ok(signer)
    }

    /// The strongest evidence that the image is verified against.
    pub fn verified(&self) -> Verified {
        if self.is_signed() {
            return Verified::Signature;
        }
        let sha256 = self.sha256.as_ref().map(|announced| announced.verified);
        let sha512 = self.sha512.as_ref().map(|announced| announced.verified);
        let rank = |verified: &Verified| Verified::ALL.iter().position(|one| one == verified);
        [sha256, sha512]
            .into_iter()
            .flatten()
            .min_by_key(rank)
            .unwrap_or(Verified::None)
    }

    pub(super) fn add(
        &mut self,
        found: Found,
        by: &str,
        verified: Verified,
        image: &str,
    ) -> Result<()> {
        agree(&mut self.sha256, found.sha256, by, verified, image)?;
        agree(&mut self.sha512, found.sha512, by, verified, image)
    }
}

fn differs<D: PartialEq + std::fmt::Display>(
    algorithm: &str,
    expected: Option<&Announced<D>>,
    found: Option<&D>,
) -> Option<String> {
    let (expected, found) = (expected?, found?);
    (expected.digest != *found).then(|| {
        let Announced { digest, by, .. } = expected;
        format!("The image's {algorithm} is {found}, but {by} says {digest}")
    })
}

/// Adds a digest, which must be equal to the one that is known already.
fn agree<D: PartialEq + std::fmt::Display>(
    known: &mut Option<Announced<D>>,
    found: Option<D>,
    by: &str,
    verified: Verified,
    image: &str,
) -> Result<()> {
    let Some(digest) = found else {
        return Ok(());
    };
    match known {
        Some(known) if known.digest != digest => Err(SourceError::new(
            SourceErrorKind::SidecarInvalid,
            format!(
                "The checksums of {image} disagree: {} says {}, and {by} says {digest}; correct \
                 the wrong one",
                known.by, known.digest
            ),
        )),
        Some(_) => Ok(()),
        none => {
            *none = Some(Announced {
                digest,
                by: by.to_owned(),
                verified,
            });
            Ok(())
        }
    }
}

impl Source {
    /// Reads the checksum files and signatures beside an object. Files that the server reports as absent are
    /// skipped.
    ///
    /// S3 answers 403 for a missing object if the credentials may not list its bucket. That is an error unless
    /// a digest is known from elsewhere: otherwise, a mistake in a policy would silently disable verification.
    /// For signatures it is an error unless another one is valid. A URL with a query (pre-signed) covers one
    /// object only, and has no such files.
    pub async fn checksums(
        &self,
        url: &ImageUrl,
        requested: Option<Checksum>,
    ) -> Result<Checksums> {
        let (trust, name) = (self.inner.trust.clone(), url.trust_name());
        let demand = blocking(move || trust.demand(&name)).await;
        let demand = demand.map_err(crashed)??;
        let image = url.to_string();
        if demand.policy == SignaturePolicy::Required && !url.has_siblings() {
            return Err(evidence::missing(&format!(
                "{image} has a query, which covers this object only, so no signature can be read \
                 beside it, and trust.rules requires one: use an s3:// URL without a version"
            )));
        }
        let is_asked = demand.policy != SignaturePolicy::Off;
        let (gathered, unseen) = self.gather(url, is_asked).await?;
        let base_name = url.base_name();
        let judged =
            blocking(move || evidence::judge(gathered, &demand, requested, &base_name, &image));
        let judged = judged.await.map_err(crashed)?;
        let Unseen { sums, signature } = unseen;
        match judged {
            Ok(checksums) if is_asked && !checksums.is_signed() => {
                signature.or(sums).map_or(Ok(checksums), Err)
            }
            Ok(checksums) if checksums.is_empty() => sums.map_or(Ok(checksums), Err),
            Err(error) if error.kind() == SourceErrorKind::SignatureMissing => {
                Err(signature.or(sums).unwrap_or(error))
            }
            judged => judged,
        }
    }

    /// Fetches all files that exist.
    async fn gather(&self, url: &ImageUrl, with_signatures: bool) -> Result<(Beside, Unseen)> {
        let sums = FILES.iter().filter_map(|(sibling, algorithm)| {
            let file = url.sibling(*sibling)?;
            Some(async move {
                (
                    *sibling,
                    *algorithm,
                    self.small(&file, *sibling).await,
                    file,
                )
            })
        });
        let own = async {
            match with_signatures {
                true => self.signatures_of(url).await,
                false => Ok((Vec::new(), None)),
            }
        };
        let (sums, own) = futures::join!(join_all(sums), own);
        let (signatures, signature) = own?;
        let mut beside = Beside {
            sums: Vec::new(),
            signatures,
        };
        let mut unseen = Unseen {
            sums: None,
            signature,
        };
        for (sibling, algorithm, found, file) in sums {
            match found {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    let (signatures, signature) = match with_signatures {
                        true => self.signatures_of(&file).await?,
                        false => (Vec::new(), None),
                    };
                    if unseen.signature.is_none() {
                        unseen.signature = signature;
                    }
                    beside.sums.push(SumsFile {
                        sibling,
                        algorithm,
                        shown: file.to_string(),
                        bytes,
                        signatures,
                    });
                }
                Err(error) if is_out_of_sight(&error) => {
                    unseen.sums.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok((beside, unseen))
    }

    /// The signatures beside a file, and the error if one may exist but cannot be read.
    async fn signatures_of(
        &self,
        signed: &ImageUrl,
    ) -> Result<(Vec<SignatureFile>, Option<SourceError>)> {
        let files = SIGNATURES.iter().filter_map(|suffix| {
            let sibling = Sibling::Suffix(suffix);
            let file = signed.sibling(sibling)?;
            Some(async move { (self.small(&file, sibling).await, file) })
        });
        let (mut found, mut unseen) = (Vec::new(), None);
        for (result, file) in join_all(files).await {
            match result {
                Ok(None) => {}
                Ok(Some(bytes)) => found.push(SignatureFile {
                    shown: file.to_string(),
                    bytes,
                }),
                Err(error) if is_out_of_sight(&error) => _ = unseen.get_or_insert(error),
                Err(error) => return Err(error),
            }
        }
        Ok((found, unseen))
    }
}

/// Errors of files that may exist but cannot be read.
struct Unseen {
    sums: Option<SourceError>,
    signature: Option<SourceError>,
}

/// Whether a file may exist, but must not be read.
fn is_out_of_sight(error: &SourceError) -> bool {
    matches!(
        error.kind(),
        SourceErrorKind::AccessDenied | SourceErrorKind::HostNotAllowed
    )
}

fn crashed(error: Crashed) -> SourceError {
    SourceError::new(
        SourceErrorKind::SignatureRefused,
        "Evaluating the checksum files and signatures crashed; see the log",
    )
    .with_source(error)
}
