//! What an image's bytes must be: who says so, and whether they are.

use std::fmt::Display;

use lvp_api::{Sha256Digest, Sha512Digest};
use sha2::Sha512;

use super::Steps;
use super::image::cached;
use crate::cache::{self, Pin};
use crate::job::error::JobError;
use crate::job::kind::JobErrorKind;
use crate::source::Checksums;
use crate::threads::blocking;

impl Steps<'_> {
    /// What the request and the checksum files beside the object say.
    pub(super) async fn announced(&self) -> Result<Checksums, JobError> {
        let url = &self.location;
        let checksums = self.source.checksums(url, self.image.checksum);
        let checksums = self.until_stopped(checksums).await??;
        if checksums.is_empty() && self.services.settings.require_checksum {
            return Err(JobError::new(
                JobErrorKind::ChecksumMissing,
                format!(
                    "{url} has no {url}.sha256 object nor another checksum, and \
                     cache.require_checksum is on: upload one with the output of sha256sum, or send \
                     checksum with the request"
                ),
            ));
        }
        let verified = checksums.verified();
        if self.live.job().verified.is_none() {
            self.services.metrics.image_verified(verified);
            tracing::info!(
                component = "provisioner", verified = %verified,
                "Found out what the image is verified against"
            );
        }
        self.live.update(|job| job.verified = Some(verified));
        Ok(checksums)
    }

    /// Fails unless a cached image has the SHA-512 that it must have: the cache knows it by its SHA-256
    /// alone.
    pub(super) async fn expect_sha512(
        &self,
        pin: &Pin,
        checksums: &Checksums,
    ) -> Result<(), JobError> {
        let Some(expected) = &checksums.sha512 else {
            return Ok(());
        };
        let failed = |error| cached(pin, "cannot be read").because(error);
        let file = pin.file().try_clone().map_err(failed)?;
        let digest = self.until_stopped(blocking(move || cache::hashed::<Sha512>(&file)));
        let digest = Sha512Digest::new(digest.await??.map_err(failed)?.into());
        match digest == expected.digest {
            true => Ok(()),
            false => Err(mismatch("SHA-512", &digest, &expected.digest, &expected.by)),
        }
    }
}

/// Fails unless what came is what should have come.
pub(super) fn compare(
    checksums: &Checksums,
    sha256: &Sha256Digest,
    sha512: Option<&Sha512Digest>,
) -> Result<(), JobError> {
    if let Some(expected) = &checksums.sha256
        && expected.digest != *sha256
    {
        return Err(mismatch("SHA-256", sha256, &expected.digest, &expected.by));
    }
    if let (Some(expected), Some(sha512)) = (&checksums.sha512, sha512)
        && expected.digest != *sha512
    {
        return Err(mismatch("SHA-512", sha512, &expected.digest, &expected.by));
    }
    Ok(())
}

/// The image is not the one that was announced.
fn mismatch(algorithm: &str, found: &dyn Display, expected: &dyn Display, by: &str) -> JobError {
    JobError::new(
        JobErrorKind::DigestMismatch,
        format!(
            "The image's {algorithm} is {found}, {by} says {expected}: nothing was kept; upload the \
             image again, or correct the checksum"
        ),
    )
}
