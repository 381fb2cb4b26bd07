//! What an image's bytes must be: the request's digest, and those of the checksum files beside it.
//!
//! All files are asked for at once, so that they cost one round trip. Those that are there have to
//! agree: an image of which two say different things is refused, as nobody knows which is right.

use futures::future::join_all;
use lvp_api::{Checksum, Sha256Digest, Sha512Digest, Verified};

use super::error::{Result, SourceError, SourceErrorKind};
use super::sums::{self, Algorithm, Found, Scope};
use super::url::ImageUrl;
use super::{Source, url::Sibling};

/// Longest checksum file of one image that is read: `sha256sum` of a few hundred files.
const MAX_IMAGE_BYTES: usize = 64 << 10; // 64 KiB

/// Longest of a directory: some ten thousand files.
const MAX_DIRECTORY_BYTES: usize = 1 << 20; // 1 MiB

/// The files that are looked for.
const FILES: [(Sibling, Algorithm); 7] = [
    (Sibling::Suffix(".sha256"), Algorithm::Sha256),
    (Sibling::Suffix(".SHA256"), Algorithm::Sha256),
    (Sibling::Suffix(".sha256sum"), Algorithm::Sha256),
    (Sibling::Suffix(".sha512"), Algorithm::Sha512),
    (Sibling::Beside("SHA256SUMS"), Algorithm::Sha256),
    (Sibling::Beside("SHA512SUMS"), Algorithm::Sha512),
    (Sibling::Beside("CHECKSUM"), Algorithm::Either),
];

/// Whether a key is one of a checksum file.
pub fn is_checksum_file(key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or_default();
    FILES.iter().any(|(sibling, _)| match sibling {
        Sibling::Suffix(suffix) => name.ends_with(suffix),
        Sibling::Beside(beside) => name == *beside,
    })
}

/// The keys that a checksum file of this object's own may have.
pub fn own_checksum_files(key: &str) -> impl Iterator<Item = String> {
    FILES.iter().filter_map(move |(sibling, _)| match sibling {
        Sibling::Suffix(suffix) => Some(format!("{key}{suffix}")),
        Sibling::Beside(_) => None,
    })
}

/// A digest that somebody announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced<D> {
    /// The digest.
    pub digest: D,
    /// Who says so, as part of a sentence: `its .sha256 object`.
    pub by: String,
    verified: Verified,
}

/// What an image's bytes must be, as far as anybody says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checksums {
    /// Its SHA-256.
    pub sha256: Option<Announced<Sha256Digest>>,
    /// Its SHA-512.
    pub sha512: Option<Announced<Sha512Digest>>,
}

impl Checksums {
    /// What a request says.
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

    /// Whether nobody says anything.
    pub fn is_empty(&self) -> bool {
        self.sha256.is_none() && self.sha512.is_none()
    }

    /// The best that the image is verified against.
    pub fn verified(&self) -> Verified {
        let sha256 = self.sha256.as_ref().map(|announced| announced.verified);
        let sha512 = self.sha512.as_ref().map(|announced| announced.verified);
        let rank = |verified: &Verified| Verified::ALL.iter().position(|one| one == verified);
        [sha256, sha512]
            .into_iter()
            .flatten()
            .min_by_key(rank)
            .unwrap_or(Verified::None)
    }

    fn add(&mut self, found: Found, by: &str, verified: Verified, url: &ImageUrl) -> Result<()> {
        agree(&mut self.sha256, found.sha256, by, verified, url)?;
        agree(&mut self.sha512, found.sha512, by, verified, url)
    }
}

/// Takes a digest over, which has to be the one that was announced before.
fn agree<D: PartialEq + std::fmt::Display>(
    known: &mut Option<Announced<D>>,
    found: Option<D>,
    by: &str,
    verified: Verified,
    url: &ImageUrl,
) -> Result<()> {
    let Some(digest) = found else {
        return Ok(());
    };
    match known {
        Some(known) if known.digest != digest => Err(SourceError::new(
            SourceErrorKind::SidecarInvalid,
            format!(
                "The checksums of {url} disagree: {} says {}, {by} says {digest}; correct the wrong one",
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
    /// Reads the checksum files beside an object; nothing for those of which the server says that they
    /// are not there.
    ///
    /// S3 answers 403 for a missing object when the credentials may not list its bucket. That is an
    /// error here unless a digest is known from elsewhere: otherwise a policy's slip would silently turn
    /// verification off. A URL with a query (pre-signed) covers one object only, and has no such files.
    pub async fn checksums(
        &self,
        url: &ImageUrl,
        requested: Option<Checksum>,
    ) -> Result<Checksums> {
        let mut checksums = Checksums::of_request(requested);
        let files = FILES.iter().filter_map(|(sibling, algorithm)| {
            let file = url.sibling(*sibling)?;
            Some(async move { (*sibling, self.found(url, &file, *sibling, *algorithm).await) })
        });
        let mut unseen = None;
        for (sibling, found) in join_all(files).await {
            let (by, verified) = match sibling {
                Sibling::Suffix(suffix) => (format!("its {suffix} object"), Verified::Sidecar),
                Sibling::Beside(name) => (format!("its directory's {name}"), Verified::Sums),
            };
            match found {
                Ok(found) => checksums.add(found, &by, verified, url)?,
                Err(error) if is_out_of_sight(&error) => {
                    unseen.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match unseen {
            Some(error) if checksums.is_empty() => Err(error),
            _ => Ok(checksums),
        }
    }

    /// What one file says; nothing when it is not there.
    async fn found(
        &self,
        url: &ImageUrl,
        file: &ImageUrl,
        sibling: Sibling,
        algorithm: Algorithm,
    ) -> Result<Found> {
        let (scope, max_bytes) = match sibling {
            Sibling::Suffix(_) => (Scope::Image, MAX_IMAGE_BYTES),
            Sibling::Beside(_) => (Scope::Directory, MAX_DIRECTORY_BYTES),
        };
        let mut budget = self.budget();
        let text = loop {
            let location = self.inner.locate(file)?;
            let too_long = || {
                let found = format!("it is larger than {} KiB", max_bytes >> 10);
                invalid(file, &found)
            };
            match self.inner.read_small(location, max_bytes, too_long).await {
                Ok(text) => break text,
                Err(failure) => match budget.pause(failure).await {
                    Err(error) if error.kind() == SourceErrorKind::NotFound => {
                        return Ok(Found::default());
                    }
                    result => result?,
                },
            }
        };
        sums::parse(&text, &url.base_name(), algorithm, scope)
            .map_err(|found| invalid(file, &found))
    }
}

/// Whether a file may be there, and may not be looked at.
fn is_out_of_sight(error: &SourceError) -> bool {
    matches!(
        error.kind(),
        SourceErrorKind::AccessDenied | SourceErrorKind::HostNotAllowed
    )
}

fn invalid(file: &ImageUrl, found: &str) -> SourceError {
    SourceError::new(
        SourceErrorKind::SidecarInvalid,
        format!("The checksum file {file} holds no digest of the image: {found}"),
    )
}
