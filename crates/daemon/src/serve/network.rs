//! The task that lets downloads step aside for others on the same network.
//!
//! ```text
//!  every 500 ms             a look at the counters of the links, and a rate
//!  beside it, every minute  the links are looked for anew, and the store's address: that may take its time
//!  what was found last      holds until that has failed five times
//! ```

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
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

/// When they are looked for again after that failed, and after their counters could not be read.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_COUNTERS: Duration = Duration::from_secs(1);

/// How long it may take to look for them, names included.
const MAX_SEARCH: Duration = Duration::from_secs(5);

/// After how many failures in succession what was found before does not hold any more.
const MAX_FAILURES: u32 = 5;

/// The links' names, or why there are none.
type Found = Result<Vec<String>, String>;

/// Lets downloads step aside for others, for as long as that can be measured.
pub(super) async fn run_network(app: App, config: Config, stop: CancellationToken) {
    let guests = &app.services.guests;
    if !guests.network().is_on() {
        return;
    }
    let config = Arc::new(config);
    let address = Arc::default();
    let mut tick = tokio::time::interval(guests::INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut search = Search::new();
    let mut state = State::default();
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        search.begin(|| {
            find(
                Arc::clone(guests),
                Arc::clone(&config),
                Arc::clone(&address),
            )
        });
        if let Some(found) = search.found()
            && state.found(found)
        {
            guests.network().let_go();
            app.services
                .metrics
                .network_yielded(&NetworkShown::default());
        }
        let measuring = Arc::clone(guests);
        let step = blocking(move || measuring.network().step()).await;
        match step.map_err(std::io::Error::other).flatten() {
            Ok(Some(shown)) => {
                app.services.metrics.network_yielded(&shown);
                state.tell(&shown);
            }
            Ok(None) => {}
            Err(_) => search.hasten(),
        }
    }
}

/// Finds the links by the store's address, or by the last one that is known.
async fn find(guests: Arc<Guests>, config: Arc<Config>, last: Arc<Mutex<Option<IpAddr>>>) -> Found {
    let lock = || last.lock().unwrap_or_else(PoisonError::into_inner);
    let resolved = tokio::time::timeout(MAX_SEARCH, store_address(&config)).await;
    let resolved = resolved.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    let store = match resolved {
        Ok(store) => store,
        Err(error) => lock().ok_or_else(|| chain(&error))?,
    };
    *lock() = Some(store);
    let found = blocking(move || guests.network().find(store)).await;
    found
        .map_err(|error| chain(&error))?
        .map_err(|error| chain(&error))
}

/// Looks for the links now and then, beside the steps.
struct Search {
    /// At most one.
    running: JoinSet<Found>,
    at: Instant,
    failures: u32,
}

impl Search {
    fn new() -> Self {
        Self {
            running: JoinSet::new(),
            at: Instant::now(),
            failures: 0,
        }
    }

    /// Begins if it is time to.
    fn begin<F>(&mut self, find: impl FnOnce() -> F)
    where
        F: Future<Output = Found> + Send + 'static,
    {
        if self.running.is_empty() && Instant::now() >= self.at {
            self.running.spawn(find());
        }
    }

    /// What was found, unless what was found before still holds.
    fn found(&mut self) -> Option<Found> {
        let found = self.running.try_join_next()?;
        let found = found.map_err(|error| chain(&error)).flatten();
        self.failures = match found {
            Ok(_) => 0,
            Err(_) => self.failures.saturating_add(1),
        };
        let is_over = self.failures >= MAX_FAILURES;
        let pause = match found.is_ok() || is_over {
            true => REFRESH,
            false => RETRY,
        };
        self.at = Instant::now() + pause;
        (found.is_ok() || is_over).then_some(found)
    }

    /// What was found cannot be measured.
    fn hasten(&mut self) {
        self.at = self.at.min(Instant::now() + RETRY_COUNTERS);
    }
}

/// What was told, so that it is told once.
#[derive(Default)]
struct State {
    found: Option<Found>,
    held: Told,
}

impl State {
    /// Returns whether nothing is to be limited from now on.
    fn found(&mut self, found: Found) -> bool {
        let is_lost = found.is_err();
        if is_lost {
            self.held.end(ends);
        }
        if self.found.as_ref() == Some(&found) {
            return is_lost;
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
        is_lost
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
        self.held.tell(shown.is_held, shown.passed, begins, ends);
    }
}

fn ends(held: Duration) {
    tracing::info!(
        component = "yield",
        held_secs = held.as_secs(),
        "Downloads are not held back any more"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Found {
        Ok(vec!["eth0".to_owned()])
    }

    /// Looks as often as steps are made, until something is found. Returns that, and after how long.
    async fn look(search: &mut Search, find: impl Fn() -> Found) -> (Found, Duration) {
        let begin = Instant::now();
        loop {
            let found = find();
            search.begin(|| async { found });
            tokio::time::sleep(guests::INTERVAL).await;
            if let Some(found) = search.found() {
                return (found, begin.elapsed());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_found_holds_until_looking_has_failed_five_times() {
        let mut search = Search::new();
        let (found, _) = look(&mut search, links).await;
        assert_eq!(found, links());
        let failing = || Err("no address".to_owned());
        let (found, after) = look(&mut search, failing).await;
        assert_eq!(found, failing());
        let expected = REFRESH + RETRY * (MAX_FAILURES - 1);
        assert!(after >= expected && after < expected + RETRY, "{after:?}");
        // One that works again in between makes good for those before.
        search.failures = MAX_FAILURES - 1;
        assert_eq!(look(&mut search, links).await.0, links());
        assert_eq!(search.failures, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_a_search_that_hangs_and_lost_counters_are_looked_for_at_once() {
        let mut search = Search::new();
        let hanging = || async {
            tokio::time::sleep(REFRESH).await;
            links()
        };
        search.begin(hanging);
        search.begin(|| async { panic!("there is one already") });
        tokio::task::yield_now().await;
        assert_eq!(search.found(), None);
        tokio::time::sleep(REFRESH + RETRY).await;
        assert_eq!(search.found(), Some(links()));
        search.hasten();
        let (found, after) = look(&mut search, links).await;
        assert!(found.is_ok() && after <= RETRY_COUNTERS * 2, "{after:?}");
    }

    #[test]
    fn what_ends_with_the_measurement_is_told_to_end() {
        let mut state = State::default();
        assert!(!state.found(links()));
        let shown = NetworkShown {
            is_held: true,
            passed: guests::INTERVAL,
            ..NetworkShown::default()
        };
        state.tell(&shown);
        assert!(state.found(Err("gone".to_owned())));
        state.held.end(|_| panic!("it was told"));
    }
}
