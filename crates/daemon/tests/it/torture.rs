//! Kills and power cuts at random instants, again and again; after each, everything that is left is
//! looked at.
//!
//! `./dev torture SECONDS` runs these for long; among the other tests they run for a moment. The
//! seed is printed, and `LVP_TORTURE_SEED` repeats a run's requests and, as shares of what the machine
//! needs for them, its delays.

#![expect(
    clippy::print_stdout,
    reason = "seeds and counts are what a run is for"
)]

mod look;
pub(crate) mod rig;
mod uml;

use std::time::{Duration, Instant};

use look::Place;
use rig::{Random, Rig, number};

/// How long it runs unless `LVP_TORTURE_SECS` says otherwise.
const DEFAULT_SECS: u64 = 20;

#[tokio::test]
async fn torture_kills_at_random_instants_leave_nothing_half_true() {
    kill_again_and_again(Place::Directory, DEFAULT_SECS).await;
}

/// Starts the daemon, asks it for things, kills it, and looks, for as long as the environment says.
async fn kill_again_and_again(place: Place, default_secs: u64) {
    let mut random = Random::from_environment();
    let mut rig = Rig::new(place).await;
    let until = Instant::now() + Duration::from_secs(number("LVP_TORTURE_SECS", default_secs));
    // On a machine that is busy the first round may take longer than all of them were to.
    while Instant::now() < until || rig.tally.kills == 0 || rig.tally.ready == 0 {
        rig.kill_once(&mut random).await;
        if rig.tally.kills.is_multiple_of(10) {
            println!("{:?}", rig.tally);
        }
    }
    rig.finish().await;
    println!("{place:?}: {:?}", rig.tally);
    assert!(
        rig.tally.kills > 0 && rig.tally.ready > 0,
        "nothing happened: {:?}",
        rig.tally
    );
    // In a moment's run none may have had its turn.
    assert!(
        rig.tally.guests > 0 || rig.tally.kills < 10,
        "no guest was looked at: {:?}",
        rig.tally
    );
}
