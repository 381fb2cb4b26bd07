//! What jobs need to know, from the configuration.

use std::num::NonZeroU64;
use std::time::Duration;

use lvp_api::Expand;
use lvp_image::copy::TailPolicy;

use crate::config::{CloneUse, Config, StaleData};
use crate::job::work::VolumeRequest;
use crate::volume::Unmarked;

/// What jobs need to know of the configuration.
#[derive(Debug, Clone)]
pub struct JobSettings {
    /// Most jobs that run at the same time.
    pub max_concurrent: usize,
    /// Most waiting jobs.
    pub queue_limit: usize,
    /// Longest run of a job.
    pub timeout: Duration,
    /// How long ended jobs stay readable.
    pub retention: Duration,
    /// Refuse images without a sidecar.
    pub require_checksum: bool,
    /// What happens to older data after the end of the image.
    pub tail: TailPolicy,
    /// Whether volumes that nobody marked are taken over without the request saying so.
    pub adopt_untagged: bool,
    /// Whether volumes are cloned.
    pub clone: CloneUse,
    /// What is done to guests' partition tables, where requests do not say.
    pub expand: Expand,
    /// Limit of one job's writes.
    pub max_write_bytes_per_sec: Option<NonZeroU64>,
}

impl JobSettings {
    /// What becomes of a volume that nobody marked, for this request.
    pub fn unmarked(&self, request: &VolumeRequest) -> Unmarked {
        match self.adopt_untagged || request.adopt {
            true => Unmarked::Adopt,
            false => Unmarked::Refuse,
        }
    }

    /// Whether the backup GPT is moved to the volume's end, for this request.
    pub fn expands(&self, request: &VolumeRequest) -> bool {
        request.expand.unwrap_or(self.expand) == Expand::Gpt
    }
}

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
            clone: volumes.clone,
            expand: volumes.expand,
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
