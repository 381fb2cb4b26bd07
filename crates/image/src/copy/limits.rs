//! What holds back a copy: its configured rate, others who need the device, and its owner.

use std::sync::Arc;

use super::brake::Brake;
use super::limit::RateLimiter;
use super::options::TimeSpent;
use super::stop::StopSignal;
use crate::error::Result;

/// The limits of one copy. What is waited for is accounted for each of them.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    /// The configured rate.
    pub(crate) limiter: Option<Arc<RateLimiter>>,
    /// The rate that others leave, while they need the device.
    pub(crate) yielding: Option<Arc<RateLimiter>>,
    /// Whether the image is read from the same device.
    pub(crate) yields_reads: bool,
    pub(crate) brake: Arc<Brake>,
}

impl Limits {
    /// Waits until the configured rate lets these bytes through.
    pub(crate) fn wait_for_turn(
        &self,
        bytes: u64,
        time: &TimeSpent,
        stop: &StopSignal,
    ) -> Result<()> {
        match &self.limiter {
            Some(limiter) => TimeSpent::add(&time.limit_ns, || limiter.wait(bytes, stop)),
            None => stop.check(),
        }
    }

    /// Waits until others leave room for these bytes.
    pub(crate) fn give_way(&self, bytes: u64, time: &TimeSpent, stop: &StopSignal) -> Result<()> {
        match &self.yielding {
            Some(yielding) => TimeSpent::add(&time.yield_ns, || yielding.wait(bytes, stop)),
            None => Ok(()),
        }
    }

    /// How much is to be moved at a time while others need the device.
    pub(crate) fn portion_bytes(&self) -> Option<usize> {
        self.yielding.as_ref()?.portion_bytes()
    }

    /// Whether the rate of writes is limited now.
    pub(crate) fn is_limited(&self) -> bool {
        self.limiter.is_some() || self.portion_bytes().is_some()
    }
}
