//! Volumes by cloning: the image's golden volume is found or made, and cloned.
//!
//! ```text
//! resolve -> golden volume? --sound-----------------------------------------------------> clone
//!    ^          |-- lead --> (plan, one pass or from the cache) onto it -> seal -> held --> clone
//!    '-- wait --'-- follow
//! ```
//!
//! Which digest the object has, its identity and version decide, as for the cache: a golden volume is used for an
//! object only when its bytes are known to be those. Where a clone cannot be had, a job that need not have one
//! goes on without, and says why.

use std::sync::Arc;

use lvp_api::{Cloning, Stage};

use super::Steps;
use super::golden::origin;
use super::put::Before;
use crate::cache::Pin;
use crate::error::chain;
use crate::golden::Held;
use crate::job::error::JobError;
use crate::job::flight::{FlightGuard, Follower};
use crate::job::kind::JobErrorKind;
use crate::job::work::{VolumeRequest, Work};
use crate::jobs::spans;
use crate::source::{Checksums, ObjectMeta};
use crate::volume::{self, GoldenKey, Volume, VolumeState};

/// The lead in making a golden volume.
pub(super) struct Making {
    pub(super) key: GoldenKey,
    pub(super) flight: FlightGuard,
    /// It is there already, and it is to be shown that it holds this object.
    pub(super) held: Option<Held>,
}

/// What is next of a job that clones.
pub(super) enum Turn {
    /// Cloned.
    Done,
    /// Another job is making the golden volume.
    Wait(Follower),
    /// The image itself is needed, for the golden volume where its digest is known beforehand.
    Image(Option<Box<Making>>),
    /// The volume is written: something is in the way of a clone, which is in a note.
    Write,
}

/// How a job ended that was to clone.
pub(super) enum Ended {
    /// As it should.
    Done,
    /// There is no clone to be had: the volume is to be written.
    WithoutClone,
}

impl Steps<'_> {
    /// Whether this job clones where there are clones. What is in the way of one that need not is in a note.
    pub(super) async fn is_to_clone(&self) -> Result<bool, JobError> {
        match self.volume {
            Some(request) if request.clone == Cloning::Never => return Ok(false),
            None if !matches!(self.live.spec().work, Work::Golden { .. }) => return Ok(false),
            _ => {}
        }
        let is_to_clone = self.clones_unless(self.services.why_no_clones().await)?;
        match is_to_clone && self.live.is_resumed() {
            // Its volume may have been finished already, or be another's by now: that comes before anything is asked for.
            true => self.may_be_clone().await,
            false => Ok(is_to_clone),
        }
    }

    /// Whether its volume can be a clone, whatever the image is. Asked before anything is fetched for it, or made.
    async fn may_be_clone(&self) -> Result<bool, JobError> {
        match self.volume {
            Some(request) => self.clones_unless(self.why_not_clone(request).await?),
            None => Ok(true),
        }
    }

    pub(super) fn clones_unless(&self, why_not: Option<String>) -> Result<bool, JobError> {
        match why_not {
            None => Ok(true),
            Some(why) if self.must_clone() => Err(JobError::new(
                JobErrorKind::CloneUnavailable,
                format!("The volume cannot be cloned: {why}"),
            )),
            Some(why) => {
                self.live.note(format!("Not cloned: {why}"));
                Ok(false)
            }
        }
    }

    fn must_clone(&self) -> bool {
        self.volume
            .is_none_or(|request| request.clone == Cloning::Require)
    }

    /// Why a volume cannot be a clone, whatever its image is. What no job may write is refused here already, before
    /// anything is fetched for it.
    async fn why_not_clone(&self, request: &VolumeRequest) -> Result<Option<String>, JobError> {
        let volumes = &self.services.volumes;
        let clones = match volumes.clones().await {
            Ok(clones) => clones,
            Err(why) => return Ok(Some(why)),
        };
        let found = volumes.lookup(&request.name).await?;
        if self.live.is_resumed() {
            self.check_standing(found.as_ref()).await?;
        }
        let Some(existing) = found.filter(|found| !self.is_unfinished_here(found)) else {
            return Ok(None);
        };
        let unmarked = self.services.settings.unmarked(request);
        volumes.check_writable(&existing, unmarked).await?;
        if !clones.is_replaceable(&existing) {
            return Ok(Some(in_place(&existing)));
        }
        volume::fits(existing.size_bytes, request.size_bytes, 0)?;
        clones.check_unused(&existing).await?;
        Ok(None)
    }

    /// Whether a volume is what this job has made and not finished.
    pub(super) fn is_unfinished_here(&self, volume: &Volume) -> bool {
        let (job, created) = (self.live.id, true);
        volume.state == VolumeState::Populating { job, created }
    }

    /// Clones the object's golden volume if that is known to be the object's, or takes the lead in making it.
    pub(super) async fn by_golden(
        &self,
        object: &ObjectMeta,
        checksums: &Checksums,
    ) -> Result<Turn, JobError> {
        let announced = checksums.sha256.as_ref().map(|announced| announced.digest);
        let cache = &self.services.cache;
        let known = cache.known_digest(object, announced).await?;
        let Some(digest) = known.or(announced) else {
            return Ok(match self.may_be_clone().await? {
                true => Turn::Image(None),
                false => Turn::Write,
            });
        };
        let key = GoldenKey {
            digest,
            image_type: self.image.image_type,
        };
        let shelf = &self.services.golden;
        if known.is_some()
            && let Some((held, before)) = self.find_golden(&key).await?
            && self.is_verified(&key, checksums).await?
        {
            self.compare_known(digest, checksums)?;
            return self.clone_known(&held, before).await;
        }
        if !self.may_be_clone().await? {
            return Ok(Turn::Write);
        }
        let flight = match shelf.enter(&key) {
            Ok(flight) => flight,
            Err(follower) => {
                self.note_lookup(false);
                return Ok(Turn::Wait(follower));
            }
        };
        // From here on, as who follows keeps it from being paused: the image may have to be downloaded first, and those
        // who wait for that may have all slots.
        flight.show(Arc::clone(&self.live.meter));
        // Another job may have made it between the look and the entry.
        let held = shelf.find(&key).await?;
        if let Some(held) = &held
            && known.is_some()
            && self.is_verified(&key, checksums).await?
        {
            self.compare_known(digest, checksums)?;
            drop(flight);
            return self.clone_known(held, Before::Unknown).await;
        }
        let making = Making { key, flight, held };
        Ok(Turn::Image(Some(Box::new(making))))
    }

    /// The golden volume, and by the same look the volume that is to be its clone.
    async fn find_golden(&self, key: &GoldenKey) -> Result<Option<(Held, Before)>, JobError> {
        let shelf = &self.services.golden;
        let Some(request) = self.volume else {
            let held = shelf.find(key).await?;
            return Ok(held.map(|held| (held, Before::Unknown)));
        };
        let found = shelf.find_and(key, &request.name).await?;
        Ok(found.map(|(held, volume)| (held, Before::Seen(volume.map(Box::new)))))
    }

    async fn clone_known(&self, held: &Held, before: Before) -> Result<Turn, JobError> {
        self.note_lookup(true);
        Ok(match self.clone_to(held, before).await? {
            Ended::Done => Turn::Done,
            Ended::WithoutClone => Turn::Write,
        })
    }

    /// Whether an image is known to be what it must be beyond its SHA-256, so that none of its bytes has to be read.
    /// Its SHA-512 is known once it was compared; a signature of its bytes is compared for each job, by the keys
    /// that are trusted then.
    async fn is_verified(&self, key: &GoldenKey, checksums: &Checksums) -> Result<bool, JobError> {
        if !checksums.signatures.is_empty() {
            return Ok(false);
        }
        let Some(expected) = &checksums.sha512 else {
            return Ok(true);
        };
        let known = self.services.golden.sha512(key).await?;
        Ok(known == Some(expected.digest))
    }

    /// Clones the golden volume of an image that is in the cache, which is made from there if it is not there.
    pub(super) async fn clone_cached(
        &self,
        pin: Pin,
        checksums: &Checksums,
        making: Option<Box<Making>>,
    ) -> Result<Ended, JobError> {
        self.show_image(&pin);
        let key = GoldenKey {
            digest: pin.digest(),
            image_type: self.image.image_type,
        };
        let shelf = &self.services.golden;
        let making = match making.filter(|making| making.key == key) {
            Some(making) => making,
            None => loop {
                match shelf.enter(&key) {
                    Ok(flight) => {
                        let held = shelf.find(&key).await?;
                        break Box::new(Making { key, flight, held });
                    }
                    Err(follower) => self.follow(follower).await?,
                }
            },
        };
        if let Some(held) = &making.held {
            // The image has it, which was compared beside the SHA-256.
            if let Some(sha512) = &checksums.sha512 {
                shelf.learned_sha512(&key, sha512.digest).await?;
            }
            drop(making.flight);
            return self.clone_from(held).await;
        }
        making.flight.show(Arc::clone(&self.live.meter));
        let pin = Arc::new(pin);
        let planner = self.plan_cached(&pin).await?;
        let info = planner.info().clone();
        self.expect_disk(&info);
        self.live.meter.enter(Stage::Converting);
        let Some(volume) = self.make_golden(&making, &info).await? else {
            return Ok(Ended::WithoutClone);
        };
        let populated = async {
            let body = self.copy_cached(&volume, planner).await?;
            self.expect_unchanged(&pin).await?;
            let origin = origin(self.image.url.to_string(), checksums);
            self.seal(&making, &volume, body, &pin, origin).await
        };
        let span = spans::populate_volume(&self.span, &volume);
        let populated = spans::traced(span, populated).await;
        self.clone_made(&making, &volume, populated).await
    }

    /// What becomes of a job without a clone: it goes on, where it need not have one and the clone is to blame.
    pub(super) fn do_without(&self, error: JobError) -> Result<Ended, JobError> {
        let is_of_clone = matches!(
            error.kind(),
            JobErrorKind::CloneUnavailable
                | JobErrorKind::Volume
                | JobErrorKind::VolumeNoSpace
                | JobErrorKind::Image(lvp_image::ErrorKind::NoSpace)
        );
        if self.must_clone() || error.is_recoverable() || !is_of_clone {
            return Err(error);
        }
        let why = chain(&error);
        tracing::warn!(
            component = "provisioner", job_id = %self.live.id, why,
            "The volume is written, as it cannot be cloned"
        );
        self.live.note(format!("Not cloned: {why}"));
        Ok(Ended::WithoutClone)
    }
}

/// Why a volume that is there is no clone afterwards.
pub(in crate::jobs) fn in_place(existing: &Volume) -> String {
    let name = &existing.name;
    format!(
        "volume {name} is there and is no volume of this program that a clone can replace, so it is written \
         in place"
    )
}
