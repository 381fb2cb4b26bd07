//! The cache's settings, from the configuration.

use std::path::PathBuf;

use super::CacheSettings;
use crate::config;

impl CacheSettings {
    /// A cache in this directory, which libvirt may have named.
    pub fn new(dir: PathBuf, config: &config::Cache) -> Self {
        Self {
            dir,
            max_age: config.max_age,
            max_size_bytes: config.max_size_bytes,
            min_free_bytes: config.min_free_bytes,
            unpacked: config.unpacked,
        }
    }
}
