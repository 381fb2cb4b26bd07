//! Whether what the daemon depends on is there: probed, not assumed.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lvp_api::DependencyState;
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::jobs::Services;

/// How often every dependency is probed.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(15);

/// A probe that takes longer counts as failed: a dependency that answers so slowly serves no job.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the last probes found.
#[derive(Debug, Default)]
pub struct Dependencies(Mutex<BTreeMap<&'static str, DependencyState>>);

impl Dependencies {
    /// The dependencies by name.
    pub fn states(&self) -> BTreeMap<String, DependencyState> {
        self.lock()
            .iter()
            .map(|(name, state)| ((*name).to_owned(), state.clone()))
            .collect()
    }

    /// Probes everything now.
    pub async fn probe(&self, services: &Services) {
        let source = async { services.source.probe().await.map_err(|error| chain(&error)) };
        let store = async { services.store.probe().await.map_err(|error| chain(&error)) };
        let cache = async { services.cache.probe().await.map_err(|error| chain(&error)) };
        let volumes = async {
            services
                .volumes
                .probe()
                .await
                .map_err(|error| chain(&error))
        };
        let hypervisor = async {
            match &services.hypervisor {
                Some(hypervisor) => {
                    let probe = async { hypervisor.probe().await.map_err(|error| chain(&error)) };
                    Some(bounded(probe).await)
                }
                None => None,
            }
        };
        let (source, store, cache, volumes, hypervisor) = tokio::join!(
            bounded(source),
            bounded(store),
            bounded(cache),
            bounded(volumes),
            hypervisor
        );
        let (metrics, backend) = (&services.metrics, services.volumes.backend());
        if let Ok(capacity) = &volumes {
            metrics.volumes_measured(backend, *capacity);
        }
        let always = [
            ("minio", source),
            ("storage", store),
            ("cache", cache),
            (backend, volumes.map(drop)),
        ];
        let hypervisor = hypervisor.map(|found| ("libvirt", found));
        for (name, found) in always.into_iter().chain(hypervisor) {
            metrics.dependency_probed(name, found.is_ok());
            self.set(name, found);
        }
        services.measure_cache().await;
    }

    /// Probes at every interval, and whenever a job failed for want of a dependency, until told to
    /// stop.
    pub async fn watch(&self, services: &Services, stop: CancellationToken) {
        let mut tick = tokio::time::interval(PROBE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = async {
                tokio::select! {
                    _ = tick.tick() => {}
                    // However many jobs fail, they ring once for each probe that was made.
                    () = services.doubt.notified() => {}
                }
            };
            if stop.run_until_cancelled(due).await.is_none() {
                return;
            }
            // A dependency that does not answer does not hold up the stop.
            stop.run_until_cancelled(self.probe(services)).await;
        }
    }

    fn set(&self, name: &'static str, found: Result<(), String>) {
        let state = DependencyState {
            up: found.is_ok(),
            error: found.err(),
        };
        let before = self.lock().insert(name, state.clone());
        let was_up = before.is_none_or(|before| before.up);
        match state.error {
            Some(error) if was_up => {
                tracing::warn!(
                    component = "health",
                    dependency = name,
                    error,
                    "Dependency down"
                );
            }
            None if !was_up => {
                tracing::info!(
                    component = "health",
                    dependency = name,
                    "Dependency up again"
                );
            }
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, DependencyState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn bounded<T>(probe: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match tokio::time::timeout(PROBE_TIMEOUT, probe).await {
        Ok(found) => found,
        Err(_) => Err(format!("No answer within {} s", PROBE_TIMEOUT.as_secs())),
    }
}
