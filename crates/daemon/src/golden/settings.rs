//! What golden volumes need to know, from the configuration.

use std::time::Duration;

use crate::config;

/// How many golden volumes are kept, and for how long.
#[derive(Debug, Clone)]
pub struct GoldenSettings {
    /// So many at most.
    pub max_count: usize,
    /// Largest sum of what they take.
    pub max_bytes: Option<u64>,
    /// One that nothing was cloned from for so long is removed.
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
