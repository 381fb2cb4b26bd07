//! The task that lets downloads step aside for others on the same network.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::yielding::Told;
use crate::config::Config;
use crate::error::chain;
use crate::guests::network::{NetworkShown, store_address};
use crate::guests::{self, Guests};
use crate::http::App;
use crate::threads::blocking;

/// How often the links are looked for anew: routes and addresses change.
const REFRESH: Duration = Duration::from_secs(60);

/// Lets downloads step aside for others, for as long as that can be measured.
pub(super) async fn run_network(app: App, config: Config, stop: CancellationToken) {
    let guests = &app.services.guests;
    if !guests.network().is_on() {
        return;
    }
    let mut tick = tokio::time::interval(guests::INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut state = State::default();
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if state.look_at.is_none_or(|at| Instant::now() >= at) {
            state.look_at = Some(Instant::now() + REFRESH);
            let found = stop.run_until_cancelled(find(guests, &config)).await;
            let Some(found) = found else { return };
            state.found(guests, found);
        }
        let measuring = Arc::clone(guests);
        let step = blocking(move || measuring.network().step()).await;
        match step.map_err(std::io::Error::other).flatten() {
            Ok(Some(shown)) => {
                app.services.metrics.network_yielded(&shown);
                state.tell(&shown);
            }
            Ok(None) => {}
            Err(error) => state.found(guests, Err(chain(&error))),
        }
    }
}

async fn find(guests: &Arc<Guests>, config: &Config) -> Result<Vec<String>, String> {
    let store = store_address(config).await.map_err(|error| chain(&error))?;
    let guests = Arc::clone(guests);
    let found = blocking(move || guests.network().find(store)).await;
    found
        .map_err(|error| chain(&error))?
        .map_err(|error| chain(&error))
}

/// What was told, so that it is told once.
#[derive(Default)]
struct State {
    look_at: Option<Instant>,
    found: Option<Result<Vec<String>, String>>,
    held: Told,
}

impl State {
    fn found(&mut self, guests: &Guests, found: Result<Vec<String>, String>) {
        if found.is_err() {
            guests.network().let_go();
        }
        if self.found.as_ref() == Some(&found) {
            return;
        }
        match &found {
            Ok(links) => tracing::info!(
                component = "yield",
                links = links.join(","),
                "Downloads step aside while others need the network"
            ),
            Err(why) => tracing::warn!(
                component = "yield",
                why,
                "Downloads run at full speed: what others receive from the network cannot be measured"
            ),
        }
        self.found = Some(found);
    }

    fn tell(&mut self, shown: &NetworkShown) {
        let begins = || {
            tracing::info!(
                component = "yield",
                others_bytes_per_sec = shown.others_bytes_per_sec,
                link_bytes_per_sec = shown.link_bytes_per_sec,
                bytes_per_sec = shown.rate,
                "Downloads are held back: others need the network"
            );
        };
        let ends = |held: Duration| {
            tracing::info!(
                component = "yield",
                held_secs = held.as_secs(),
                "Downloads are not held back any more"
            );
        };
        self.held.tell(shown.is_held, shown.passed, begins, ends);
    }
}
