//! Which digests and signatures an image must have, and whether it has them.

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
    /// Shows what the image is verified against. Fails if that is nothing and has to be something.
    pub(super) fn expect_checksum(&self, checksums: &Checksums) -> Result<(), JobError> {
        let url = self.location()?;
        if checksums.is_empty() && self.services.settings.require_checksum {
            return Err(JobError::new(
                JobErrorKind::ChecksumMissing,
                format!(
                    "There is no {url}.sha256 and no other checksum, and cache.require_checksum \
                     is on: upload the output of sha256sum under this name, or send `checksum` \
                     with the request"
                ),
            ));
        }
        let verified = checksums.verified();
        if self.live.job().verified.is_none() {
            self.services.metrics.image_verified(verified);
            tracing::info!(
                component = "provisioner", verified = %verified,
                "Determined what the image is verified against"
            );
        }
        self.live.update(|job| job.verified = Some(verified));
        for ignored in &checksums.ignored {
            self.live.note(format!(
                "Ignored, because another signature is valid: {ignored}"
            ));
        }
        Ok(())
    }

    /// What has to be computed from the image's bytes, wherever they come from.
    pub(super) fn wanted(&self, checksums: &Checksums) -> Result<Wanted, JobError> {
        Ok(Wanted {
            sha512: checksums.sha512.is_some(),
            signatures: checksums.pending()?,
        })
    }

    /// Fails unless the image has its digests and signatures; records who has signed it.
    pub(super) fn compare(&self, checksums: &Checksums, found: Digests) -> Result<(), JobError> {
        if let Some(differs) = checksums.mismatch(&found.sha256, found.sha512.as_ref()) {
            return Err(JobError::new(
                JobErrorKind::DigestMismatch,
                format!(
                    "{differs}: the download was discarded; upload the image again, or correct \
                     the checksum"
                ),
            ));
        }
        let Some(signer) = checksums.signed_by(found.signatures)? else {
            return Ok(());
        };
        if self.live.job().signer.as_ref() != Some(&signer) {
            audit::image_signed(self.live.id, &self.location()?.to_string(), &signer);
            self.live.update(|job| job.signer = Some(signer));
        }
        Ok(())
    }

    /// The same for an image of which only the SHA-256 has to be compared.
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

    /// Fails unless a cached image has what is required beyond its SHA-256, which is all that the cache
    /// compares.
    pub(super) async fn expect_announced(
        &self,
        pin: &Pin,
        checksums: &Checksums,
    ) -> Result<(), JobError> {
        let wanted = self.wanted(checksums)?;
        if wanted.is_empty() {
            // Its SHA-256 was compared when it was looked up.
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
