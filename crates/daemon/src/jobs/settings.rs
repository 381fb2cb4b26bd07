//! What jobs need to know, from the configuration.

use std::num::NonZeroU64;

use lvp_image::copy::TailPolicy;

use super::JobSettings;
use crate::config::{Config, StaleData};

impl From<&Config> for JobSettings {
    fn from(config: &Config) -> Self {
        let volumes = &config.volumes;
        Self {
            max_concurrent: config.libvirt.max_concurrent,
            queue_limit: config.jobs.queue_limit,
            timeout: config.libvirt.job_timeout,
            retention: config.jobs.retention,
            require_checksum: config.cache.require_checksum,
            tail: volumes.stale_data.into(),
            adopt_untagged: volumes.adopt_untagged,
            max_write_bytes_per_sec: volumes.max_write_bytes_per_sec.and_then(NonZeroU64::new),
        }
    }
}

impl From<StaleData> for TailPolicy {
    fn from(stale: StaleData) -> Self {
        match stale {
            StaleData::Zero => Self::Zero,
            StaleData::Edges => Self::Edges,
            StaleData::Keep => Self::Keep,
        }
    }
}
