//! Where the bytes of a pass go beside the digest and the cache's file.

use std::time::{Duration, Instant};

use bytes::Bytes;
use lvp_image::copy::{Body, Copier};

use super::digests::Wanted;
use crate::source::PlanCheck;

/// Takes all pieces of an image, in order.
pub trait Outlet: Send + 'static {
    /// What there is in the end.
    type Written: Send + 'static;

    /// Takes the next piece; slow outlets set the pace.
    fn feed(&mut self, piece: Bytes) -> lvp_image::Result<()>;

    /// There are no more pieces, and none is missing.
    fn finish(self) -> lvp_image::Result<Self::Written>;
}

/// What a pass is for. A volume is written only with the check: its plan came by requests of its own.
pub struct Aims<O> {
    pub(super) outlet: O,
    /// Compares the bytes with those that the plan was made from.
    pub(super) check: Option<PlanCheck>,
    /// What is taken beside the SHA-256.
    pub(super) wanted: Wanted,
}

impl<O> Aims<O> {
    /// What else is to be taken of all bytes.
    pub fn taking(mut self, wanted: Wanted) -> Self {
        self.wanted = wanted;
        self
    }
}

impl Aims<CacheOnly> {
    /// The cache's file alone, whether or not something is known of the image.
    pub fn cache(check: Option<PlanCheck>) -> Self {
        Self {
            outlet: CacheOnly,
            check,
            wanted: Wanted::default(),
        }
    }
}

impl Aims<ToVolume> {
    /// A volume beside the cache's file, by a plan.
    pub fn volume(copier: Copier, check: PlanCheck) -> Self {
        Self {
            outlet: ToVolume {
                copier,
                started: Instant::now(),
            },
            check: Some(check),
            wanted: Wanted::default(),
        }
    }
}

/// Nothing beside the cache's file.
#[derive(Debug)]
pub struct CacheOnly;

/// A volume.
pub struct ToVolume {
    copier: Copier,
    started: Instant,
}

/// A volume that was written and whose head is held back.
#[derive(Debug)]
pub struct Written {
    /// What is held back.
    pub body: Body,
    /// From the start of the copy to the last byte settled on the volume.
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

    fn finish(self) -> lvp_image::Result<Written> {
        let body = self.copier.finish()?;
        Ok(Written {
            body,
            took: self.started.elapsed(),
        })
    }
}
