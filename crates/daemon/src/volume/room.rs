//! Room in a pool that volumes share: what a job is going to write is reserved before it starts writing.

use std::fmt;

/// The room that a job needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The room for a disk's data.
    Disk {
        /// What is written, in pieces of 64 KiB and more.
        bytes: u64,
        /// The size of the volume: more cannot be written, however the data is distributed.
        size_bytes: u64,
    },
    /// The room for a clone.
    Clone,
}

/// Room that is reserved for a job while this lives.
#[derive(Default)]
pub struct Reservation(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Reservation {
    /// A reservation that is released by calling `release`.
    pub(super) fn released_by(release: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(release)))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(release) = self.0.take() {
            release();
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reservation")
            .field(&self.0.is_some())
            .finish()
    }
}

/// A pool, as of the last look.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolUsage {
    /// Its name.
    pub name: String,
    /// Room for data.
    pub size_bytes: u64,
    /// Room for metadata.
    pub metadata_size_bytes: u64,
    /// The share of its data space that is used, from 0 to 1; None while that is not known.
    pub data_ratio: Option<f64>,
    /// The same of its metadata.
    pub metadata_ratio: Option<f64>,
    /// What running jobs are still going to write to it.
    pub reserved_bytes: u64,
    /// The sum of its volumes' sizes.
    pub virtual_bytes: u64,
    /// Shares of data and metadata from which on operators are warned.
    pub warn_ratios: (f64, f64),
    /// Shares of data and metadata that no job may bring it beyond.
    pub max_ratios: (f64, f64),
    /// Why nothing may be written to it, however much room it has.
    pub flaw: Option<String>,
}
