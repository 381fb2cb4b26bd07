//! How the LVM back end works.

use std::time::Duration;

use lvp_api::VolumeName;

use crate::config;

/// How long one command may take: it waits for locks and for udev, not for data.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// How the LVM back end works.
#[derive(Debug, Clone)]
pub struct LvmSettings {
    /// The volume group that has the volumes.
    pub volume_group: String,
    /// The thin pool that new volumes are made in; without one they are linear.
    pub pool: Option<PoolSettings>,
    /// The pauses before the repeats of a command that failed for a reason that may pass: as many
    /// as there are repeats.
    pub retry_backoff: Vec<Duration>,
    /// How long one command may take.
    pub command_timeout: Duration,
}

/// A thin pool, and how full it may become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// Its name in the volume group.
    pub name: VolumeName,
    /// Of its data, in percent.
    pub data: Watermarks,
    /// Of its metadata, in percent.
    pub metadata: Watermarks,
    /// The most that all volumes of the pool may promise, in percent of its size; None is no limit.
    pub overcommit_percent_max: Option<u64>,
}

/// Two marks in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// From here on operators are warned.
    pub warn: u8,
    /// No job may bring it beyond this.
    pub max: u8,
}

impl From<&config::Lvm> for LvmSettings {
    fn from(lvm: &config::Lvm) -> Self {
        Self {
            volume_group: lvm.volume_group.clone(),
            pool: lvm.pool.as_ref().map(PoolSettings::from),
            retry_backoff: lvm.retry_backoff.clone(),
            command_timeout: COMMAND_TIMEOUT,
        }
    }
}

impl From<&config::ThinPool> for PoolSettings {
    fn from(pool: &config::ThinPool) -> Self {
        let (warn, max) = pool.data_percent;
        let data = Watermarks { warn, max };
        let (warn, max) = pool.metadata_percent;
        Self {
            name: pool.name.clone(),
            data,
            metadata: Watermarks { warn, max },
            overcommit_percent_max: pool.overcommit_percent_max,
        }
    }
}

/// The configured volume group's name cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be a volume group's name: 1 to 127 of a-z A-Z 0-9 + _ . -, no '-' in front")]
pub struct BadVolumeGroup(String);

impl LvmSettings {
    pub(super) fn check(&self) -> Result<(), BadVolumeGroup> {
        let group = &self.volume_group;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
        let good = (1..=127).contains(&group.len())
            && group.chars().all(allowed)
            && !group.starts_with('-')
            && group != "."
            && group != "..";
        match good {
            true => Ok(()),
            false => Err(BadVolumeGroup(group.clone())),
        }
    }
}
