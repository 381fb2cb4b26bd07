//! systemd: notifications to the service manager, and the socket that it passes.
//!
//! Without systemd (no `NOTIFY_SOCKET`, no `LISTEN_FDS`) nothing here has any effect. With it:
//!
//! - `READY=1` once requests are answered and unfinished jobs have been resumed; `RELOADING=1` and
//!   `READY=1` around the handling of SIGHUP; `STOPPING=1`, with as much time as
//!   `server.shutdown_grace` needs, whatever `TimeoutStopSec` says.
//! - `STATUS=`, the line that `systemctl status` shows.
//! - `WATCHDOG=1`, only after the accept loop and the database's writer have both answered within
//!   the interval. An error counts as an answer: a restart does not fix a full disk or a lock held by
//!   a backup. It does fix a thread that hangs, a task that is gone, or a runtime that makes no
//!   progress.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::http::App;
use crate::net::Pulse;
use crate::store::StoreError;

/// Watchdog messages within one timeout, so that a late one does no harm.
const SIGNS_PER_TIMEOUT: u32 = 3;

/// How often the status line is computed. It is sent only if it has changed.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);

/// Time for an orderly stop in addition to the jobs' grace period: sending answers, the last
/// writes.
const STOP_MARGIN: Duration = Duration::from_secs(30);

/// The socket that a socket unit passes, if there is one. Must be called before there are threads,
/// because it removes the variables from the environment.
pub fn inherited_listener() -> anyhow::Result<Option<TcpListener>> {
    let mut sockets = ListenFd::from_env();
    ensure!(
        sockets.len() <= 1,
        "The socket unit passes {} sockets, but only one can be served: keep one ListenStream= in it",
        sockets.len()
    );
    sockets
        .take_tcp_listener(0)
        .context("The socket unit must pass a TCP socket: give ListenStream= an address and a port")
}

/// Says that requests are answered.
pub fn ready(address: &str) {
    notify(&[
        NotifyState::Ready,
        NotifyState::Status(&format!("Serving on {address}")),
    ]);
}

/// Handles SIGHUP, and says when that begins and ends.
pub async fn reloading(work: impl Future<Output = ()>) {
    // With the time, so that `Type=notify-reload` of systemd 253 works as well.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
    work.await;
    notify(&[NotifyState::Ready]);
}

/// Says that the daemon is stopping, and how long jobs may still take.
pub fn stopping(grace: Duration, running: usize) {
    let limit = (grace + STOP_MARGIN).as_micros();
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status(&format!(
            "Stopping; {running} running jobs have up to {} s, then they are resumed at the next start",
            grace.as_secs()
        )),
        NotifyState::Custom(&format!("EXTEND_TIMEOUT_USEC={limit}")),
    ]);
}

/// Sends the status line and watchdog messages until it is stopped.
pub async fn run_watchdog(app: App, pulse: Pulse, address: String, stop: CancellationToken) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let both = async { tokio::join!(report(&app, &address), live(&app, &pulse)) };
    stop.run_until_cancelled(both).await;
}

async fn report(app: &App, address: &str) {
    let mut said = String::new();
    let mut tick = tokio::time::interval(STATUS_INTERVAL);
    loop {
        tick.tick().await;
        let slots = app.services.settings.max_concurrent;
        let mut status = format!(
            "Serving on {address}; {} of {slots} jobs running",
            app.jobs.active()
        );
        let states = app.dependencies.states();
        let down: Vec<_> = states
            .iter()
            .filter(|(_, state)| !state.up)
            .map(|(name, _)| name.as_str())
            .collect();
        if !down.is_empty() {
            status = format!("{status}; down: {}", down.join(", "));
        }
        if status != said {
            notify(&[NotifyState::Status(&status)]);
            said = status;
        }
    }
}

async fn live(app: &App, pulse: &Pulse) {
    let Some(timeout) = sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero()) else {
        return;
    };
    let interval = timeout / SIGNS_PER_TIMEOUT;
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let writer = async { !matches!(app.services.store.probe().await, Err(StoreError::Closed)) };
        let both = async { tokio::join!(pulse.beats(), writer) };
        match tokio::time::timeout(interval, both).await {
            Ok((true, true)) => notify(&[NotifyState::Watchdog]),
            Ok((accepting, writing)) => {
                tracing::error!(
                    component = "daemon",
                    accepting,
                    writing,
                    "A part of the daemon has ended: no watchdog message is sent to the service manager"
                );
            }
            Err(_) => tracing::warn!(
                component = "daemon",
                ?interval,
                "The accept loop or the database did not answer: no watchdog message is sent to the service manager"
            ),
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(
            component = "daemon",
            %error,
            "Cannot send to the service manager (NOTIFY_SOCKET)"
        );
    }
}
