//! What a volume is copied from on a hit: the cached image, or its unpacked copy, which the job makes first if
//! that is worth it.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use lvp_api::Stage;
use lvp_image::ErrorKind;
use lvp_image::copy::{Copier, CopyOptions, TailPolicy};
use lvp_image::device::{FileSize, Target};
use lvp_image::format::Format;
use lvp_image::plan::{ImageInfo, Planner};
use lvp_image::source::FileSource;

use super::Steps;
use super::image::Opening;
use crate::cache::{CacheError, Pin, UnpackedDisk, Unpacking};
use crate::config::UnpackedUse;
use crate::error::chain;
use crate::job::error::JobError;
use crate::job::flight::FlightGuard;
use crate::job::kind::JobErrorKind;
use crate::job::work::VolumeRequest;
use crate::threads::blocking;

/// With `cache.unpacked: auto`, the copy from the cache that makes an image's unpacked copy. The first may have been
/// the last; with a second one it is an image that comes again.
const WORTH_IT: u64 = 2;

/// What a volume is copied from.
pub(super) struct Reading {
    pub(super) planner: Planner<FileSource>,
    pub(super) info: ImageInfo,
    /// The unpacked copy that is read instead of the image.
    disk: Option<Arc<UnpackedDisk>>,
}

impl Reading {
    fn image(planner: Planner<FileSource>) -> Self {
        Self {
            info: planner.info().clone(),
            planner,
            disk: None,
        }
    }

    /// Separates what is read from what is looked at afterwards.
    pub(super) fn into_parts(self) -> (Planner<FileSource>, Option<Arc<UnpackedDisk>>) {
        (self.planner, self.disk)
    }
}

impl Steps<'_> {
    /// Opens what the volume is copied from.
    pub(super) async fn read_cached(
        &self,
        pin: &Arc<Pin>,
        request: &VolumeRequest,
    ) -> Result<Reading, JobError> {
        let cache = &self.services.cache;
        let image_type = self.image.image_type;
        if let Some(disk) = cache.unpacked(pin, image_type).await? {
            return self.read_unpacked(disk).await;
        }
        let opening = self.open_cached(pin).await?;
        if !self.is_worth_it(pin, &opening).await? {
            return Ok(Reading::image(self.opened(opening).await?));
        }
        let guard = match cache.enter_unpacking(pin, image_type) {
            Ok(guard) => guard,
            Err(follower) => {
                self.follow(follower).await?;
                // If it was not made, another attempt would probably fail for the same reason.
                return match cache.unpacked(pin, image_type).await? {
                    Some(disk) => self.read_unpacked(disk).await,
                    None => Ok(Reading::image(self.opened(opening).await?)),
                };
            }
        };
        // Another job may have made it between the look and the entry.
        if let Some(disk) = cache.unpacked(pin, image_type).await? {
            return self.read_unpacked(disk).await;
        }
        guard.show(Arc::clone(&self.live.meter));
        self.live.meter.enter(Stage::Converting);
        let planner = self.opened(opening).await?;
        match self.unpack_disk(pin, planner, guard, request).await? {
            Some(disk) => self.read_unpacked(disk).await,
            // The other planner's map is used up.
            None => Ok(Reading::image(self.plan_cached(pin).await?)),
        }
    }

    /// Whether an unpacked copy of this image is to be made.
    async fn is_worth_it(&self, pin: &Pin, opening: &Opening) -> Result<bool, JobError> {
        let has_to_be_decoded = match opening {
            Opening::Packed(_) => true,
            Opening::Plain(planner) => {
                let info = planner.info();
                info.compressed_clusters > 0 || matches!(info.format, Format::RawStream(_))
            }
        };
        let cache = &self.services.cache;
        Ok(match cache.unpacked_use() {
            _ if !has_to_be_decoded => false,
            UnpackedUse::Never => false,
            UnpackedUse::Always => true,
            UnpackedUse::Auto => {
                self.services.why_no_clones().await.is_some()
                    && cache.count_copy(pin).await? >= WORTH_IT
            }
        })
    }

    /// Makes the unpacked copy; None if that is not possible, and the image has to be decoded for the volume.
    async fn unpack_disk(
        &self,
        pin: &Arc<Pin>,
        planner: Planner<FileSource>,
        guard: FlightGuard,
        request: &VolumeRequest,
    ) -> Result<Option<Arc<UnpackedDisk>>, JobError> {
        let cache = &self.services.cache;
        let info = planner.info();
        // A stream's disk is as large as it turns out to be, and larger than the volume it is refused anyway.
        let bytes = match info.virtual_size {
            Some(_) => info.allocated_bytes,
            None => request.size_bytes,
        };
        let begun = cache.begin_unpacking(pin, self.image.image_type, guard, bytes);
        let unpacking = match begun.await {
            Ok(unpacking) => unpacking,
            Err(error @ CacheError::NoRoom { .. }) => {
                self.not_unpacked(&error.into());
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let made = self.write_unpacked(pin, planner, &unpacking, bytes).await;
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                unpacking.give_up().await?;
                // A decoder that crashed or lied has been attacked: another try would be another chance.
                let is_attack = error.kind() == JobErrorKind::Image(ErrorKind::Decoder);
                if self.live.stop.reason().is_some() || error.is_recoverable() || is_attack {
                    return Err(error);
                }
                self.not_unpacked(&error);
                return Ok(None);
            }
        };
        let disk = unpacking.publish(file).await?;
        self.services.metrics.image_unpacked();
        self.services.measure_cache().await;
        self.live.note(format!(
            "Made an unpacked copy of the image in the cache, of {} bytes, and copied from there",
            disk.used_bytes()
        ));
        Ok(Some(disk.into()))
    }

    /// Writes the disk to the unfinished file; afterwards its bytes are those of the pinned image.
    async fn write_unpacked(
        &self,
        pin: &Arc<Pin>,
        planner: Planner<FileSource>,
        unpacking: &Unpacking,
        bytes: u64,
    ) -> Result<File, JobError> {
        let (file, path) = (unpacking.open().await?, unpacking.path());
        self.write_disk(pin, planner, (file, path), bytes).await
    }

    /// Writes the disk of a pinned image to an empty file; of a stream, no more than so many bytes.
    pub(super) async fn write_disk(
        &self,
        pin: &Arc<Pin>,
        planner: Planner<FileSource>,
        (file, path): (File, PathBuf),
        bytes: u64,
    ) -> Result<File, JobError> {
        let unread = |error| {
            let what = format!("The unpacked copy {} cannot be opened", path.display());
            JobError::new(JobErrorKind::Cache, what).because(error)
        };
        let handle = file.try_clone().map_err(unread)?;
        let mut options = CopyOptions::new(&self.engine, TailPolicy::Zero);
        options.cancel = self.live.stop.flag();
        let is_stream = planner.info().virtual_size.is_none();
        let copied = blocking(move || {
            let mut target = Target::from_file(file, &path, FileSize::OfImage)?;
            target.limit(is_stream.then_some(bytes));
            Copier::copy_file(planner, target, options)
        });
        let body = copied.await??;
        self.expect_unchanged(pin).await?;
        blocking(move || body.commit()).await??;
        Ok(handle)
    }

    /// Says why a job goes on without an unpacked copy.
    fn not_unpacked(&self, error: &JobError) {
        let why = chain(error);
        let is_asked_for = self.services.cache.unpacked_use() == UnpackedUse::Always;
        if error.kind() == JobErrorKind::CacheFull && !is_asked_for {
            tracing::debug!(component = "cache", job_id = %self.live.id, why, "There is no room for an unpacked copy");
            return;
        }
        tracing::warn!(
            component = "cache", job_id = %self.live.id, why,
            "The unpacked copy of an image cannot be made; the image is decoded"
        );
        self.live
            .note(format!("No unpacked copy of the image was made: {why}"));
    }

    async fn read_unpacked(&self, disk: impl Into<Arc<UnpackedDisk>>) -> Result<Reading, JobError> {
        let disk = disk.into();
        let opened = Arc::clone(&disk);
        let planner = blocking(move || {
            let source = opened.file().try_clone().and_then(FileSource::new);
            let source = source
                .map_err(|error| unpacked_copy(&opened, "cannot be opened").because(error))?;
            Ok::<_, JobError>(Planner::of_disk(source)?)
        });
        let planner = planner.await??;
        let mut info = planner.info().clone();
        // The file's holes are not data.
        info.allocated_bytes = info.allocated_bytes.min(disk.used_bytes());
        Ok(Reading {
            planner,
            info,
            disk: Some(disk),
        })
    }

    /// Fails unless what was copied is still what it was.
    pub(super) async fn expect_source_unchanged(
        &self,
        pin: &Arc<Pin>,
        disk: Option<&Arc<UnpackedDisk>>,
    ) -> Result<(), JobError> {
        let Some(disk) = disk else {
            return self.expect_unchanged(pin).await;
        };
        let looked_at = Arc::clone(disk);
        match blocking(move || looked_at.is_unchanged()).await? {
            Ok(true) => Ok(()),
            Ok(false) => Err(unpacked_copy(disk, "was changed while it was read")),
            Err(error) => Err(unpacked_copy(disk, "cannot be read again").because(error)),
        }
    }
}

fn unpacked_copy(disk: &UnpackedDisk, what: &str) -> JobError {
    let path = disk.path().display();
    JobError::new(
        JobErrorKind::Cache,
        format!("The unpacked copy {path} of the image {what}"),
    )
}
