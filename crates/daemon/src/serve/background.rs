//! The daemon's background tasks: probes, webhooks, and the janitor.

use tokio_util::sync::CancellationToken;

use crate::clock::JumpDetector;
use crate::config::Config;
use crate::error::chain;
use crate::fleet::Fleet;
use crate::http::App;
use crate::jobs::former;

/// Probes the dependencies.
pub(super) async fn run_probes(app: App, stop: CancellationToken) {
    app.dependencies.watch(&app.services, stop).await;
}

/// Sends webhooks.
pub(super) async fn run_webhooks(app: App, stop: CancellationToken) {
    let services = &app.services;
    if let Some(webhooks) = &services.webhooks {
        let (store, metrics) = (&services.store, &*services.metrics);
        webhooks.run(store, metrics, &stop).await;
    }
}

/// Follows the fleet's orders, if this host is part of one.
pub(super) async fn run_fleet(fleet: Option<Fleet>, stop: CancellationToken) {
    if let Some(fleet) = fleet {
        fleet.run(stop).await;
    }
}

/// At every interval, evicts images, sweeps the cache and deletes old jobs.
pub(super) async fn run_janitor(app: App, config: Config, stop: CancellationToken) {
    let interval = config.cache.eviction_interval;
    report_former_places(&app, &config, &stop).await;
    reconcile_volumes(&app, &stop).await;
    reconcile_golden(&app, &stop, true).await;
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    let mut clock = JumpDetector::new();
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let may_age = !clock.has_jumped();
        if may_age {
            expire(&app).await;
        } else {
            tracing::warn!(
                component = "daemon",
                "The clock jumped: nothing expires by age until the next round"
            );
        }
        reconcile_volumes(&app, &stop).await;
        reconcile_golden(&app, &stop, may_age).await;
    }
}

/// Evicts and sweeps in the cache, and deletes old jobs.
async fn expire(app: &App) {
    match app.services.cache.reconcile().await {
        Ok(swept) if swept != Default::default() => {
            tracing::info!(component = "cache", ?swept, "Cache cleaned up");
        }
        Ok(_) => {}
        Err(error) => {
            let error = chain(&error);
            tracing::error!(component = "cache", error, "Cannot clean up the cache");
        }
    }
    if let Err(error) = app.jobs.forget_old().await {
        let error = chain(&error);
        tracing::error!(component = "storage", error, "Cannot delete old jobs");
    }
}

/// Unfinished volumes in places where volumes were kept before the configuration was changed.
async fn report_former_places(app: &App, config: &Config, stop: &CancellationToken) {
    let report = former::report(&app.services.store, config);
    if let Some(Err(error)) = stop.run_until_cancelled(report).await {
        let error = chain(&error);
        tracing::warn!(
            component = "storage",
            error,
            "Cannot read the former places of volumes"
        );
    }
}

/// Reconciles volumes with jobs. A hanging LVM delays neither the start nor the stop.
async fn reconcile_volumes(app: &App, stop: &CancellationToken) {
    match stop.run_until_cancelled(app.jobs.reconcile_volumes()).await {
        Some(Ok(found)) if found != Default::default() => {
            tracing::info!(component = "provisioner", ?found, "Volumes reconciled");
        }
        Some(Ok(_)) | None => {}
        Some(Err(error)) => {
            let error = chain(&error);
            tracing::error!(component = "provisioner", error, "Cannot reconcile volumes");
        }
    }
}

/// Reconciles golden volumes with the records of them, and removes clones that no job waits for.
async fn reconcile_golden(app: &App, stop: &CancellationToken, may_age: bool) {
    let services = &app.services;
    match stop
        .run_until_cancelled(services.golden.reconcile(may_age))
        .await
    {
        Some(Ok(swept)) if swept > 0 => {
            tracing::info!(component = "golden", swept, "Golden volumes reconciled");
        }
        Some(Ok(_)) | None => {}
        Some(Err(error)) => {
            let error = chain(&error);
            tracing::error!(
                component = "golden",
                error,
                "Cannot reconcile golden volumes"
            );
        }
    }
    services.measure_golden().await;
}
