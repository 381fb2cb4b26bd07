//! What one job does, step by step. Every step can be repeated: a job that is resumed after a crash runs from
//! the top, finds what it made before, and continues from there.
//!
//! ```text
//! resolve -> look up --hit---------------------------------> plan -> volume -> copy -----> finish
//!    ^           |-- lead --> plan -> volume -> one pass: download+digest+cache+copy ----> finish
//!    |           |              '- (not one pass) download+digest+cache, then as a hit
//!    '-- wait ---'-- follow
//! ```
//!
//! [`Steps::attempt`], [`Steps::fetch`] and [`Steps::write_cached`] follow this diagram; the parts of each step
//! are in `image` (object, cache, plan, download), `clone`, `golden` and `put` (volumes by cloning), `checksums`
//! (digests and signatures), `unpack`, `unpacked` (unpacked copies in the cache), `volume` (making, opening, copying, finishing), `measure` (measurements
//! and estimates), and [`spans`].
//!
//! The order within `volume ... finish` is this program's guarantee: the volume says `populating` before its
//! first byte changes; its head stays cleared until the digest has been compared and everything else is on the
//! disk; then the head, then `ready`.

mod checksums;
mod clone;
mod golden;
mod image;
mod measure;
mod put;
mod room;
mod unpack;
mod unpacked;
mod verify;
mod volume;

use std::sync::{Arc, Mutex};

use lvp_api::{Cause, Lane, Method, Stage, VolumeName};
use lvp_image::copy::Engine;
use tracing::Span;

pub(super) use self::clone::in_place;
use self::clone::{Ended, Making, Turn};
use self::image::{OnePass, Plan, Resolved};
pub(super) use self::image::{cached, format_of};
use super::live::Live;
use super::{Services, spans, waiting};
use crate::cache::{Lead, Lookup, Pin};
use crate::guests::OurVolume;
use crate::job::error::JobError;
use crate::job::kind::JobErrorKind;
use crate::job::work::{ImageRequest, VolumeRequest, Work};
use crate::source::{Checksums, ImageUrl, Source, SourceErrorKind};
use crate::telemetry::metrics::TimedStage;
use crate::threads::Crashed;
use crate::transfer::Aims;
use crate::volume::Reservation;

/// How often a download starts over, because the object changed or because it was cut off and cannot be
/// continued, before the job fails.
const MAX_RESTARTS: u32 = 3;

/// Why an object is read from the start again.
const CHANGED: &str = "The object changed while it was read: the download started over";
/// See [`CHANGED`].
const MIRRORED: &str = "The image was refused, and bytes of it came from a mirror: the download started over from the \
    endpoint";
/// See [`CHANGED`].
const BAD_PART: &str = "The image was refused, and a part of it was left by an earlier download: the download started over";
/// See [`CHANGED`].
const CUT_OFF: &str = "The download was cut off, and without a strong ETag or a .sha256 object it \
    is unknown whether the rest would be of the same version: the download started over";

/// Runs a job to its end.
pub(super) async fn run(services: &Services, live: &Live) -> Result<(), JobError> {
    let work = &live.spec().work;
    let image = match work {
        Work::Provision { image, .. } | Work::Fetch { image } | Work::Golden { image } => image,
        Work::Verify { volume } => return verify::run(services, live, volume).await,
    };
    let steps = Steps {
        location: Some(live.location(&services.source)?),
        volume: work.volume(),
        ..Steps::new(services, live, image)
    };
    steps.run().await
}

/// The source as this job may use it.
fn source(services: &Services, live: &Live) -> Source {
    let key = live.spec().idempotency_key.as_deref();
    let observed = services.source.observed(Arc::clone(&live.waits) as _);
    observed.limited(services.rates.of(key))
}

/// What an image is for.
enum Way {
    /// The volume is written.
    Write,
    /// The golden volume is written, if this job has the lead in making it; the volume is its clone.
    Clone(Option<Box<Making>>),
}

struct Steps<'a> {
    services: &'a Services,
    /// Counts this job's repeated requests.
    source: Source,
    live: &'a Live,
    image: &'a ImageRequest,
    /// Where the image is; None where only what is in the cache is read.
    location: Option<ImageUrl>,
    /// None when the image is only to be cached.
    volume: Option<&'a VolumeRequest>,
    /// The room that is reserved for the job in a pool, by volume.
    room: Mutex<Vec<(VolumeName, Reservation)>>,
    /// What copies share, and the process that decodes for this job alone.
    engine: Engine,
    /// The device that is being written: not a guest's until the job ends.
    ours: Mutex<Option<OurVolume>>,
    /// The job's span, the parent of its steps' spans.
    span: Span,
}

impl<'a> Steps<'a> {
    /// Steps with an image of the cache.
    fn new(services: &'a Services, live: &'a Live, image: &'a ImageRequest) -> Self {
        Self {
            services,
            source: source(services, live),
            live,
            image,
            location: None,
            volume: None,
            room: Mutex::default(),
            engine: services.engine.for_job().until(live.stop.flag()),
            ours: Mutex::default(),
            span: Span::current(),
        }
    }

    fn location(&self) -> Result<&ImageUrl, JobError> {
        let missing = || JobError::new(JobErrorKind::Internal, "The job fetches no image");
        self.location.as_ref().ok_or_else(missing)
    }
}

impl Steps<'_> {
    /// Runs the job, again from the top each time the database or the cache was unavailable and is back: it
    /// continues from what is durable, as after a crash.
    async fn run(&self) -> Result<(), JobError> {
        loop {
            match self.attempt().await {
                Err(error) if self.is_storage_outage(&error).await => {
                    waiting::until_available(self.services, self.live, &error).await?;
                }
                ended => return ended,
            }
        }
    }

    /// Whether the error is because the database or the cache is unavailable. A file of the cache that cannot
    /// be used may be missing along with its whole directory.
    async fn is_storage_outage(&self, error: &JobError) -> bool {
        if error.is_recoverable() || error.stop_reason().is_some() {
            return error.is_recoverable();
        }
        let lost =
            error.kind() == JobErrorKind::Cache && self.services.cache.probe().await.is_err();
        lost && self.live.stop.reason().is_none()
    }

    /// All steps once, whichever job fetches the image.
    async fn attempt(&self) -> Result<(), JobError> {
        self.begin_again();
        self.expect_rates().await?;
        let mut restarts = 0;
        let mut blamed_part = false;
        let mut is_to_clone = self.is_to_clone().await?;
        loop {
            self.charge(Cause::Network);
            let resolved = self.resolve(is_to_clone).await?;
            let Resolved {
                object, checksums, ..
            } = &resolved;
            if checksums.is_empty() {
                self.source.ask_no_mirror();
            }
            self.charge(Cause::Device);
            let mut way = Way::Write;
            if is_to_clone {
                let turn = self.by_golden(object, checksums).await?;
                if let Turn::Wait(_) = turn {
                    resolved.looked_up(&self.live.meter);
                }
                match turn {
                    Turn::Done => return Ok(()),
                    Turn::Wait(follower) => {
                        object.end_opening();
                        self.follow(follower).await?;
                        continue;
                    }
                    Turn::Image(making) => way = Way::Clone(making),
                    Turn::Write => is_to_clone = false,
                }
            }
            let found = self.look_up(object, checksums).await?;
            resolved.looked_up(&self.live.meter);
            let ended = match found {
                Lookup::Hit(pin) => {
                    self.expect_announced(&pin, checksums).await?;
                    self.use_cached(pin, checksums, way).await
                }
                Lookup::Follow(follower) => {
                    object.end_opening();
                    self.follow(follower).await?;
                    continue;
                }
                Lookup::Lead(mut lead) => {
                    if checksums.is_empty() && self.source.has_mirrors() {
                        // What an earlier job has left may be a mirror's, and nothing would tell.
                        lead.begin_anew().await?;
                    }
                    let has_part = lead.durable_bytes() > 0;
                    let can_go_on = lead.can_be_joined();
                    let ended = self.fetch(*lead, checksums, way).await;
                    let why = match ended.as_ref().err().map(JobError::kind) {
                        _ if restarts == MAX_RESTARTS => None,
                        Some(kind) if kind.is_of_bytes() && self.source.avoid_mirrors() => {
                            Some(MIRRORED)
                        }
                        // The part has been discarded.
                        Some(kind) if kind.is_of_bytes() && has_part && !blamed_part => {
                            blamed_part = true;
                            Some(BAD_PART)
                        }
                        Some(JobErrorKind::Source(SourceErrorKind::ObjectChanged)) => Some(CHANGED),
                        Some(JobErrorKind::Source(SourceErrorKind::Unavailable)) if !can_go_on => {
                            Some(CUT_OFF)
                        }
                        _ => None,
                    };
                    if ended.is_ok() {
                        self.source.blame_mirrors();
                    }
                    if let Some(why) = why {
                        restarts += 1;
                        self.live.note(why);
                        continue;
                    }
                    ended
                }
            };
            match ended? {
                Ended::Done => return Ok(()),
                // The image, or as much of it as was fetched, is in the cache now.
                Ended::WithoutClone => is_to_clone = false,
            }
        }
    }

    /// Fetches the object for all jobs that need it, and writes this job's volume in the same pass.
    async fn fetch(&self, lead: Lead, checksums: &Checksums, way: Way) -> Result<Ended, JobError> {
        self.begin_download(&lead);
        let OnePass { info, image, check } = match self.plan_remote(lead.object()).await? {
            Plan::OnePass(plan) => *plan,
            Plan::CacheFirst { info, why } => {
                // Downloads the whole object to the cache, then continues as on a hit.
                self.live.note(why);
                self.expect_disk_after(info.as_ref(), lead.object().size);
                let (pin, ()) = self.download(lead, Aims::cache(None), checksums).await?;
                return self.use_cached(pin, checksums, way).await;
            }
        };
        if let Way::Clone(making) = way {
            let plan = (info, image, check);
            return self.fetch_golden(lead, plan, checksums, making).await;
        }
        self.fetch_and_write(lead, OnePass { info, image, check }, checksums)
            .await?;
        Ok(Ended::Done)
    }

    /// Continues from a published image.
    async fn use_cached(
        &self,
        pin: Pin,
        checksums: &Checksums,
        way: Way,
    ) -> Result<Ended, JobError> {
        match way {
            Way::Clone(making) => self.clone_cached(pin, checksums, making).await,
            Way::Write => {
                self.write_cached(pin).await?;
                Ok(Ended::Done)
            }
        }
    }

    /// Fetches and writes in one pass, for a job that does not clone.
    async fn fetch_and_write(
        &self,
        lead: Lead,
        OnePass { info, image, check }: OnePass,
        checksums: &Checksums,
    ) -> Result<(), JobError> {
        let Some(request) = self.volume else {
            self.download(lead, Aims::cache(Some(check)), checksums)
                .await?;
            return Ok(());
        };
        self.expect_disk(&info);
        let volume = self.prepare(request, &info).await?;
        let populated = async {
            let copier = self.start_copy(&volume, image).await?;
            let aims = Aims::volume(copier, check);
            let (pin, written) = self.download(lead, aims, checksums).await?;
            // It overlaps with the download, so it does not measure how long converting alone takes.
            let metrics = &self.services.metrics;
            metrics.stage_completed(TimedStage::Convert, written.took);
            self.finish(&volume, written.body, pin.digest()).await?;
            self.made_by(Method::Stream);
            Ok(())
        };
        spans::traced(spans::populate_volume(&self.span, &volume), populated).await
    }

    /// Writes the volume from a published image; a job without a volume only checks that it is an image.
    async fn write_cached(&self, pin: Pin) -> Result<(), JobError> {
        self.show_image(&pin);
        let pin = Arc::new(pin);
        let Some(request) = self.volume else {
            self.plan_cached(&pin).await?;
            return Ok(());
        };
        let reading = self.read_cached(&pin, request).await?;
        let info = reading.info.clone();
        self.expect_disk(&info);
        self.live.meter.enter(Stage::Converting);
        let volume = self.prepare(request, &info).await?;
        let populated = async {
            let (planner, disk) = reading.into_parts();
            let body = self.copy_cached(&volume, planner).await?;
            // Everything that was read, the image's map included, is covered by the digest.
            self.expect_source_unchanged(&pin, disk.as_ref()).await?;
            if disk.is_some() {
                self.services.metrics.unpacked_copied();
            }
            self.finish(&volume, body, pin.digest()).await?;
            self.made_by(Method::Copy);
            Ok(())
        };
        spans::traced(spans::populate_volume(&self.span, &volume), populated).await
    }
}

impl Steps<'_> {
    /// What the job's time goes to from now on.
    fn charge(&self, cause: Cause) {
        self.live.meter.account.charge(cause);
    }

    /// An attempt begins, and what an earlier one left running on the time line has ended.
    fn begin_again(&self) {
        let trail = &self.live.meter.trail;
        let others = Lane::ALL.into_iter();
        let others = others.filter(|lane| *lane != Lane::Initializing);
        others.for_each(|lane| trail.end(lane));
        trail.begin(Lane::Initializing);
    }

    /// Records how the volume was made.
    fn made_by(&self, method: Method) {
        self.live.update(|job| job.method = Some(method));
    }
}

impl From<Crashed> for JobError {
    fn from(crashed: Crashed) -> Self {
        Self::new(JobErrorKind::Internal, "A step crashed; see the log").because(crashed)
    }
}
