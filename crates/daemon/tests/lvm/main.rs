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

#[path = "../volumes/contract/clones.rs"]
mod clones;
#[path = "../volumes/contract/mod.rs"]
mod contract;
mod fixture;
mod golden;
mod life;
mod place;
mod pool;
mod refusals;
mod spy;
mod thin;
mod trouble;

use place::{Group, Pool};

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

#[test]
fn a_thin_pool_s_volumes_and_their_clones_work_on_real_lvm() {
    if uml::is_inside() {
        run_thin();
    } else if require("lvm") {
        Uml::new()
            .timeout(Duration::from_secs(880))
            .pass("LVP_SCENARIO")
            .run_this_test("a_thin_pool_s_volumes_and_their_clones_work_on_real_lvm");
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

/// The same on the pool.
macro_rules! on_the_pool {
    ($($module:ident :: $name:ident),* $(,)?) => {
        vec![$((stringify!($name), Box::pin(contract::$module::$name(&Pool)) as _)),*]
    };
}

/// The promises of those whose volumes share content.
macro_rules! clones_on_the_pool {
    ($($module:ident :: $name:ident),* $(,)?) => {
        vec![$((stringify!($name), Box::pin($module::$name(&Pool)) as _)),*]
    };
}

fn run_thin() {
    fixture::make_pool(512, "");
    let mut all: Vec<Scenario> = contract::each!(on_the_pool);
    let of_clones: Vec<Scenario> = clones::each_of_clones!(clones_on_the_pool);
    all.extend(of_clones);
    let of_lvm: Vec<Scenario> = scenarios![
        thin::a_new_volume_is_thin_in_one_step_and_an_old_one_stays_linear,
        thin::a_volume_that_was_written_is_empty_again_when_it_is_opened,
        thin::a_thin_volume_of_another_pool_is_never_written,
        golden::what_was_changed_since_it_was_sealed_is_not_golden,
        golden::a_clone_costs_no_byte_and_few_commands,
        golden::a_kill_anywhere_leaves_nothing_that_looks_golden_or_ready,
        golden::a_swap_that_was_cut_off_anywhere_has_one_volume_of_the_name,
        golden::clones_leave_no_more_in_lvm_s_archive_than_before,
        pool::what_jobs_reserved_is_not_promised_twice,
        pool::a_pool_that_is_not_sound_gives_no_room_and_says_why,
        pool::a_pool_that_fills_up_fails_the_writer_and_recovers,
    ];
    all.extend(of_lvm);
    scenarios::run(all);
}
