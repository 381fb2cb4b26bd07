//! The same on logical volumes, in user-mode Linux.

mod cache;
mod power;

use std::time::Duration;

use lvp_testkit::require::require;
use lvp_testkit::uml::{self, Uml};

use super::look::Place;
use super::rig::number;

const DEFAULT_SECS: u64 = 8;

/// How long it may take to boot, and to end the jobs that are left.
const AROUND: Duration = Duration::from_secs(400);

#[test]
fn torture_kills_leave_no_logical_volume_half_true() {
    kill(
        Place::Lvm,
        "torture::uml::torture_kills_leave_no_logical_volume_half_true",
    );
}

#[test]
fn torture_kills_leave_no_thin_volume_and_no_clone_half_true() {
    kill(
        Place::Thin,
        "torture::uml::torture_kills_leave_no_thin_volume_and_no_clone_half_true",
    );
}

fn kill(place: Place, test: &str) {
    if uml::is_inside() {
        place.prepare();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(super::kill_again_and_again(place, DEFAULT_SECS));
    } else if require("lvm") {
        let secs = Duration::from_secs(number("LVP_TORTURE_SECS", DEFAULT_SECS));
        Uml::new()
            .timeout(secs + AROUND)
            .pass("LVP_TORTURE_SECS")
            .pass("LVP_TORTURE_SEED")
            .run_this_test(test);
    }
}
