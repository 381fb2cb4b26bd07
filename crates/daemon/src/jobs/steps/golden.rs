//! Making golden volumes: in the pass that fetches the image, or from the cache.

use std::sync::Arc;

use lvp_api::Stage;
use lvp_image::copy::{Body, PlannedImage};
use lvp_image::plan::ImageInfo;

use super::Steps;
use super::clone::{Ended, Making};
use crate::cache::{Lead, Pin};
use crate::golden::{Held, Origin, content};
use crate::job::error::JobError;
use crate::job::kind::JobErrorKind;
use crate::job::work::VolumeRequest;
use crate::jobs::spans;
use crate::source::{Checksums, PlanCheck, SourceErrorKind};
use crate::telemetry::metrics::TimedStage;
use crate::threads::blocking;
use crate::transfer::Aims;
use crate::volume::{self, Content, Volume};

impl Steps<'_> {
    /// Fetches the object onto its golden volume in one pass, or into the cache, and clones.
    pub(super) async fn fetch_golden(
        &self,
        lead: Lead,
        (info, image, check): (ImageInfo, PlannedImage, PlanCheck),
        checksums: &Checksums,
        making: Option<Box<Making>>,
    ) -> Result<Ended, JobError> {
        let image_url = lead.object().url.to_string();
        let volume = match &making {
            Some(making) if making.held.is_none() => self.make_golden(making, &info).await?,
            // The digest is known only at the end, or the golden volume exists and waits for the digest.
            _ => None,
        };
        let (Some(making), Some(volume)) = (&making, &volume) else {
            let (pin, ()) = self
                .download(lead, Aims::cache(Some(check)), checksums)
                .await?;
            return self.clone_cached(pin, checksums, making).await;
        };
        let populated = async {
            let copier = self.start_copy(volume, image).await?;
            let aims = Aims::volume(copier, check);
            let (pin, written) = self.download(lead, aims, checksums).await?;
            let metrics = &self.services.metrics;
            metrics.stage_completed(TimedStage::Convert, written.took);
            let origin = origin(image_url, checksums);
            self.seal(making, volume, written.body, &pin, origin).await
        };
        let populated = spans::traced(spans::populate_volume(&self.span, volume), populated).await;
        self.clone_made(making, volume, populated).await
    }

    /// Creates the golden volume. None if there is no room for it, or its size is not known, and the job can do
    /// without.
    pub(super) async fn make_golden(
        &self,
        making: &Making,
        info: &ImageInfo,
    ) -> Result<Option<Volume>, JobError> {
        self.expect_disk(info);
        if let Some(request) = self.volume {
            let needed = info.virtual_size.unwrap_or(0);
            self.expect_fit(request, needed).await?;
        }
        let size_bytes = info
            .virtual_size
            .or(self.volume.map(|request| request.size_bytes));
        let Some(size_bytes) = size_bytes else {
            return Err(JobError::new(
                JobErrorKind::CloneUnavailable,
                "The image is a compressed stream, and the size of its disk is known only at the \
                 stream's end: provision a volume from it, and the golden volume is made on the \
                 way",
            ));
        };
        making.flight.show(Arc::clone(&self.live.meter));
        let shelf = &self.services.golden;
        let name = making.key.volume_name();
        let made = async {
            self.reserve_disk(&name, None, info, size_bytes).await?;
            Ok(shelf.make(&making.key, size_bytes, self.live.id).await?)
        };
        match made.await {
            Ok(volume) => Ok(Some(volume)),
            Err(error) => self.do_without(error).map(|_| None),
        }
    }

    /// Fails if the requested volume is too small for a disk of this size.
    pub(super) async fn expect_fit(
        &self,
        request: &VolumeRequest,
        needed: u64,
    ) -> Result<(), JobError> {
        let found = self.services.volumes.lookup(&request.name).await?;
        match found.filter(|found| !self.is_unfinished_here(found)) {
            Some(existing) => Ok(volume::fits(
                existing.size_bytes,
                request.size_bytes,
                needed,
            )?),
            None => super::volume::check_size(request, needed),
        }
    }

    /// The last steps of a golden volume, in the order that crash safety needs: head, sync, close, digest of
    /// what is read back, and the back end's mark that it is finished.
    pub(super) async fn seal(
        &self,
        making: &Making,
        volume: &Volume,
        body: Body,
        pin: &Pin,
        origin: Origin,
    ) -> Result<Held, JobError> {
        let key = &making.key;
        if pin.digest() != key.digest {
            return Err(JobError::new(
                JobErrorKind::Source(SourceErrorKind::ObjectChanged),
                "The object no longer has the bytes that it had when it was first read",
            ));
        }
        if let Some(reason) = self.live.stop.reason() {
            return Err(JobError::stopped(reason));
        }
        self.live.meter.enter(Stage::Finalizing);
        let summary = blocking(move || body.commit()).await??;
        self.note_summary(&summary);
        let size_bytes = summary.virtual_size;
        let clones = self.services.volumes.clones().await;
        let clones = clones.map_err(|why| JobError::new(JobErrorKind::CloneUnavailable, why))?;
        let file = clones.read_golden(volume).await?;
        let watch = content::Watch {
            stop: self.live.stop.flag(),
            ..Default::default()
        };
        let digest = blocking(move || content::digest(&file, size_bytes, &watch)).await?;
        let digest = digest.map_err(|error| {
            let what = "The golden volume cannot be read back";
            JobError::new(JobErrorKind::Volume, what).because(error)
        })?;
        let Some(digest) = digest else {
            let reason = self.live.stop.stopped().await;
            return Err(JobError::stopped(reason));
        };
        let content = Content { size_bytes, digest };
        let shelf = &self.services.golden;
        let held = shelf.seal(volume, key, self.live.id, &content, origin);
        let held = held.await?;
        self.services.measure_golden().await;
        Ok(held)
    }

    /// Clones the golden volume that was just made, or removes it if it could not be finished.
    pub(super) async fn clone_made(
        &self,
        making: &Making,
        volume: &Volume,
        made: Result<Held, JobError>,
    ) -> Result<Ended, JobError> {
        debug_assert!(making.held.is_none());
        match made {
            Ok(held) => {
                if self.volume.is_some() {
                    self.live.note("Made the image's golden volume on the way");
                }
                self.clone_from(&held).await
            }
            Err(error) => {
                self.services.golden.give_up(volume, self.live.id).await;
                self.do_without(error)
            }
        }
    }
}

pub(super) fn origin(image_url: String, checksums: &Checksums) -> Origin {
    Origin {
        image_url,
        sha512: checksums.sha512.as_ref().map(|announced| announced.digest),
    }
}
