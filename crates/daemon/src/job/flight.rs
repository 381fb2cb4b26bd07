//! Work that several jobs need is done once: the first of them leads, the others follow.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::meter::Meter;

/// How long a follower waits for the leader's counters.
const SHOWN_MAX: Duration = Duration::from_secs(2);

/// What a follower sees of the flight.
#[derive(Debug, Clone, Default)]
pub struct FlightState {
    /// The leader's counters, once it has some.
    pub meter: Option<Arc<Meter>>,
}

type Table = Arc<Mutex<HashMap<String, watch::Receiver<FlightState>>>>;

/// All flights.
#[derive(Debug, Default)]
pub struct Flights(Table);

/// Held by the leader: the flight ends when this is dropped, whether it succeeded or not.
#[derive(Debug)]
pub struct FlightGuard {
    table: Table,
    key: String,
    state: watch::Sender<FlightState>,
}

/// Held by a job that waits for the leader.
#[derive(Debug)]
pub struct Follower(watch::Receiver<FlightState>);

impl Flights {
    /// Takes the lead, or follows whoever has it.
    pub fn enter(&self, key: &str) -> Result<FlightGuard, Follower> {
        match lock(&self.0).entry(key.to_owned()) {
            Entry::Occupied(flight) => Err(Follower(flight.get().clone())),
            Entry::Vacant(seat) => {
                let (state, receiver) = watch::channel(FlightState::default());
                seat.insert(receiver);
                Ok(FlightGuard {
                    table: Arc::clone(&self.0),
                    key: key.to_owned(),
                    state,
                })
            }
        }
    }

    /// Whether somebody leads under this key.
    pub fn contains(&self, key: &str) -> bool {
        lock(&self.0).contains_key(key)
    }
}

impl FlightGuard {
    /// Shows followers how far the flight is.
    pub fn show(&self, meter: Arc<Meter>) {
        self.state.send_replace(FlightState { meter: Some(meter) });
    }
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        lock(&self.table).remove(&self.key);
    }
}

impl Follower {
    /// Returns when the flight has ended, whether it succeeded or not.
    pub async fn ended(&mut self) {
        // The sender is dropped with the leader's guard; that is the end.
        while self.0.changed().await.is_ok() {}
    }

    /// Returns when the leader shows its counters, or the flight has ended; or soon, as the leader's own requests may
    /// have no answer for long.
    pub async fn shown(&mut self) {
        let shown = self.0.wait_for(|state| state.meter.is_some());
        // An error is the end.
        tokio::time::timeout(SHOWN_MAX, shown).await.ok();
    }

    /// What is known of the flight now.
    pub fn state(&self) -> FlightState {
        self.0.borrow().clone()
    }
}

fn lock(
    table: &Mutex<HashMap<String, watch::Receiver<FlightState>>>,
) -> MutexGuard<'_, HashMap<String, watch::Receiver<FlightState>>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower_of(flights: &Flights) -> Follower {
        flights.enter("a").expect_err("somebody leads")
    }

    #[tokio::test]
    async fn the_second_asker_follows_until_the_leader_is_gone() {
        let flights = Flights::default();
        let leader = flights.enter("a").expect("nobody leads yet");
        let mut follower = flights.enter("a").expect_err("somebody leads");
        assert!(
            flights.enter("b").is_ok(),
            "another object has a flight of its own"
        );
        let mut other = follower_of(&flights);
        let shown = tokio::spawn(async move { other.shown().await });
        leader.show(Arc::default());
        shown.await.expect("it is told");
        assert!(follower.state().meter.is_some());
        let waiting = tokio::spawn(async move { follower.ended().await });
        drop(leader);
        waiting.await.expect("the follower is told");
        assert!(flights.enter("a").is_ok(), "the seat is free again");
    }
}
