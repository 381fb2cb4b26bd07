//! What an image's bytes must be: who says so, and whether they are.

use std::io;

use lvp_api::Sha256Digest;

use super::Steps;
use super::image::cached;
use crate::access::audit;
use crate::cache::{self, Pin};
use crate::job::error::JobError;
use crate::job::kind::JobErrorKind;
use crate::source::Checksums;
use crate::threads::blocking;
use crate::transfer::{Digests, Hashers, Wanted};

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
        for ignored in &checksums.ignored {
            self.live.note(format!(
                "Left aside, as another signature counts: {ignored}"
            ));
        }
        Ok(checksums)
    }

    /// What is to be taken of the image's bytes, whoever hands them over.
    pub(super) fn wanted(&self, checksums: &Checksums) -> Result<Wanted, JobError> {
        Ok(Wanted {
            sha512: checksums.sha512.is_some(),
            signatures: checksums.pending()?,
        })
    }

    /// Fails unless what came is what should have come; shows who has signed it.
    pub(super) fn compare(&self, checksums: &Checksums, found: Digests) -> Result<(), JobError> {
        if let Some(differs) = checksums.mismatch(&found.sha256, found.sha512.as_ref()) {
            return Err(JobError::new(
                JobErrorKind::DigestMismatch,
                format!(
                    "{differs}: nothing was kept; upload the image again, or correct the checksum"
                ),
            ));
        }
        let Some(signer) = checksums.signed_by(found.signatures)? else {
            return Ok(());
        };
        if self.live.job().signer.as_ref() != Some(&signer) {
            audit::image_signed(self.live.id, &self.location.to_string(), &signer);
            self.live.update(|job| job.signer = Some(signer));
        }
        Ok(())
    }

    /// The same for an image of which nothing beyond its SHA-256 has to be compared.
    pub(super) fn compare_known(
        &self,
        sha256: Sha256Digest,
        checksums: &Checksums,
    ) -> Result<(), JobError> {
        let found = Digests {
            sha256,
            sha512: None,
            signatures: Vec::new(),
        };
        self.compare(checksums, found)
    }

    /// Fails unless a cached image is what it must be beyond its SHA-256, by which alone the cache knows it.
    pub(super) async fn expect_announced(
        &self,
        pin: &Pin,
        checksums: &Checksums,
    ) -> Result<(), JobError> {
        let wanted = self.wanted(checksums)?;
        if wanted.is_empty() {
            // What is known of it was compared when it was looked up.
            return self.compare_known(pin.digest(), checksums);
        }
        let failed = |error| cached(pin, "cannot be read").because(error);
        let file = pin.file().try_clone().map_err(failed)?;
        let hashing = blocking(move || {
            let mut hashers = Hashers::new(wanted);
            cache::each_block(&file, |block| hashers.update(block))?;
            Ok::<_, io::Error>(hashers.finish())
        });
        let found = self.until_stopped(hashing).await??.map_err(failed)?;
        self.compare(checksums, found)
    }
}
