//! The service manager: what systemd is told, and the socket that it hands over.
//!
//! Outside systemd (no `NOTIFY_SOCKET`, no `LISTEN_FDS`) all of this does nothing. With it:
//!
//! - `READY=1` once requests are answered and unfinished jobs have been taken up; `RELOADING=1` and
//!   `READY=1` around what SIGHUP does; `STOPPING=1` with as much time as `server.shutdown_grace`
//!   asks for, whatever `TimeoutStopSec` says.
//! - `STATUS=`, the line that `systemctl status` shows.
//! - `WATCHDOG=1`, only after the accept loop and the database's writer have both answered within
//!   the interval. An error is an answer: a full disk or a lock held by a backup is not fixed by a
//!   restart. A thread that hangs, a task that is gone or a runtime that no longer turns is.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::http::App;
use crate::net::Pulse;
use crate::store::StoreError;

/// Life signs within one watchdog's time, so that one that is late is no death.
const SIGNS_PER_TIMEOUT: u32 = 3;

/// How often the status line is made anew; it is sent when it has changed.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);

/// What an orderly stop takes beside the jobs' grace: answers that leave, the last writes.
const STOP_MARGIN: Duration = Duration::from_secs(30);

/// The socket that a socket unit holds, if there is one. Call it before there are threads: it takes
/// the variables out of the environment.
pub fn inherited_listener() -> anyhow::Result<Option<TcpListener>> {
    let mut sockets = ListenFd::from_env();
    ensure!(
        sockets.len() <= 1,
        "The socket unit hands over {} sockets and one can be served: keep one ListenStream= in it",
        sockets.len()
    );
    sockets.take_tcp_listener(0).context(
        "The socket unit must hand over a TCP socket: give ListenStream= an address and a port",
    )
}

/// Requests are answered.
pub fn ready(address: &str) {
    notify(&[
        NotifyState::Ready,
        NotifyState::Status(&format!("Serving on {address}")),
    ]);
}

/// Does what SIGHUP asks for, and tells when it begins and ends.
pub async fn reloading(work: impl Future<Output = ()>) {
    // With the time, so that `Type=notify-reload` of systemd 253 takes it as well.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
    work.await;
    notify(&[NotifyState::Ready]);
}

/// The daemon ends; jobs have this long.
pub fn stopping(grace: Duration, running: usize) {
    let limit = (grace + STOP_MARGIN).as_micros();
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status(&format!(
            "Stopping; {running} running jobs have up to {} s, then they go on at the next start",
            grace.as_secs()
        )),
        NotifyState::Custom(&format!("EXTEND_TIMEOUT_USEC={limit}")),
    ]);
}

/// Sends the status line and life signs, until told to stop.
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
                    "A part of the daemon is gone: no life sign to the service manager"
                );
            }
            Err(_) => tracing::warn!(
                component = "daemon",
                ?interval,
                "The accept loop or the database did not answer: no life sign to the service manager"
            ),
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(
            component = "daemon",
            %error,
            "The service manager cannot be told anything (NOTIFY_SOCKET)"
        );
    }
}
