//! Where the bytes of a pass go besides the digest and the cache file.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lvp_image::copy::{Body, Copier, RateLimiter};

use super::digests::Wanted;
use crate::source::PlanCheck;

/// Accepts all pieces of an image, in order.
pub trait Outlet: Send + 'static {
    /// The result.
    type Written: Send + 'static;

    /// Accepts the next piece. Slow outlets set the pace.
    fn feed(&mut self, piece: Bytes) -> lvp_image::Result<()>;

    /// Whether the pass may be paused: not if others wait for something that it holds.
    fn may_be_paused(&self) -> bool {
        true
    }

    /// There are no more pieces, and none is missing.
    fn finish(self) -> lvp_image::Result<Self::Written>;
}

/// The purpose of a pass. A volume is written only with the check, because its plan was made from
/// separate requests.
pub struct Aims<O> {
    pub(super) outlet: O,
    /// Compares the bytes with those that the plan was made from.
    pub(super) check: Option<PlanCheck>,
    /// What is computed beside the SHA-256.
    pub(super) wanted: Wanted,
    /// Holds back the cache's file while others need its disk.
    pub(super) yielding: Option<Arc<RateLimiter>>,
}

impl<O> Aims<O> {
    /// What else is to be taken of all bytes.
    pub fn taking(mut self, wanted: Wanted) -> Self {
        self.wanted = wanted;
        self
    }

    /// What holds back the cache's file while others need its disk.
    pub fn yielding_by(mut self, limiter: Option<Arc<RateLimiter>>) -> Self {
        self.yielding = limiter;
        self
    }
}

impl Aims<CacheOnly> {
    /// The cache file only, whether or not there is a plan to compare with.
    pub fn cache(check: Option<PlanCheck>) -> Self {
        Self {
            outlet: CacheOnly,
            check,
            wanted: Wanted::default(),
            yielding: None,
        }
    }
}

impl Aims<ToVolume> {
    /// A volume besides the cache file, by a plan.
    pub fn volume(copier: Copier, check: PlanCheck) -> Self {
        Self {
            outlet: ToVolume {
                copier,
                started: Instant::now(),
            },
            check: Some(check),
            wanted: Wanted::default(),
            yielding: None,
        }
    }
}

/// Nothing besides the cache file.
#[derive(Debug)]
pub struct CacheOnly;

/// A volume.
pub struct ToVolume {
    copier: Copier,
    started: Instant,
}

/// A volume that was written except for its head, which is held back.
#[derive(Debug)]
pub struct Written {
    /// The held-back head.
    pub body: Body,
    /// From the start of the copy until the last byte was in place on the volume.
    pub took: Duration,
}

impl Outlet for CacheOnly {
    type Written = ();

    fn feed(&mut self, _: Bytes) -> lvp_image::Result<()> {
        Ok(())
    }

    fn finish(self) -> lvp_image::Result<()> {
        Ok(())
    }
}

impl Outlet for ToVolume {
    type Written = Written;

    fn feed(&mut self, piece: Bytes) -> lvp_image::Result<()> {
        self.copier.feed(piece)
    }

    fn may_be_paused(&self) -> bool {
        !self.copier.shares_memory()
    }

    fn finish(self) -> lvp_image::Result<Written> {
        let body = self.copier.finish()?;
        Ok(Written {
            body,
            took: self.started.elapsed(),
        })
    }
}
