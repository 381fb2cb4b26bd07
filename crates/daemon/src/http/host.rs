//! The daemon and its host, for people who look at it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use futures::future::BoxFuture;
use lvp_api::{
    CertificateEnd, DoctorReport, ErrorCode, History, HostCache, HostFleet, HostJobs, HostPool,
    HostStatus, HostVolumes, Readiness,
};
use tokio::sync::Mutex;

use super::App;
use super::error::ApiError;
use crate::clock;
use crate::error::chain;

/// The intervals of the history: a quarter of an hour for each of 24 hours.
const HISTORY_INTERVALS: u32 = 96;
const HISTORY_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// How long the report of the checks answers requests.
const REPORT_MAX_AGE: Duration = Duration::from_secs(60);

/// Longest run of the checks. Each has its own limit as well.
const CHECKS_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs `doctor`'s checks; None if they crashed.
type Checks = dyn Fn() -> BoxFuture<'static, Option<DoctorReport>> + Send + Sync;

/// `doctor`'s checks in the running daemon: once at a time, and their last report. Cheap to clone.
#[derive(Clone, Default)]
pub struct Checkup {
    checks: Option<Arc<Checks>>,
    last: Arc<Mutex<Option<(Instant, DoctorReport)>>>,
}

impl fmt::Debug for Checkup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkup").finish_non_exhaustive()
    }
}

impl Checkup {
    /// By these checks.
    pub fn new(checks: Arc<Checks>) -> Self {
        Self {
            checks: Some(checks),
            last: Arc::default(),
        }
    }

    /// A report that is at most [`REPORT_MAX_AGE`] old. None without checks, and if they crashed or take too long.
    async fn report(&self) -> Option<DoctorReport> {
        let checks = Arc::clone(self.checks.as_ref()?);
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some((at, report)) = &*last
            && at.elapsed() < REPORT_MAX_AGE
        {
            return Some(report.clone());
        }
        // In a task of its own that holds the lock: callers that leave and come back do not start it again.
        let running = tokio::spawn(async move {
            let report = tokio::time::timeout(CHECKS_TIMEOUT, checks())
                .await
                .ok()??;
            *last = Some((Instant::now(), report.clone()));
            Some(report)
        });
        running.await.ok().flatten()
    }
}

/// `GET /api/v1/doctor`
pub(super) async fn doctor(State(app): State<App>) -> Result<Json<DoctorReport>, ApiError> {
    let report = app.checkup.report().await;
    let message = "The checks did not end: run 'libvirt-volume-provisioner doctor' on the host";
    let report = report.ok_or_else(|| ApiError::new(ErrorCode::Unavailable, message));
    Ok(Json(report?))
}

/// `GET /api/v1/host`
pub(super) async fn host(State(app): State<App>) -> Json<HostStatus> {
    let services = &app.services;
    let settings = &services.settings;
    let dependencies = app.dependencies.states();
    let all_up = !dependencies.is_empty() && dependencies.values().all(|state| state.up);
    let uptime = app.started.elapsed();
    let tls = app.access.tls();
    let ends = [
        ("server", tls.and_then(|tls| tls.not_after())),
        ("client_ca", tls.and_then(|tls| tls.client_ca_not_after())),
    ];
    let end = |(name, not_after): (&str, Option<time::OffsetDateTime>)| {
        Some(CertificateEnd {
            name: name.to_owned(),
            not_after: clock::text(not_after?),
        })
    };
    Json(HostStatus {
        version: concat!("v", env!("CARGO_PKG_VERSION")).to_owned(),
        started_at: clock::text(clock::now() - uptime),
        uptime_sec: uptime.as_secs(),
        readiness: Readiness {
            ready: all_up && !app.jobs.is_stopping(),
            dependencies,
        },
        jobs: HostJobs {
            running: app.jobs.active(),
            max_running: settings.max_concurrent,
            max_pending: settings.queue_limit,
        },
        cache: cache(&app).await,
        volumes: app.dependencies.capacity().map(|capacity| HostVolumes {
            backend: services.volumes.backend().to_owned(),
            total_bytes: capacity.total_bytes,
            free_bytes: capacity.free_bytes,
            pool: services.volumes.pool().map(|pool| HostPool {
                name: pool.name.clone(),
                data_percent: pool.data_ratio.map(percent),
                metadata_percent: pool.metadata_ratio.map(percent),
                flaw: pool.flaw.clone(),
            }),
        }),
        fleet: app.fleet.as_ref().map(|fleet| HostFleet {
            host: fleet.settings().host.to_string(),
            connected: fleet.is_connected(),
        }),
        certificates: ends.into_iter().filter_map(end).collect(),
        trace_url: app.trace_url.as_deref().map(str::to_owned),
    })
}

fn percent(ratio: f64) -> f64 {
    (ratio * 10_000.0).round() / 100.0
}

async fn cache(app: &App) -> Option<HostCache> {
    let cache = &app.services.cache;
    match (cache.usage().await, cache.free_bytes().await) {
        (Ok(usage), Ok(free_bytes)) => Some(HostCache {
            images: usage.images,
            size_bytes: usage.size_bytes,
            max_bytes: cache.max_size_bytes(),
            free_bytes,
        }),
        (Err(error), _) | (_, Err(error)) => {
            // The dependencies say so as well.
            let error = chain(&error);
            tracing::debug!(component = "cache", error, "The cache cannot be measured");
            None
        }
    }
}

/// `GET /api/v1/history`
pub(super) async fn history(State(app): State<App>) -> Result<Json<History>, ApiError> {
    let _place = app.shared.lists.place().await?;
    let from = clock::now() - HISTORY_INTERVAL * HISTORY_INTERVALS;
    let store = &app.services.store;
    let history = store.history(from, HISTORY_INTERVAL, HISTORY_INTERVALS);
    Ok(Json(history.await?))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use lvp_api::CheckStatus;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn callers_that_leave_and_come_back_start_the_checks_once() {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let (go_on, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let waiting = Arc::clone(&gate);
        let begun = Arc::clone(&go_on);
        let checkup = Checkup::new(Arc::new(move || {
            let (gate, begun) = (Arc::clone(&waiting), Arc::clone(&begun));
            Box::pin(async move {
                RUNS.fetch_add(1, Ordering::Relaxed);
                begun.notify_one();
                gate.notified().await;
                Some(DoctorReport {
                    checked_at: String::new(),
                    status: CheckStatus::Ok,
                    checks: Vec::new(),
                })
            })
        }));
        for _ in 0..3 {
            let caller = tokio::spawn({
                let checkup = checkup.clone();
                async move { checkup.report().await }
            });
            tokio::task::yield_now().await;
            caller.abort();
            caller.await.ok();
        }
        let caller = tokio::spawn({
            let checkup = checkup.clone();
            async move { checkup.report().await }
        });
        go_on.notified().await;
        gate.notify_one();
        assert!(caller.await.expect("it ends").is_some());
        assert!(checkup.report().await.is_some());
        assert_eq!(RUNS.load(Ordering::Relaxed), 1);
        assert!(Checkup::default().report().await.is_none());
    }
}
