//! The steps that handle the image: its object, the cache, its plan, its download.

use std::fs::File;
use std::sync::Arc;

use lvp_api::{Cause, ImageType, Lane, Sha256Digest, Stage};
use lvp_image::copy::PlannedImage;
use lvp_image::plan::{ImageInfo, Planner};
use lvp_image::source::FileSource;
use tokio_util::sync::CancellationToken;

use super::Steps;
use crate::cache::{Lead, Looking, Lookup, Pin, Published};
use crate::job::error::JobError;
use crate::job::flight::Follower;
use crate::job::kind::JobErrorKind;
use crate::job::meter::Meter;
use crate::jobs::{SAMPLE_INTERVAL, spans, waiting};
use crate::source::{Checksums, ObjectMeta, PlanCheck, SourceErrorKind, Want};
use crate::telemetry::metrics::TimedStage;
use crate::threads::blocking;
use crate::transfer::{self, Aims, Outlet, Streamed, TransferError};

/// Why an image is not written in the pass that fetches it.
const MAP_TOO_LARGE: &str = "The image's map is too large for one pass: it was downloaded first, then written from the \
     cache";
/// See [`MAP_TOO_LARGE`].
const NO_RANGES: &str =
    "The server does not serve ranges: the image was downloaded first, then written from the cache";

/// See [`MAP_TOO_LARGE`].
const PACKED: &str = "The image is in an archive or a stream that cannot be read in one pass: it \
    was downloaded first, then unpacked and written from the cache";

/// How an object is to be read.
pub(super) enum Plan {
    /// In one pass, written to the volume as it arrives.
    OnePass(Box<OnePass>),
    /// Into the cache first.
    CacheFirst {
        /// What is known of the image.
        info: Option<ImageInfo>,
        /// Why.
        why: &'static str,
    },
}

/// A plan, with what the image's bytes must be compared with before anybody relies on it.
pub(super) struct OnePass {
    pub(super) info: ImageInfo,
    pub(super) image: PlannedImage,
    pub(super) check: PlanCheck,
}

/// An object that was looked up.
pub(super) struct Resolved {
    pub(super) object: ObjectMeta,
    pub(super) checksums: Checksums,
    looking: Looking,
}

impl Resolved {
    /// This job has the lead, or found that another one has.
    pub(super) fn looked_up(&self, meter: &Arc<Meter>) {
        if let Looking::First(guard) = &self.looking {
            guard.show(Arc::clone(meter));
        }
    }
}

/// A cached image that was opened.
pub(super) enum Opening {
    /// It can be read as it is.
    Plain(Box<Planner<FileSource>>),
    /// It has to be unpacked first.
    Packed(FileSource),
}

/// A downloaded object whose digest was compared.
struct Received<W> {
    file: File,
    written: W,
}

impl Steps<'_> {
    /// What the object is now, and which digests it must have. Its first bytes come along if this job will probably
    /// fetch it.
    pub(super) async fn resolve(&self, is_to_clone: bool) -> Result<Resolved, JobError> {
        let url = self.location()?;
        let cache = &self.services.cache;
        let mut looking = cache.look(&url.identity(), is_to_clone).await?;
        let want = match looking {
            Looking::First(_) => Want::Bytes,
            Looking::After(_) | Looking::Known => Want::Version,
        };
        let found = self.source.find(url, self.image.checksum, want);
        let (object, checksums) = self.until_stopped(found).await??;
        self.expect_checksum(&checksums)?;
        if let Looking::After(first) = &mut looking {
            // It has the first bytes, which this job has not.
            self.charge(Cause::Queue);
            self.until_stopped(first.shown()).await?;
            self.charge(Cause::Network);
        }
        Ok(Resolved {
            object,
            checksums,
            looking,
        })
    }

    /// What the cache has of the object.
    pub(super) async fn look_up(
        &self,
        object: &ObjectMeta,
        checksums: &Checksums,
    ) -> Result<Lookup, JobError> {
        let cache = &self.services.cache;
        let sidecar = checksums.sha256.as_ref().map(|announced| announced.digest);
        let found = cache.lookup(object, self.image.image_type, sidecar).await?;
        self.note_lookup(matches!(found, Lookup::Hit(_)));
        Ok(found)
    }

    /// Notes whether the image is on this host: in the cache, or as a golden volume.
    pub(super) fn note_lookup(&self, is_hit: bool) {
        self.count_lookup(is_hit);
        self.live.update(|job| match is_hit {
            // A job that waited for another job has missed.
            true => _ = job.cache_hit.get_or_insert(true),
            false => job.cache_hit = Some(false),
        });
    }

    /// Waits for the job that is fetching the same object, showing its progress as this job's.
    pub(super) async fn follow(&self, mut follower: Follower) -> Result<(), JobError> {
        self.live.meter.enter(Stage::Downloading);
        self.charge(Cause::Queue);
        self.live.meter.trail.go_on_to(Lane::Queued);
        let mut tick = tokio::time::interval(SAMPLE_INTERVAL);
        let mut need = None;
        loop {
            tokio::select! {
                reason = self.live.stop.stopped() => return Err(JobError::stopped(reason)),
                () = follower.ended() => {
                    self.live.meter.trail.end(Lane::Queued);
                    self.live.meter.trail.begin(Lane::Initializing);
                    return Ok(());
                }
                _ = tick.tick() => {
                    if let Some(leader) = follower.state().meter {
                        // It must not be paused, as this job has a slot and waits for it.
                        need.get_or_insert_with(|| leader.pause.need());
                        self.live.meter.follow(&leader);
                    }
                }
            }
        }
    }

    /// Shows that the download begins, or where it continues.
    pub(super) fn begin_download(&self, lead: &Lead) {
        lead.show(Arc::clone(&self.live.meter));
        let (done_bytes, size_bytes) = (lead.durable_bytes(), lead.object().size);
        self.live.meter.expect_source(size_bytes);
        self.live.meter.enter(Stage::Downloading);
        if done_bytes > 0 {
            self.live.note(format!(
                "Resumed the download after {done_bytes} of {size_bytes} bytes"
            ));
        }
    }

    /// Reads the image's metadata by ranges.
    pub(super) async fn plan_remote(&self, object: &ObjectMeta) -> Result<Plan, JobError> {
        self.charge(Cause::Network);
        let cancel = CancellationToken::new();
        let reader = self.source.reader(object, cancel.clone());
        let declared = format_of(self.image.image_type);
        let decoders = self.engine.decoders().clone();
        let planned = blocking(move || {
            let mut planner = Planner::open_with(reader, declared, &decoders)?;
            let info = planner.info().clone();
            let image = planner
                .is_one_pass()
                .then(|| PlannedImage::take(&mut planner))
                .transpose()?;
            let check = planner.into_source().into_check();
            Ok::<_, lvp_image::Error>((info, image.zip(check)))
        });
        tokio::pin!(planned);
        let planned = tokio::select! {
            planned = &mut planned => planned?.map_err(JobError::from),
            reason = self.live.stop.stopped() => {
                cancel.cancel();
                return Err(JobError::stopped(reason));
            }
        };
        match planned {
            Ok((info, Some((image, check)))) => {
                Ok(Plan::OnePass(Box::new(OnePass { info, image, check })))
            }
            Ok((info, None)) => Ok(Plan::CacheFirst {
                info: Some(info),
                why: MAP_TOO_LARGE,
            }),
            Err(error) if error.kind() == JobErrorKind::Source(SourceErrorKind::RangesIgnored) => {
                Ok(Plan::CacheFirst {
                    info: None,
                    why: NO_RANGES,
                })
            }
            Err(error) if error.kind() == JobErrorKind::Image(lvp_image::ErrorKind::Packed) => {
                Ok(Plan::CacheFirst {
                    info: None,
                    why: PACKED,
                })
            }
            Err(error) => Err(error),
        }
    }

    /// The download in one pass, in a span of its own. Returns the published image, and the result of what was
    /// written in the same pass.
    pub(super) async fn download<O: Outlet>(
        &self,
        mut lead: Lead,
        aims: Aims<O>,
        checksums: &Checksums,
    ) -> Result<(Pin, O::Written), JobError> {
        let span = spans::download(&self.span, self.image.url.to_string(), &lead);
        let before = self.live.meter.requests.repeated();
        let aims = aims
            .taking(self.wanted(checksums)?)
            .yielding_by(self.services.guests.cache_limiter());
        let received = self.receive(&mut lead, aims, checksums);
        let received = spans::traced(span.clone(), received).await;
        spans::repeated(&span, self.live.meter.requests.repeated() - before);
        let (digest, Received { file, written }) = received?;
        let size_bytes = lead.object().size;
        let published = lead.publish(file, digest).await?;
        Ok((self.record(published, size_bytes).await?, written))
    }

    /// The download, and the comparison of its digests with the expected ones.
    async fn receive<O: Outlet>(
        &self,
        lead: &mut Lead,
        aims: Aims<O>,
        checksums: &Checksums,
    ) -> Result<(Sha256Digest, Received<O::Written>), JobError> {
        let has_part = lead.durable_bytes() > 0;
        let fresh_bytes = lead.object().size - lead.durable_bytes();
        let (meter, stop) = (&self.live.meter, &self.live.stop);
        let streamed = match transfer::stream(&self.source, lead, aims, meter, stop).await {
            // The partial file cannot be used: it would fill a disk that others need, the object has changed
            // meanwhile, or a mirror has sent other bytes, now or when an earlier job fetched the first part.
            Err(error) if error.discards_partial() || self.may_be_others(&error, has_part) => {
                lead.discard().await?;
                return Err(error.into());
            }
            streamed => streamed?,
        };
        self.charge(Cause::Device);
        let Streamed {
            digests,
            file,
            download,
            written,
        } = streamed;
        let digest = digests.sha256;
        self.live.update(|job| job.image_digest = Some(digest));
        if let Err(error) = self.compare(checksums, digests) {
            lead.discard().await?;
            return Err(error);
        }
        self.measured(TimedStage::Download, fresh_bytes, download);
        Ok((digest, Received { file, written }))
    }

    /// Whether the image may be damaged only because of what mirrors have sent, or in the part that was there before.
    fn may_be_others(&self, error: &TransferError, has_part: bool) -> bool {
        let is_damaged = matches!(error, TransferError::Image(error) if error.kind().is_refusal());
        is_damaged && (has_part || self.source.used_mirrors())
    }

    /// Puts a published image into the index, once that can be written.
    async fn record(&self, published: Published, size_bytes: u64) -> Result<Pin, JobError> {
        while let Err(error) = published.record().await {
            if !error.is_recoverable() {
                return Err(error.into());
            }
            waiting::until_available(self.services, self.live, &error.into()).await?;
        }
        let pin = published.into_pin();
        let metrics = &self.services.metrics;
        metrics.image_downloaded(self.image.image_type, size_bytes);
        self.services.measure_cache().await;
        self.live
            .update(|job| job.image_path = Some(pin.path().display().to_string()));
        Ok(pin)
    }

    /// Shows the cached image on the job's record.
    pub(super) fn show_image(&self, pin: &Pin) {
        self.live.update(|job| {
            job.image_path = Some(pin.path().display().to_string());
            job.image_digest = Some(pin.digest());
        });
    }

    /// Reads a cached image's metadata, from the same open file that was verified.
    pub(super) async fn plan_cached(
        &self,
        pin: &Arc<Pin>,
    ) -> Result<Planner<FileSource>, JobError> {
        let opening = self.open_cached(pin).await?;
        self.opened(opening).await
    }

    /// Opens a cached image as far as that is possible without unpacking it.
    pub(super) async fn open_cached(&self, pin: &Arc<Pin>) -> Result<Opening, JobError> {
        let pin = Arc::clone(pin);
        let declared = format_of(self.image.image_type);
        let source = move || -> Result<_, JobError> {
            pin.file()
                .try_clone()
                .and_then(FileSource::new)
                .map_err(|error| cached(&pin, "cannot be opened").because(error))
        };
        let again = source.clone();
        let decoders = self.engine.decoders().clone();
        let planned = blocking(move || -> Result<_, JobError> {
            Ok(Planner::open_with(source()?, declared, &decoders)?)
        });
        match planned.await? {
            Err(error) if error.kind() == JobErrorKind::Image(lvp_image::ErrorKind::Packed) => {
                Ok(Opening::Packed(blocking(again).await??))
            }
            planned => Ok(Opening::Plain(Box::new(planned?))),
        }
    }

    /// Unpacks the image if that is necessary.
    pub(super) async fn opened(&self, opening: Opening) -> Result<Planner<FileSource>, JobError> {
        match opening {
            Opening::Plain(planner) => Ok(*planner),
            Opening::Packed(source) => {
                let declared = format_of(self.image.image_type);
                self.unpack(source, declared).await
            }
        }
    }

    /// Fails unless the cached image still has its digest.
    pub(super) async fn expect_unchanged(&self, pin: &Arc<Pin>) -> Result<(), JobError> {
        let looked_at = Arc::clone(pin);
        match blocking(move || looked_at.is_unchanged()).await? {
            Ok(true) => Ok(()),
            Ok(false) => Err(cached(pin, "was changed while it was read")),
            Err(error) => Err(cached(pin, "cannot be read again").because(error)),
        }
    }

    /// Waits for something unless the job is told to stop first.
    pub(super) async fn until_stopped<T>(
        &self,
        future: impl Future<Output = T>,
    ) -> Result<T, JobError> {
        tokio::select! {
            biased;
            reason = self.live.stop.stopped() => Err(JobError::stopped(reason)),
            value = future => Ok(value),
        }
    }
}

pub(in crate::jobs) fn format_of(declared: ImageType) -> lvp_image::format::ImageType {
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

/// An error about the image's file in the cache.
pub(in crate::jobs) fn cached(pin: &Pin, what: &str) -> JobError {
    let path = pin.path().display();
    JobError::new(
        JobErrorKind::Cache,
        format!("The cached image {path} {what}"),
    )
}
