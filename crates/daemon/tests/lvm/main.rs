//! The LVM back end on real LVM, in user-mode Linux.
//!
//! One test, so that one kernel is started; inside, every scenario runs and is reported by name: the suite
//! that every back end passes, and what LVM does beyond it.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this is a test, also the functions that clippy does not take for one"
)]

use std::time::Duration;

use lvp_testkit::require::require;
use lvp_testkit::scenarios;
use lvp_testkit::scenarios::Scenario;
use lvp_testkit::uml::{self, Uml};

#[path = "../volumes/contract/mod.rs"]
mod contract;
mod fixture;
mod life;
mod place;
mod refusals;
mod trouble;

use place::Group;

#[test]
fn the_lvm_back_end_works_on_real_lvm() {
    if uml::is_inside() {
        run_all();
    } else if require("lvm") {
        Uml::new()
            .timeout(Duration::from_secs(880))
            .pass("LVP_SCENARIO")
            .run_this_test("the_lvm_back_end_works_on_real_lvm");
    }
}

/// A scenario for each promise of the suite.
macro_rules! on_the_group {
    ($($module:ident :: $name:ident),* $(,)?) => {
        vec![$((stringify!($name), Box::pin(contract::$module::$name(&Group)) as _)),*]
    };
}

fn run_all() {
    let mut all: Vec<Scenario> = contract::each!(on_the_group);
    let of_lvm: Vec<Scenario> = scenarios![
        life::each_change_of_state_is_one_commit,
        life::the_list_has_no_internal_volumes,
        life::the_very_last_extent_can_be_used,
        life::an_inactive_volume_is_activated,
        refusals::a_brief_opener_is_waited_for,
        refusals::a_mounted_volume_and_one_under_another_device_are_refused,
        refusals::pools_thin_volumes_snapshots_and_origins_are_refused,
        refusals::a_volume_with_another_tools_tags_is_refused,
        refusals::a_volume_that_lvm_makes_read_only_is_refused,
        refusals::a_device_that_is_not_the_volumes_is_refused,
        refusals::a_domains_disk_is_refused_by_any_of_its_paths,
        trouble::a_killed_lvcreate_leaves_nothing_or_its_jobs_volume,
        trouble::a_held_lock_is_waited_for_until_the_time_out,
        trouble::rollback_outlasts_a_brief_opener,
    ];
    all.extend(of_lvm);
    scenarios::run(all);
}
