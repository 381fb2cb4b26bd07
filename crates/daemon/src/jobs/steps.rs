//! What one job does, step by step. Every step can be redone: a job that is taken up again after
//! a crash runs from the top, finds what it made before, and goes on from there.
//!
//! ```text
//! resolve -> cache lookup --hit---------------------------> plan -> volume -> copy -----> finish
//!    ^            |-- lead --> plan -> volume -> one pass: download+digest+cache+copy --> finish
//!    |            |              '- (not one pass) download+digest+cache, then as a hit
//!    '-- wait ----'-- follow
//! ```
//!
//! The order within `volume ... finish` is the promise of this program: the volume says
//! `populating` before its first byte changes; its head stays cleared until the digest has been
//! compared and everything else is on the disk; then the head, then `ready`.

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lvp_api::{ImageType, Sha256Digest, Sha512Digest, Stage, VolumeName};
use lvp_image::copy::{Body, Copier, CopyOptions, PlannedImage, RateLimiter, Summary};
use lvp_image::device::{Content, FileSize, Target};
use lvp_image::plan::{ImageInfo, Planner};
use lvp_image::source::{FileSource, ReadAt as _};
use lvp_image::unpack::{self, UnpackOptions};
use sha2::{Digest as _, Sha512};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::Services;
use super::live::Live;
use super::standing::{self, Standing};
use super::waiting;
use crate::cache::{Follower, Lead, Lookup, Pin};
use crate::job::error::JobError;
use crate::job::kind::JobErrorKind;
use crate::job::meter::Rates;
use crate::job::record::VolumeRequest;
use crate::source::{Checksums, ImageUrl, ObjectMeta, PlanCheck, Source, SourceErrorKind};
use crate::telemetry::metrics::TimedStage;
use crate::telemetry::traces;
use crate::transfer::{self, Aims, Streamed};
use crate::volume::{self, OpenVolume, Unmarked, Volume, VolumeError};

/// How often an object that changes while it is read, or breaks off and cannot be gone on with, is
/// started afresh before the job gives up.
const MAX_CHANGES: u32 = 3;

/// Runs a job to its end.
pub(super) async fn run(services: &Services, live: &Live) -> Result<(), JobError> {
    let span = Span::current();
    let steps = Steps {
        services,
        source: services.source.counting(Arc::clone(&live.meter.retries)),
        live,
        span,
    };
    steps.run().await
}

struct Steps<'a> {
    services: &'a Services,
    /// Counts this job's repeated requests.
    source: Source,
    live: &'a Live,
    /// The job's; those of its steps are below it.
    span: Span,
}

impl Steps<'_> {
    /// The job, again from the top each time the database or the cache was not there and is back: what
    /// is durable is found and gone on with, as after a crash.
    async fn run(&self) -> Result<(), JobError> {
        loop {
            match self.attempt().await {
                Err(error) if self.is_for_want_of_storage(&error).await => {
                    waiting::until_healed(self.services, self.live, &error).await?;
                }
                ended => return ended,
            }
        }
    }

    /// A file that cannot be used may be missing with its whole directory.
    async fn is_for_want_of_storage(&self, error: &JobError) -> bool {
        if error.may_heal() || error.stop_reason().is_some() {
            return error.may_heal();
        }
        let lost =
            error.kind() == JobErrorKind::Cache && self.services.cache.probe().await.is_err();
        lost && self.live.stop.reason().is_none()
    }

    async fn attempt(&self) -> Result<(), JobError> {
        let Some(url) = self.live.spec().image_url.whole() else {
            return Err(JobError::new(
                JobErrorKind::UrlUnreadable,
                format!(
                    "The query of {} was encrypted with another key than the one beside the database: \
                     send the request again",
                    self.live.spec().image_url
                ),
            ));
        };
        let url = self.source.parse_url(&url)?;
        self.expect_rates().await?;
        let mut changes = 0;
        loop {
            let (object, checksums) = self.resolve(&url).await?;
            let sidecar = checksums.sha256.as_ref().map(|announced| announced.digest);
            let image_type = self.live.spec().image_type;
            let looked_up = self
                .services
                .cache
                .lookup(&object, image_type, sidecar)
                .await?;
            self.count_lookup(matches!(looked_up, Lookup::Hit(_)));
            let can_go_on;
            let fetched = match looked_up {
                Lookup::Hit(pin) => {
                    self.live.update(|job| {
                        job.cache_hit.get_or_insert(true);
                    });
                    self.check_sha512(&pin, &checksums).await?;
                    return self.write_cached(pin).await;
                }
                Lookup::Follow(follower) => {
                    self.live.update(|job| job.cache_hit = Some(false));
                    self.follow(follower).await?;
                    continue;
                }
                Lookup::Lead(lead) => {
                    self.live.update(|job| job.cache_hit = Some(false));
                    can_go_on = lead.can_be_joined();
                    self.fetch(*lead, &checksums).await
                }
            };
            let Err(error) = fetched else {
                return Ok(());
            };
            let why = match error.kind() {
                _ if changes == MAX_CHANGES => return Err(error),
                JobErrorKind::Source(SourceErrorKind::ObjectChanged) => CHANGED,
                JobErrorKind::Source(SourceErrorKind::Unavailable) if !can_go_on => BROKEN_OFF,
                _ => return Err(error),
            };
            changes += 1;
            self.live.note(why);
        }
    }

    /// Counts a job once, by its first look: one that waited for another's download has missed too.
    fn count_lookup(&self, hit: bool) {
        if self.live.job().cache_hit.is_none() {
            self.services.metrics.cache_looked_up(hit);
        }
    }

    /// What the object is now, and which digest it must have.
    async fn resolve(&self, url: &ImageUrl) -> Result<(ObjectMeta, Checksums), JobError> {
        let object = self.until_stopped(self.source.resolve(url)).await??;
        let requested = self.live.spec().checksum;
        let checksums = self.source.checksums(url, requested);
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
        }
        self.live.update(|job| job.verified = Some(verified));
        tracing::info!(
            component = "provisioner", verified = %verified,
            "Found what the image is verified against"
        );
        Ok((object, checksums))
    }

    /// An image of the cache is known by its SHA-256 alone: the other digest is taken of the file.
    async fn check_sha512(&self, pin: &Pin, checksums: &Checksums) -> Result<(), JobError> {
        let Some(expected) = &checksums.sha512 else {
            return Ok(());
        };
        let failed = |error| cached(pin, "cannot be read").because(error);
        let file = pin.file().try_clone().map_err(failed)?;
        let digest = blocking(move || sha512_of(&file));
        let digest = self.until_stopped(digest).await??.map_err(failed)?;
        match digest == expected.digest {
            true => Ok(()),
            false => Err(mismatch("SHA-512", &digest, &expected.digest, &expected.by)),
        }
    }

    /// Waits for the job that is fetching the same object, showing its progress as this job's.
    async fn follow(&self, mut follower: Follower) -> Result<(), JobError> {
        self.live.meter.enter(Stage::Downloading);
        let mut tick = tokio::time::interval(super::SAMPLE_INTERVAL);
        loop {
            tokio::select! {
                reason = self.live.stop.stopped() => return Err(JobError::stopped(reason)),
                () = follower.ended() => return Ok(()),
                _ = tick.tick() => {
                    if let Some(meter) = follower.state().meter {
                        let (done, total) = (&meter.source_done, &meter.source_total);
                        let mine = &self.live.meter;
                        mine.source_total.store(total.load(Ordering::Relaxed), Ordering::Relaxed);
                        mine.source_done.store(done.load(Ordering::Relaxed), Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Fetches the object for everybody who wants it; with a volume, writes that in the same pass.
    async fn fetch(&self, mut lead: Lead, checksums: &Checksums) -> Result<(), JobError> {
        lead.show(Arc::clone(&self.live.meter));
        self.live
            .meter
            .source_total
            .store(lead.object().size, Ordering::Relaxed);
        self.live.meter.enter(Stage::Downloading);
        if lead.durable_bytes() > 0 {
            self.live.note(format!(
                "Resumed the download after {} of {} bytes",
                lead.durable_bytes(),
                lead.object().size
            ));
        }
        let (info, image, check) = match self.plan_remote(lead.object()).await {
            Ok((info, Some((image, check)))) => (info, image, check),
            Ok((info, None)) => {
                self.expect_disk(&info);
                return self.fetch_then_write(lead, checksums, MAP_TOO_LARGE).await;
            }
            Err(error) if error.kind() == JobErrorKind::Source(SourceErrorKind::RangesIgnored) => {
                return self.fetch_then_write(lead, checksums, NO_RANGES).await;
            }
            Err(error) if error.kind() == JobErrorKind::Image(lvp_image::ErrorKind::Packed) => {
                return self.fetch_then_write(lead, checksums, PACKED).await;
            }
            Err(error) => return Err(error),
        };
        self.expect_disk(&info);
        let mut aims = Aims {
            copier: None,
            check: Some(check),
            sha512: checksums.sha512.is_some(),
        };
        let Some(request) = self.live.spec().volume.clone() else {
            let (streamed, digest) = self.download(&mut lead, aims, checksums).await?;
            self.publish(lead, streamed.file, digest).await?;
            return Ok(());
        };
        let volume = self.prepare(&request, &info).await?;
        let written = async {
            let target = self.open(&volume).await?;
            let options = self.copy_options();
            let copier = blocking(move || Copier::start(image, target, options)).await??;
            aims.copier = Some(copier);
            let (streamed, digest) = self.download(&mut lead, aims, checksums).await?;
            let pin = self.publish(lead, streamed.file, digest).await?;
            match streamed.body {
                Some(body) => {
                    if let Some(convert) = streamed.convert {
                        // Overlapped by the download, so no measure of what converting alone takes.
                        let metrics = &self.services.metrics;
                        metrics.stage_completed(TimedStage::Convert, convert);
                    }
                    self.finish(&volume, body, pin.digest()).await
                }
                None => Err(JobError::new(JobErrorKind::Internal, "The copy is missing")),
            }
        };
        self.traced(self.populate_span(&volume), written).await
    }

    /// For what cannot be read in one pass: the whole object to the cache, then as on a hit.
    async fn fetch_then_write(
        &self,
        mut lead: Lead,
        checksums: &Checksums,
        why: &str,
    ) -> Result<(), JobError> {
        self.live.note(why);
        self.expect_some_disk(lead.object().size);
        let aims = Aims {
            sha512: checksums.sha512.is_some(),
            ..Aims::default()
        };
        let (streamed, digest) = self.download(&mut lead, aims, checksums).await?;
        let pin = self.publish(lead, streamed.file, digest).await?;
        self.write_cached(pin).await
    }

    /// The one pass, in a span of its own.
    async fn download(
        &self,
        lead: &mut Lead,
        aims: Aims,
        checksums: &Checksums,
    ) -> Result<(Streamed, Sha256Digest), JobError> {
        let span = tracing::error_span!(
            target: traces::TARGET, parent: &self.span, "DownloadImageToPath"
        );
        let url = self.live.spec().image_url.to_string();
        traces::attribute(&span, "image.url", Some(url));
        traces::attribute(&span, "path", Some(lead.path().display().to_string()));
        for (name, bytes) in [
            ("image.size", lead.object().size),
            ("bytes.resumed", lead.durable_bytes()),
        ] {
            traces::attribute(&span, name, Some(traces::number(bytes)));
        }
        let before = self.live.meter.retries.load(Ordering::Relaxed);
        let received = self.receive(lead, aims, checksums);
        let received = self.traced(span.clone(), received).await;
        let retries = self.live.meter.retries.load(Ordering::Relaxed) - before;
        traces::attribute(&span, "retries", Some(traces::number(retries)));
        received
    }

    /// The one pass, and the comparison of what came with what should have come.
    async fn receive(
        &self,
        lead: &mut Lead,
        aims: Aims,
        checksums: &Checksums,
    ) -> Result<(Streamed, Sha256Digest), JobError> {
        let fresh = lead.object().size - lead.durable_bytes();
        let source = &self.source;
        let meter = &self.live.meter;
        let streamed = match transfer::stream(source, lead, aims, meter, &self.live.stop).await {
            // What came is of no use to anybody on a disk that others need, or of an object that was
            // another one meanwhile.
            Err(error) if error.spoils_what_came() => {
                lead.discard().await?;
                return Err(error.into());
            }
            streamed => streamed?,
        };
        let digest = streamed.digest;
        self.live.update(|job| job.image_digest = Some(digest));
        let sha256 = checksums
            .sha256
            .iter()
            .filter(|announced| announced.digest != digest);
        let sha256 =
            sha256.map(|announced| mismatch("SHA-256", &digest, &announced.digest, &announced.by));
        let sha512 = checksums.sha512.iter().zip(&streamed.sha512);
        let sha512 = sha512.filter(|(announced, digest)| announced.digest != **digest);
        let sha512 = sha512.map(|(announced, digest)| {
            mismatch("SHA-512", digest, &announced.digest, &announced.by)
        });
        if let Some(error) = sha256.chain(sha512).next() {
            lead.discard().await?;
            return Err(error);
        }
        let download = streamed.download;
        self.measured(TimedStage::Download, fresh, download).await;
        Ok((streamed, digest))
    }

    async fn publish(&self, lead: Lead, file: File, digest: Sha256Digest) -> Result<Pin, JobError> {
        let size_bytes = lead.object().size;
        let published = lead.publish(file, digest).await?;
        while let Err(error) = published.record().await {
            if !error.may_heal() {
                return Err(error.into());
            }
            waiting::until_healed(self.services, self.live, &error.into()).await?;
        }
        let pin = published.into_pin();
        let image_type = self.live.spec().image_type;
        let metrics = &self.services.metrics;
        metrics.image_downloaded(image_type, size_bytes);
        self.services.measure_cache().await;
        self.live
            .update(|job| job.image_path = Some(pin.path().display().to_string()));
        Ok(pin)
    }

    /// Writes the volume from a published image; a cache job has nothing left to do.
    async fn write_cached(&self, pin: Pin) -> Result<(), JobError> {
        self.live.update(|job| {
            job.image_path = Some(pin.path().display().to_string());
            job.image_digest = Some(pin.digest());
        });
        let pin = Arc::new(pin);
        let opened = Arc::clone(&pin);
        let declared = format_of(self.live.spec().image_type);
        let open = move || -> Result<_, JobError> {
            // The very file that was found to be right.
            opened
                .file()
                .try_clone()
                .and_then(FileSource::new)
                .map_err(|error| cached(&opened, "cannot be opened").because(error))
        };
        let again = open.clone();
        let planned = blocking(move || Ok::<_, JobError>(Planner::open(open()?, declared)?));
        let planner = match planned.await? {
            Err(error) if error.kind() == JobErrorKind::Image(lvp_image::ErrorKind::Packed) => {
                let source = blocking(again).await??;
                self.unpack(source, declared).await?
            }
            planned => planned?,
        };
        let Some(request) = self.live.spec().volume.clone() else {
            return Ok(());
        };
        let info = planner.info().clone();
        self.expect_disk(&info);
        self.live.meter.enter(Stage::Converting);
        let volume = self.prepare(&request, &info).await?;
        let written = async {
            let target = self.open(&volume).await?;
            let options = self.copy_options();
            let started = Instant::now();
            let body = blocking(move || Copier::copy_file(planner, target, options)).await??;
            // By the measure that estimates are made in; of a compressed stream only the size shows.
            let bytes = match self.live.meter.work_bytes() {
                0 => body.summary().virtual_size,
                bytes => bytes,
            };
            self.measured(TimedStage::Convert, bytes, started.elapsed())
                .await;
            // What was read is what the digest is of, the image's map included.
            let looked_at = Arc::clone(&pin);
            match blocking(move || looked_at.is_unchanged()).await? {
                Ok(true) => self.finish(&volume, body, pin.digest()).await,
                Ok(false) => Err(cached(&pin, "was changed while it was read")),
                Err(error) => Err(cached(&pin, "cannot be read again").because(error)),
            }
        };
        self.traced(self.populate_span(&volume), written).await
    }

    /// Unpacks an image of the cache to a file beside it, which is gone when it has been copied.
    async fn unpack(
        &self,
        source: FileSource,
        declared: lvp_image::format::ImageType,
    ) -> Result<Planner<FileSource>, JobError> {
        let services = self.services;
        let (file, max_bytes) = services.cache.scratch(source.len()).await?;
        let options = UnpackOptions {
            engine: services.engine.clone(),
            max_bytes,
            cancel: self.live.stop.flag(),
        };
        let unpacking = move || unpack::open(source, declared, || Ok(file), &options);
        let (planner, unpacked) = blocking(unpacking).await??;
        if let Some(unpacked) = unpacked {
            let name = unpacked
                .name
                .map(|name| format!("{name} "))
                .unwrap_or_default();
            self.live.note(format!(
                "Unpacked {name}from {} to {} bytes in the cache, and copied from there",
                unpacked.package, unpacked.bytes
            ));
            self.note_ignored(unpacked.ignored_bytes);
        }
        Ok(planner)
    }

    fn note_ignored(&self, bytes: u64) {
        if bytes > 0 {
            self.live.note(format!(
                "{bytes} bytes behind the compressed stream were ignored, as its own tool does"
            ));
        }
    }

    /// Reads the image's metadata by ranges. The image comes with what its bytes must be compared with
    /// before anybody relies on its map. No image at all in the pair means that its map is too large to
    /// be read in one pass.
    async fn plan_remote(
        &self,
        object: &ObjectMeta,
    ) -> Result<(ImageInfo, Option<(PlannedImage, PlanCheck)>), JobError> {
        let cancel = CancellationToken::new();
        let reader = self.source.reader(object, cancel.clone());
        let declared = format_of(self.live.spec().image_type);
        let planned = blocking(move || {
            let mut planner = Planner::open(reader, declared)?;
            let info = planner.info().clone();
            let image = planner
                .is_one_pass()
                .then(|| PlannedImage::take(&mut planner))
                .transpose()?;
            Ok::<_, lvp_image::Error>((info, image.zip(planner.into_source().into_check())))
        });
        tokio::pin!(planned);
        tokio::select! {
            planned = &mut planned => Ok(planned??),
            reason = self.live.stop.stopped() => {
                cancel.cancel();
                Err(JobError::stopped(reason))
            }
        }
    }

    /// Finds or makes the volume. Every size is checked here, before a byte is written.
    async fn prepare(&self, request: &VolumeRequest, info: &ImageInfo) -> Result<Volume, JobError> {
        let services = self.services;
        let volumes = &services.volumes;
        // The size of a compressed stream shows at its end; until then the volume's is the limit.
        let needed = info.virtual_size.unwrap_or(0);
        let job = self.live.id;
        let unmarked = match services.settings.adopt_untagged || self.live.spec().adopt {
            true => Unmarked::Adopt,
            false => Unmarked::Refuse,
        };
        self.live.touch_volume();
        let found = volumes.lookup(&request.name).await?;
        if self.live.taken_up {
            self.check_standing(found.as_ref()).await?;
        }
        let volume = match found {
            Some(existing) => {
                if let Err(small) = volume::fits(existing.size_bytes, request.size_bytes, needed) {
                    // What may not be written at all is not called too small.
                    volumes.check_writable(&existing, unmarked).await?;
                    return Err(small.into());
                }
                self.live.found_volume(&existing);
                let marked = volumes.mark_populating(&existing, job, unmarked).await?;
                if let Some(reason) = self.live.stop.reason() {
                    return Err(JobError::stopped(reason));
                }
                marked
            }
            None if request.size_bytes < needed => {
                return Err(JobError::new(
                    JobErrorKind::ImageTooLarge,
                    format!(
                        "The image's disk has {needed} bytes, the requested volume {}: ask for at \
                         least volume_size_gb {}",
                        request.size_bytes,
                        needed.div_ceil(lvp_api::units::GIB)
                    ),
                ));
            }
            None => {
                let span = self.volume_span("CreateVolume", &request.name);
                let size = traces::number(request.size_bytes);
                traces::attribute(&span, "volume.size", Some(size));
                let created = async {
                    Ok(volumes
                        .create(&request.name, request.size_bytes, job)
                        .await?)
                };
                self.traced(span, created).await?
            }
        };
        let path = volume.path.display().to_string();
        self.live.update(|job| job.volume_path = Some(path));
        Ok(volume)
    }

    /// For a job from the database: whether its volume is still its to write.
    async fn check_standing(&self, found: Option<&Volume>) -> Result<(), JobError> {
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

    async fn open(&self, volume: &Volume) -> Result<Target, JobError> {
        let opened = self.services.volumes.open(volume).await;
        // One that is refused is untouched; a failure may have come after the first change.
        if !opened.as_ref().is_err_and(VolumeError::is_refusal) {
            self.live.writes_volume();
        }
        let opened = opened?;
        // A file is emptied before it is written, so its holes cost as little as a fresh volume's.
        let holes_are_free = opened.known_zero || !opened.is_block_device;
        self.live
            .meter
            .holes_are_free
            .store(holes_are_free, Ordering::Relaxed);
        Ok(blocking(move || target(opened)).await??)
    }

    fn copy_options(&self) -> CopyOptions {
        let settings = &self.services.settings;
        let mut options = CopyOptions::new(&self.services.engine, settings.tail);
        options.counters = self.live.meter.new_copy();
        options.cancel = self.live.stop.flag();
        options.limiter = settings
            .max_write_bytes_per_sec
            .map(|rate| Arc::new(RateLimiter::new(rate)));
        options
    }

    /// The last steps, in the only right order: head, sync, close, `ready`.
    async fn finish(
        &self,
        volume: &Volume,
        body: Body,
        digest: Sha256Digest,
    ) -> Result<(), JobError> {
        if let Some(reason) = self.live.stop.reason() {
            return Err(JobError::stopped(reason));
        }
        self.live.meter.enter(Stage::Finalizing);
        let summary = blocking(move || body.commit()).await??;
        self.note_summary(&summary);
        let volumes = &self.services.volumes;
        Ok(volumes.mark_ready(volume, self.live.id, &digest).await?)
    }

    fn note_summary(&self, summary: &Summary) {
        for zeroed in &summary.zeroed {
            self.live.note(format!(
                "Zeroed {} bytes by {}",
                zeroed.bytes, zeroed.method
            ));
        }
        self.note_ignored(summary.ignored_bytes);
        let kept = summary.tail.bytes - summary.tail.zero_bytes;
        if kept > 0 {
            self.live.note(format!(
                "{kept} bytes behind the image's end keep older data (volumes.stale_data)"
            ));
        }
    }

    async fn expect_rates(&self) -> Result<(), JobError> {
        let store = &self.services.store;
        let known = Rates::default();
        self.live.meter.expect(Rates {
            download: store
                .stage_rate(TimedStage::Download.as_str())
                .await?
                .unwrap_or(known.download),
            convert: store
                .stage_rate(TimedStage::Convert.as_str())
                .await?
                .unwrap_or(known.convert),
        });
        Ok(())
    }

    /// While a disk's size is not known, that of its image has to do: were there nothing to write, the
    /// end of the download would be shown as that of the job.
    fn expect_some_disk(&self, image_bytes: u64) {
        let total = &self.live.meter.guest_total;
        if let Some(request) = &self.live.spec().volume
            && total.load(Ordering::Relaxed) == 0
        {
            total.store(image_bytes.min(request.size_bytes), Ordering::Relaxed);
        }
    }

    fn expect_disk(&self, info: &ImageInfo) {
        if self.live.spec().volume.is_some() {
            let size = info.virtual_size.unwrap_or(0);
            self.live.meter.guest_total.store(size, Ordering::Relaxed);
            let holes = size.saturating_sub(info.allocated_bytes);
            self.live.meter.guest_holes.store(holes, Ordering::Relaxed);
        }
    }

    /// A stage was completed: counted, and remembered for estimates.
    async fn measured(&self, stage: TimedStage, bytes: u64, took: Duration) {
        self.services.metrics.stage_completed(stage, took);
        let store = &self.services.store;
        let saved = store.measured(stage.as_str(), bytes, took.as_secs_f64());
        if let Err(error) = saved.await {
            // An estimate is worse next time; the job is none the worse for it.
            tracing::warn!(component = "storage", error = %error, "A measurement was not saved");
        }
    }

    fn populate_span(&self, volume: &Volume) -> Span {
        let span = self.volume_span("PopulateVolume", &volume.name);
        traces::attribute(
            &span,
            "volume.size",
            Some(traces::number(volume.size_bytes)),
        );
        span
    }

    fn volume_span(&self, name: &'static str, volume: &VolumeName) -> Span {
        let span = tracing::error_span!(
            target: traces::TARGET, parent: &self.span, "volume", otel.name = name
        );
        traces::attribute(&span, "volume.name", Some(volume.to_string()));
        span
    }

    /// Runs a step within its span, and says there why it failed.
    async fn traced<T>(
        &self,
        span: Span,
        step: impl Future<Output = Result<T, JobError>>,
    ) -> Result<T, JobError> {
        let result = step.instrument(span.clone()).await;
        if let Err(error) = &result {
            traces::failed(&span, error.kind().word(), crate::error::chain(error));
        }
        result
    }

    /// Waits for something unless the job is told to stop first.
    async fn until_stopped<T>(&self, future: impl Future<Output = T>) -> Result<T, JobError> {
        tokio::select! {
            biased;
            reason = self.live.stop.stopped() => Err(JobError::stopped(reason)),
            value = future => Ok(value),
        }
    }
}

/// Why an image was not written in the pass that fetched it.
const MAP_TOO_LARGE: &str =
    "The image's map is too large for one pass: downloaded first, then written from the cache";
/// See [`MAP_TOO_LARGE`].
const NO_RANGES: &str =
    "The server does not serve ranges: downloaded first, then written from the cache";

/// See [`MAP_TOO_LARGE`].
const PACKED: &str = "The image is in an archive or a stream that cannot be read in one pass: downloaded \
    first, then unpacked and written from the cache";

/// Why an object is read from its start again.
const CHANGED: &str = "The object changed while it was read; started afresh";
/// See [`CHANGED`].
const BROKEN_OFF: &str = "The download was cut off, and without a strong ETag or a .sha256 object nobody \
    knows whether the rest would be of the same version; started afresh";

fn format_of(declared: ImageType) -> lvp_image::format::ImageType {
    use lvp_image::format::ImageType as Format;
    match declared {
        ImageType::Qcow2 => Format::Qcow2,
        ImageType::Raw => Format::Raw,
        ImageType::Vmdk => Format::Vmdk,
        ImageType::Vhd => Format::Vhd,
        ImageType::Vhdx => Format::Vhdx,
        ImageType::Vdi => Format::Vdi,
        ImageType::Auto => Format::Auto,
    }
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

fn sha512_of(file: &File) -> io::Result<Sha512Digest> {
    let mut hasher = Sha512::new();
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset)? {
            0 => return Ok(Sha512Digest::new(hasher.finalize().into())),
            length => {
                hasher.update(&buffer[..length]);
                offset += length as u64;
            }
        }
    }
}

/// An error over the image's file in the cache.
fn cached(pin: &Pin, what: &str) -> JobError {
    let path = pin.path().display();
    JobError::new(
        JobErrorKind::Cache,
        format!("The cached image {path} {what}"),
    )
}

/// Runs blocking work on a thread of its own; a panic there becomes an error here.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JobError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        JobError::new(JobErrorKind::Internal, "A step crashed; see the log").because(error)
    })
}
