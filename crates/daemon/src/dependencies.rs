//! Probes whether what the daemon depends on is available.
//!
//! Every dependency is listed from the start, as down until a probe has found it up, and none ever disappears from the
//! list. If a probe crashes, its dependency counts as down, and is probed again like any other. The task that runs the
//! probes is restarted if it crashes itself. Both kinds of crash are counted.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use lvp_api::DependencyState;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::error::chain;
use crate::jobs::Services;
use crate::telemetry::metrics::Metrics;
use crate::volume::Capacity;

/// How often every dependency is probed.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(15);

/// A probe that takes longer has failed: a dependency that answers so slowly is of no use to a job.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// The reason that is given before the first probe.
const NOT_PROBED: &str = "It has not been probed yet: ask again in a moment";

/// The reason that is given for all of them while the probes do not run.
const PROBES_CRASHED: &str = "The probes crashed and are being restarted: see the daemon's log";

/// The results of the last probes, and the dependencies that were not probed yet.
#[derive(Debug, Default)]
pub struct Dependencies {
    states: Mutex<BTreeMap<&'static str, Option<DependencyState>>>,
    /// Whether the pool is full enough to be warned of, and what is wrong with it.
    pool: Mutex<Option<(bool, Option<String>)>>,
    /// Room for volumes, when it was last known.
    capacity: Mutex<Option<Capacity>>,
}

impl Dependencies {
    /// All dependencies of these services, as down.
    pub fn of(services: &Services) -> Self {
        let mut names = vec!["minio", "storage", "cache", services.volumes.backend()];
        names.extend(services.hypervisor.as_ref().map(|_| "libvirt"));
        for name in &names {
            services.metrics.dependency_probed(name, false);
        }
        let states = names.into_iter().map(|name| (name, None)).collect();
        Self {
            states: Mutex::new(states),
            pool: Mutex::default(),
            capacity: Mutex::default(),
        }
    }

    /// Room for volumes, as of the last probe that could tell.
    pub fn capacity(&self) -> Option<Capacity> {
        *self.capacity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The dependencies by name.
    pub fn states(&self) -> BTreeMap<String, DependencyState> {
        self.lock()
            .iter()
            .map(|(name, state)| {
                (
                    (*name).to_owned(),
                    state.clone().unwrap_or_else(|| down(NOT_PROBED)),
                )
            })
            .collect()
    }

    /// Probes everything now.
    pub async fn probe(&self, services: &Services) {
        let metrics = &*services.metrics;
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
                    Some(bounded("libvirt", metrics, probe).await)
                }
                None => None,
            }
        };
        let backend = services.volumes.backend();
        let (source, store, cache, volumes, hypervisor) = tokio::join!(
            bounded("minio", metrics, source),
            bounded("storage", metrics, store),
            bounded("cache", metrics, cache),
            bounded(backend, metrics, volumes),
            hypervisor
        );
        if let Ok(capacity) = &volumes {
            metrics.volumes_measured(backend, *capacity);
            *self.capacity.lock().unwrap_or_else(PoisonError::into_inner) = Some(*capacity);
        }
        self.look_at_pool(services);
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

    /// What the probe of the volumes has seen of their pool; a mark that is passed is logged once.
    fn look_at_pool(&self, services: &Services) {
        let Some(pool) = services.volumes.pool() else {
            return;
        };
        services.metrics.pool_measured(&pool);
        let is_above = |used: Option<f64>, mark: f64| used.is_some_and(|used| used >= mark);
        let full = is_above(pool.data_ratio, pool.warn_ratios.0)
            || is_above(pool.metadata_ratio, pool.warn_ratios.1);
        let state = (full, pool.flaw.clone());
        let before = self
            .pool
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(state.clone());
        if before.as_ref() == Some(&state) {
            return;
        }
        let percent = |ratio: Option<f64>| ratio.map(|ratio| format!("{:.2} %", ratio * 100.0));
        let (data, metadata) = (percent(pool.data_ratio), percent(pool.metadata_ratio));
        match &pool.flaw {
            Some(flaw) => tracing::warn!(
                component = "health",
                pool = pool.name,
                flaw,
                "No job is given room in the thin pool"
            ),
            None if full => tracing::warn!(
                component = "health",
                pool = pool.name,
                data,
                metadata,
                "The thin pool is filling up: extend it before jobs are refused, see docs/volumes.md"
            ),
            None if before.is_some() => tracing::info!(
                component = "health",
                pool = pool.name,
                data,
                metadata,
                "The thin pool has room again"
            ),
            None => {}
        }
    }

    /// Probes at every interval, and whenever a job failed because of a dependency, until it is
    /// stopped.
    pub async fn watch(&self, services: &Services, stop: CancellationToken) {
        let mut tick = tokio::time::interval(PROBE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = async {
                tokio::select! {
                    _ = tick.tick() => {}
                    // However many jobs fail, they cause one extra round of probes.
                    () = services.doubt.notified() => {}
                }
            };
            if stop.run_until_cancelled(due).await.is_none() {
                return;
            }
            // A dependency that does not answer does not delay the stop.
            let probing = AssertUnwindSafe(self.probe(services)).catch_unwind();
            if let Some(Err(panic)) = stop.run_until_cancelled(probing).await {
                self.crashed(&services.metrics, &panic);
            }
        }
    }

    /// The task that runs the probes crashed: until the next round, everything counts as down.
    fn crashed(&self, metrics: &Metrics, panic: &Box<dyn Any + Send>) {
        let names: Vec<_> = self.lock().keys().copied().collect();
        metrics.probe_crashed("all");
        tracing::error!(
            component = "health",
            panic = said(panic),
            "The probes crashed and are being restarted"
        );
        for name in names {
            metrics.dependency_probed(name, false);
            self.set(name, Err(PROBES_CRASHED.to_owned()));
        }
    }

    fn set(&self, name: &'static str, found: Result<(), String>) {
        let up = found.is_ok();
        let mut states = self.lock();
        let before = states.get(name).cloned().flatten();
        let since = before.as_ref().filter(|before| before.up == up);
        let since = since.and_then(|before| before.since.clone());
        let state = DependencyState {
            up,
            since: Some(since.unwrap_or_else(clock::now_text)),
            error: found.err(),
        };
        states.insert(name, Some(state.clone()));
        drop(states);
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Option<DependencyState>>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn down(error: &str) -> DependencyState {
    DependencyState {
        up: false,
        since: None,
        error: Some(error.to_owned()),
    }
}

/// Runs one probe with a deadline. A crash is a result as well.
async fn bounded<T>(
    name: &'static str,
    metrics: &Metrics,
    probe: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let probe = AssertUnwindSafe(probe).catch_unwind();
    match tokio::time::timeout(PROBE_TIMEOUT, probe).await {
        Ok(Ok(found)) => found,
        Ok(Err(panic)) => {
            metrics.probe_crashed(name);
            Err(format!(
                "The probe crashed ({}): see the daemon's log, and report it",
                said(&panic)
            ))
        }
        Err(_) => Err(format!("No answer within {} s", PROBE_TIMEOUT.as_secs())),
    }
}

/// The text of a panic.
fn said(panic: &Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeded() -> Dependencies {
        Dependencies {
            states: Mutex::new(BTreeMap::from([("minio", None), ("lvm", None)])),
            pool: Mutex::default(),
            capacity: Mutex::default(),
        }
    }

    #[tokio::test]
    async fn a_probe_that_crashes_is_a_dependency_that_is_down_and_is_counted() {
        let metrics = Metrics::new(2, None);
        let probe = async { panic!("no header can hold this") };
        let found: Result<(), String> = bounded("minio", &metrics, probe).await;
        let error = found.unwrap_err();
        assert!(error.contains("no header can hold this"), "{error}");
        assert_eq!(metrics.probe_crashes("minio"), 1);
        let again = bounded("minio", &metrics, async { Ok(7) }).await;
        assert_eq!(again, Ok(7));
    }

    #[test]
    fn a_dependency_says_since_when_it_is_as_it_is() {
        let dependencies = seeded();
        let since = || dependencies.states()["minio"].since.clone();
        assert_eq!(since(), None);
        dependencies.set("minio", Err("It is gone".to_owned()));
        let down = since().expect("it was probed");
        // Times have milliseconds.
        while clock::now_text() == down {
            std::thread::yield_now();
        }
        dependencies.set("minio", Err("It is still gone".to_owned()));
        assert_eq!(since().as_ref(), Some(&down));
        dependencies.set("minio", Ok(()));
        assert!(since().is_some_and(|up| up > down));
    }

    #[test]
    fn a_dependency_is_listed_before_its_first_probe_and_while_the_probes_are_down() {
        let dependencies = seeded();
        let states = dependencies.states();
        assert_eq!(states.len(), 2);
        assert!(states.values().all(|state| !state.up), "{states:?}");

        dependencies.set("minio", Ok(()));
        dependencies.set("lvm", Ok(()));
        assert!(dependencies.states().values().all(|state| state.up));

        let metrics = Metrics::new(2, None);
        let panic: Box<dyn Any + Send> = Box::new("gone");
        dependencies.crashed(&metrics, &panic);
        let states = dependencies.states();
        assert!(states.values().all(|state| !state.up), "{states:?}");
        assert_eq!(metrics.probe_crashes("all"), 1);
    }
}
