//! The settings of golden volumes, from the configuration.

use std::time::Duration;

use crate::config;

/// How many golden volumes are kept, and for how long.
#[derive(Debug, Clone)]
pub struct GoldenSettings {
    /// Most golden volumes.
    pub max_count: usize,
    /// Most space that they use together.
    pub max_bytes: Option<u64>,
    /// A golden volume that nothing was cloned from for this long is removed.
    pub max_age: Duration,
}

impl From<&config::Golden> for GoldenSettings {
    fn from(config: &config::Golden) -> Self {
        Self {
            max_count: config.max_count,
            max_bytes: config.max_bytes,
            max_age: config.max_age,
        }
    }
}
