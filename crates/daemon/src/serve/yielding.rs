//! The task that lets jobs step aside for others on the same disks.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error::chain;
use crate::guests::{self, Places, Shown};
use crate::http::App;
use crate::threads::blocking;

/// How long to wait before the disks are looked for again, if they were not found.
const DISKS_RETRY: Duration = Duration::from_secs(60);

/// Lets jobs step aside for others, for as long as that can be measured.
pub(super) async fn run_yielding(app: App, config: Config, stop: CancellationToken) {
    let guests = &app.services.guests;
    if !guests.is_on() {
        return;
    }
    let mut told = None;
    loop {
        let found = stop.run_until_cancelled(find_disks(&app, &config)).await;
        match found {
            None => return,
            Some(Ok(disks)) => {
                tracing::info!(
                    component = "yield",
                    disks = disks.join(","),
                    has_guests_slice = guests.has_slice(),
                    "Jobs step aside while others need the disks of the volumes"
                );
                told = None;
                if let Err(error) = yield_to_others(&app, &stop).await {
                    guests.let_go();
                    let error = chain(&error);
                    tracing::warn!(
                        component = "yield",
                        error,
                        "What others do cannot be measured any more: jobs run at full speed"
                    );
                }
            }
            Some(Err(why)) if told.as_ref() != Some(&why) => {
                tracing::info!(
                    component = "yield",
                    why,
                    "Jobs run at full speed: what others do on the disks of the volumes cannot be measured"
                );
                told = Some(why);
            }
            Some(Err(_)) => {}
        }
        let pause = tokio::time::sleep(DISKS_RETRY);
        if stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

async fn find_disks(app: &App, config: &Config) -> Result<Vec<String>, String> {
    let services = &app.services;
    let volumes = services.volumes.places().await;
    let places = Places {
        volumes: volumes.map_err(|error| chain(&error))?,
        cache: services.cache.dir().to_owned(),
        others: vec![config.server.db_path.clone()],
    };
    let guests = Arc::clone(&services.guests);
    let found = blocking(move || guests.find(places)).await;
    found
        .map_err(|error| chain(&error))?
        .map_err(|error| chain(&error))
}

/// Until the stop, or until something cannot be read.
async fn yield_to_others(app: &App, stop: &CancellationToken) -> std::io::Result<()> {
    let mut tick = tokio::time::interval(guests::INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Told::default();
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let guests = Arc::clone(&app.services.guests);
        let is_running = app.jobs.active() > 0;
        let step = blocking(move || guests.step(is_running)).await;
        if let Some(shown) = step.map_err(std::io::Error::other)?? {
            app.services.metrics.yielded(&shown);
            trace(&shown);
            tell(&mut told, &shown);
        }
    }
    Ok(())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// One line for each step at level `debug`, from which a run can be replayed.
fn trace(shown: &Shown) {
    tracing::debug!(
        component = "yield",
        passed_us = micros(shown.passed),
        wait_us = shown.wait.map(micros),
        pressure = shown.pressure,
        own_bytes_per_sec = shown.own_bytes_per_sec,
        rate = shown.rate,
        "Measured"
    );
}

/// How long jobs are not held back before that is told to be over: a pause between two cuts is none.
const OVER_AFTER: Duration = Duration::from_secs(10);

/// What was logged: one line when jobs begin to be held back, and one when that is over.
#[derive(Default)]
pub(super) struct Told {
    /// How long they have been held back, and for how long they have not been since.
    held: Option<(Duration, Duration)>,
}

impl Told {
    /// Calls `begins` when jobs begin to be held back, and `ends` when that is over, with how long it was.
    pub(super) fn tell(
        &mut self,
        is_held: bool,
        passed: Duration,
        begins: impl FnOnce(),
        ends: impl FnOnce(Duration),
    ) {
        match &mut self.held {
            None if is_held => {
                begins();
                self.held = Some((passed, Duration::ZERO));
            }
            None => {}
            Some((held, free)) if is_held => {
                *held += *free + passed;
                *free = Duration::ZERO;
            }
            Some((held, free)) => {
                *free += passed;
                if *free >= OVER_AFTER {
                    ends(*held);
                    self.held = None;
                }
            }
        }
    }

    /// Calls `ends` if they were held back: nothing holds them back from now on.
    pub(super) fn end(&mut self, ends: impl FnOnce(Duration)) {
        if let Some((held, _)) = self.held.take() {
            ends(held);
        }
    }
}

fn tell(told: &mut Told, shown: &Shown) {
    let millis = |wait: Duration| wait.as_secs_f64() * 1e3;
    let begins = || {
        tracing::info!(
            component = "yield",
            others_wait_ms = shown.wait.map(millis),
            bearable_wait_ms = millis(shown.bearable_wait),
            pressure = shown.pressure,
            bytes_per_sec = shown.rate,
            "Jobs are held back: others need the disks"
        );
    };
    let ends = |held: Duration| {
        tracing::info!(
            component = "yield",
            held_secs = held.as_secs(),
            "Jobs are not held back any more"
        );
    };
    told.tell(shown.is_held, shown.passed, begins, ends);
}
