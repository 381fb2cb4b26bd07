//! The last steps of a clone: it is made of the golden volume, is ready, and gets its name.

use lvp_api::{Cause, Lane, Method, Stage};
use lvp_image::gpt;

use super::Steps;
use super::clone::{Ended, in_place};
use crate::golden::Held;
use crate::job::error::JobError;
use crate::job::kind::JobErrorKind;
use crate::job::work::VolumeRequest;
use crate::jobs::spans;
use crate::threads::blocking;
use crate::volume::{self, Clones, Need, Volume};

/// What a job knows of the volume of the name that it clones to.
pub(super) enum Before {
    /// It was looked at together with the golden volume.
    Seen(Option<Box<Volume>>),
    /// Nothing, or what has been for as long as an image took.
    Unknown,
}

impl Steps<'_> {
    /// Clones a golden volume to the one that was asked for; a job without one has nothing left to do.
    pub(super) async fn clone_from(&self, held: &Held) -> Result<Ended, JobError> {
        self.clone_to(held, Before::Unknown).await
    }

    pub(super) async fn clone_to(&self, held: &Held, before: Before) -> Result<Ended, JobError> {
        let digest = held.golden().key.digest;
        self.live.update(|job| job.image_digest = Some(digest));
        let Some(request) = self.volume else {
            return Ok(Ended::Done);
        };
        self.live.meter.enter(Stage::Finalizing);
        self.charge(Cause::Device);
        self.live.meter.trail.go_on_to(Lane::Finalizing);
        let cloned = self.put_clone(held, request, before);
        let span = spans::clone_volume(&self.span, &request.name, request.size_bytes);
        let volume = match spans::traced(span, cloned).await {
            Ok(Some(volume)) => volume,
            Ok(None) => return Ok(Ended::WithoutClone),
            Err(error) => {
                let ended = self.do_without(error)?;
                self.remove_waiting().await?;
                return Ok(ended);
            }
        };
        self.services.golden.cloned(held).await?;
        self.services.metrics.volume_cloned();
        let path = volume.path.display().to_string();
        self.live.update(|job| {
            job.method = Some(Method::Clone);
            job.volume_path = Some(path);
        });
        Ok(Ended::Done)
    }

    /// None where the volume is to be written in place.
    async fn put_clone(
        &self,
        held: &Held,
        request: &VolumeRequest,
        before: Before,
    ) -> Result<Option<Volume>, JobError> {
        let volumes = &self.services.volumes;
        let clones = volumes.clones().await;
        let clones = clones.map_err(|why| JobError::new(JobErrorKind::CloneUnavailable, why))?;
        let (golden, job) = (held.golden(), self.live.id);
        let needed = golden.content.map_or(0, |content| content.size_bytes);
        self.live.touch_volume();
        // Where it was seen already nothing has been asked about it yet; else all was, before the image was fetched.
        let (found, is_first_look) = match before {
            Before::Seen(found) => (found.map(|found| *found), true),
            Before::Unknown => (volumes.lookup(&request.name).await?, false),
        };
        if self.live.is_resumed() {
            self.check_standing(found.as_ref()).await?;
        }
        let is_free = is_first_look && found.is_none() && !self.live.is_resumed();
        let old = found.filter(|found| !self.is_unfinished_here(found));
        let size_bytes = match &old {
            Some(existing) => {
                let unmarked = self.services.settings.unmarked(request);
                volumes.check_writable(existing, unmarked).await?;
                if !clones.is_replaceable(existing) {
                    self.clones_unless(Some(in_place(existing)))?;
                    return Ok(None);
                }
                if is_first_look {
                    clones.check_unused(existing).await?;
                }
                volume::fits(existing.size_bytes, request.size_bytes, needed)?;
                existing.size_bytes
            }
            None => {
                super::volume::check_size(request, needed)?;
                request.size_bytes
            }
        };
        self.reserve(&request.name, Need::Clone).await?;
        if let Some(reason) = self.live.stop.reason() {
            return Err(JobError::stopped(reason));
        }
        let digest = golden.key.digest;
        let clone = match self.expands() {
            true => {
                let make = || clones.clone_golden(golden, &request.name, size_bytes, job);
                let clone = self.services.golden.with_room(make).await?;
                let moved = self.expand_clone(clones, &clone, needed).await?;
                let made = self.made(digest, Some(moved));
                volumes.mark_ready(&clone, job, &made).await?;
                clone
            }
            false => {
                let made = self.made(digest, None);
                let name = &request.name;
                let make = || clones.clone_ready(golden, name, size_bytes, (job, &made), is_free);
                self.services.golden.with_room(make).await?
            }
        };
        match &old {
            Some(old) => Ok(Some(clones.replace(old, &clone, job).await?)),
            None if clone.name == request.name => Ok(Some(clone)),
            None => Err(JobError::new(
                JobErrorKind::VolumeRefused,
                format!(
                    "A volume {} was made by somebody else while it was cloned: it was left as it is",
                    request.name
                ),
            )),
        }
    }

    /// Moves the backup GPT of a clone to its end. Until the clone is marked ready, a restart makes it anew.
    async fn expand_clone(
        &self,
        clones: &dyn Clones,
        clone: &Volume,
        disk_bytes: u64,
    ) -> Result<gpt::Outcome, JobError> {
        let file = clones.open_clone(clone, self.live.id).await?;
        let volume_bytes = clone.size_bytes;
        let moved = blocking(move || gpt::move_in_place(&file, disk_bytes, volume_bytes)).await??;
        self.live.note(moved.to_string());
        Ok(moved)
    }

    /// Removes a clone that was to replace the volume, which is written in place now.
    async fn remove_waiting(&self) -> Result<(), JobError> {
        if let Ok(clones) = self.services.volumes.clones().await {
            clones.remove_waiting(self.live.id).await?;
        }
        Ok(())
    }
}
