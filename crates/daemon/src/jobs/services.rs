//! The services that jobs, HTTP handlers and probes use.

use std::sync::Arc;

use lvp_image::copy::Engine;
use tokio::sync::Notify;

use super::JobSettings;
use super::gates::Gates;
use super::rates::Rates;
use crate::cache::Cache;
use crate::config::CloneUse;
use crate::delivery::webhooks::Webhooks;
use crate::error::chain;
use crate::golden::Shelf;
use crate::guests::Guests;
use crate::job::log::Logs;
use crate::libvirt::Hypervisor;
use crate::source::Source;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;
use crate::volume::Volumes;

/// The services that jobs use.
#[derive(Debug)]
pub struct Services {
    /// Where images come from.
    pub source: Source,
    /// Where images are kept.
    pub cache: Cache,
    /// Where images are written to.
    pub volumes: Arc<dyn Volumes>,
    /// The golden volumes that volumes are cloned from.
    pub golden: Shelf,
    /// Lets jobs step aside for others that use the same disks.
    pub guests: Arc<Guests>,
    /// What all copies share.
    pub engine: Engine,
    /// libvirt, where it is used.
    pub hypervisor: Option<Arc<dyn Hypervisor>>,
    /// The database: what was requested, and the results.
    pub store: Store,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The logs of jobs that have not ended.
    pub logs: Logs,
    /// Jobs that may not run at the moment.
    pub gates: Arc<Gates>,
    /// Jobs that may not fetch as fast as they could.
    pub rates: Arc<Rates>,
    /// Sends the ends of jobs to receivers.
    pub webhooks: Option<Arc<Webhooks>>,
    /// Notified when a job failed because of a dependency, so that the dependencies are probed at once.
    pub doubt: Arc<Notify>,
    /// The settings of jobs.
    pub settings: JobSettings,
}

impl Services {
    /// Why no volume is cloned on this host, if so.
    pub async fn why_no_clones(&self) -> Option<String> {
        match self.settings.clone {
            CloneUse::Never => {
                Some("volumes.clone is never in this host's configuration".to_owned())
            }
            CloneUse::Auto => self.volumes.clones().await.err(),
        }
    }

    /// Brings the gauges of golden volumes up to date.
    pub async fn measure_golden(&self) {
        match self.golden.usage().await {
            Ok(usage) => self.metrics.golden_measured(usage),
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(
                    component = "golden",
                    error,
                    "Golden volumes cannot be measured"
                );
            }
        }
    }

    /// Brings the cache's gauges up to date.
    pub async fn measure_cache(&self) {
        match (self.cache.usage().await, self.cache.free_bytes().await) {
            (Ok(usage), Ok(free_bytes)) => {
                self.metrics.cache_measured(usage, free_bytes);
            }
            (Err(error), _) | (_, Err(error)) => {
                let error = chain(&error);
                tracing::warn!(component = "cache", error, "The cache cannot be measured");
            }
        }
    }
}
