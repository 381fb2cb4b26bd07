//! The steps that handle the volume.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use lvp_api::{Cause, Lane, Sha256Digest, Stage};
use lvp_image::copy::{Body, Copier, CopyOptions, Layout, PlannedImage, RateLimiter, Summary};
use lvp_image::device::{Content, FileSize, Target};
use lvp_image::format::Format;
use lvp_image::gpt;
use lvp_image::plan::{ImageInfo, Planner};
use lvp_image::source::FileSource;

use super::Steps;
use crate::job::error::JobError;
use crate::job::kind::JobErrorKind;
use crate::job::work::VolumeRequest;
use crate::jobs::spans;
use crate::jobs::standing::{self, Standing};
use crate::telemetry::metrics::TimedStage;
use crate::threads::blocking;
use crate::volume::clones::is_reserved;
use crate::volume::{self, Made, OpenVolume, Volume, VolumeError};

impl Steps<'_> {
    /// Finds or creates the volume, and marks it `populating`. Every size is checked here, before a byte is
    /// written.
    pub(super) async fn prepare(
        &self,
        request: &VolumeRequest,
        info: &ImageInfo,
    ) -> Result<Volume, JobError> {
        self.charge(Cause::Device);
        let volumes = &self.services.volumes;
        // The size of a compressed stream is known only at its end; until then the volume's size is the limit.
        let needed = info.virtual_size.unwrap_or(0);
        self.live.touch_volume();
        let found = volumes.lookup(&request.name).await?;
        if self.live.is_resumed() {
            self.check_standing(found.as_ref()).await?;
        }
        let (name, size_bytes) = (&request.name, request.size_bytes);
        self.reserve_disk(name, found.as_ref(), info, size_bytes)
            .await?;
        let volume = match found {
            Some(existing) => self.take_over(existing, request, needed).await?,
            None => self.create(request, needed).await?,
        };
        let path = volume.path.display().to_string();
        self.live.update(|job| job.volume_path = Some(path));
        Ok(volume)
    }

    async fn take_over(
        &self,
        existing: Volume,
        request: &VolumeRequest,
        needed: u64,
    ) -> Result<Volume, JobError> {
        let volumes = &self.services.volumes;
        let unmarked = self.services.settings.unmarked(request);
        if let Err(small) = volume::fits(existing.size_bytes, request.size_bytes, needed) {
            // A volume that may not be written at all is refused for that reason, not for its size.
            volumes.check_writable(&existing, unmarked).await?;
            return Err(small.into());
        }
        self.live.found_volume(&existing);
        let marked = volumes
            .mark_populating(&existing, self.live.id, unmarked)
            .await?;
        match self.live.stop.reason() {
            Some(reason) => Err(JobError::stopped(reason)),
            None => Ok(marked),
        }
    }

    async fn create(&self, request: &VolumeRequest, needed: u64) -> Result<Volume, JobError> {
        let VolumeRequest {
            name, size_bytes, ..
        } = request;
        check_size(request, needed)?;
        let volumes = &self.services.volumes;
        let create = || volumes.create(name, *size_bytes, self.live.id);
        let created = async { Ok(self.services.golden.with_room(create).await?) };
        let span = spans::create_volume(&self.span, name, *size_bytes);
        spans::traced(span, created).await
    }

    /// For a job from the database: fails unless it may still write its volume.
    pub(super) async fn check_standing(&self, found: Option<&Volume>) -> Result<(), JobError> {
        let job = self.live.id;
        let predecessor = self.services.store.job_before(job).await?;
        match (standing::of(found, job, predecessor), found) {
            (Standing::Overtaken, Some(volume)) => Err(standing::overtaken(volume)),
            (Standing::Finished(_), _) => Err(JobError::new(
                JobErrorKind::VolumeRefused,
                "The volume says that this job has finished it",
            )),
            _ => Ok(()),
        }
    }

    /// Opens the volume for a copy that a download feeds.
    pub(super) async fn start_copy(
        &self,
        volume: &Volume,
        image: PlannedImage,
    ) -> Result<Copier, JobError> {
        self.charge(Cause::Device);
        let target = self.open(volume).await?;
        let options = self.copy_options(volume, image.is_stream());
        self.live.meter.trail.begin(Lane::Converting);
        Ok(blocking(move || Copier::start(image, target, options)).await??)
    }

    /// Copies an image that is in the cache.
    pub(super) async fn copy_cached(
        &self,
        volume: &Volume,
        planner: Planner<FileSource>,
    ) -> Result<Body, JobError> {
        let target = self.open(volume).await?;
        let is_stream = matches!(planner.info().format, Format::RawStream(_));
        let options = self.copy_options(volume, is_stream);
        // A stream may hold memory that other jobs wait for.
        let offer = (!is_stream).then(|| self.live.meter.pause.offer());
        let started = Instant::now();
        self.live.meter.trail.go_on_to(Lane::Converting);
        self.live.meter.begin_pass(Cause::Device);
        let copied = blocking(move || Copier::copy_file(planner, target, options)).await;
        drop(offer);
        self.charge(Cause::Device);
        self.live.meter.trail.end(Lane::Converting);
        let body = copied??;
        // The same measure as in estimates; of a compressed stream only the size is known.
        let bytes = match self.live.meter.work_bytes() {
            0 => body.summary().virtual_size,
            bytes => bytes,
        };
        self.measured(TimedStage::Convert, bytes, started.elapsed());
        // A pause that came after the last bytes: the slot is another job's.
        self.until_stopped(self.live.meter.pause.over()).await?;
        Ok(body)
    }

    async fn open(&self, volume: &Volume) -> Result<Target, JobError> {
        let opened = self.services.volumes.open(volume).await;
        // A refused volume is untouched; another failure may have come after the first change.
        let is_refused = opened.as_ref().is_err_and(VolumeError::is_refusal);
        if !is_refused && !is_reserved(&volume.name) {
            self.live.writes_volume();
        }
        let opened = opened?;
        let ours = self.services.guests.writes(&opened.file);
        *self.ours.lock().unwrap_or_else(PoisonError::into_inner) = ours;
        // A file is emptied before it is written, so its holes cost as little as a fresh volume's.
        let holes_are_free = opened.known_zero || !opened.is_block_device;
        self.live.meter.count_holes(holes_are_free);
        Ok(blocking(move || target(opened)).await??)
    }

    fn copy_options(&self, volume: &Volume, is_stream: bool) -> CopyOptions {
        let settings = &self.services.settings;
        let mut options = CopyOptions::new(&self.engine, settings.tail);
        options.counters = self.live.meter.new_copy();
        options.cancel = self.live.stop.flag();
        if !is_stream {
            options.brake = self.live.meter.pause.brake();
        }
        if self.expands() && !is_reserved(&volume.name) {
            options.layout = Layout::ExpandGpt;
        }
        options.yielding = self.services.guests.limiter();
        options.yields_reads = self.services.guests.cache_limiter().is_some();
        options.limiter = settings
            .max_write_bytes_per_sec
            .map(|rate| Arc::new(RateLimiter::new(rate)));
        options
    }

    /// The last steps, in the order that crash safety needs: head, sync, close, `ready`.
    pub(super) async fn finish(
        &self,
        volume: &Volume,
        body: Body,
        digest: Sha256Digest,
    ) -> Result<(), JobError> {
        if let Some(reason) = self.live.stop.reason() {
            return Err(JobError::stopped(reason));
        }
        self.live.meter.enter(Stage::Finalizing);
        self.charge(Cause::Device);
        self.live.meter.trail.go_on_to(Lane::Finalizing);
        let summary = blocking(move || body.commit()).await??;
        self.note_summary(&summary);
        let made = self.made(digest, summary.gpt);
        let volumes = &self.services.volumes;
        Ok(volumes.mark_ready(volume, self.live.id, &made).await?)
    }

    /// Whether the backup GPT of the requested volume is moved to its end.
    pub(super) fn expands(&self) -> bool {
        let settings = &self.services.settings;
        self.volume.is_some_and(|request| settings.expands(request))
    }

    /// What the volume says when it is ready.
    pub(super) fn made(&self, digest: Sha256Digest, gpt: Option<gpt::Outcome>) -> Made {
        Made {
            digest,
            expanded: matches!(gpt, Some(gpt::Outcome::Moved { .. })),
            signer: self.live.job().signer.clone(),
        }
    }

    pub(super) fn note_summary(&self, summary: &Summary) {
        for zeroed in &summary.zeroed {
            self.live.note(format!(
                "Zeroed {} bytes by {}",
                zeroed.bytes, zeroed.method
            ));
        }
        self.note_ignored(summary.ignored_bytes);
        if let Some(gpt) = &summary.gpt {
            self.live.note(gpt.to_string());
        }
        let kept = summary.tail.bytes - summary.tail.zero_bytes;
        if kept > 0 {
            self.live.note(format!(
                "{kept} bytes after the image's end keep older data (volumes.stale_data)"
            ));
        }
    }
}

/// Fails if a new volume would be too small for a disk of this size.
pub(super) fn check_size(request: &VolumeRequest, needed: u64) -> Result<(), JobError> {
    let size_bytes = request.size_bytes;
    if size_bytes >= needed {
        return Ok(());
    }
    Err(JobError::new(
        JobErrorKind::ImageTooLarge,
        format!(
            "The image's disk has {needed} bytes, and the requested volume has {size_bytes}: \
             request a volume_size_gb of at least {}",
            needed.div_ceil(lvp_api::units::GIB)
        ),
    ))
}

fn target(opened: OpenVolume) -> lvp_image::Result<Target> {
    let content = if opened.known_zero {
        Content::KnownZero
    } else {
        Content::Unknown
    };
    if opened.is_block_device {
        Target::from_block_device(opened.file, &opened.path, content)
    } else {
        Target::from_file(
            opened.file,
            &opened.path,
            FileSize::Bytes(opened.size_bytes),
        )
    }
}
