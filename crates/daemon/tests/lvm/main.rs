//! The LVM back end on real LVM, in user-mode Linux.
//!
//! One test, so that one kernel is started; inside, every scenario runs and is reported by name.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this is a test, also the functions that clippy does not take for one"
)]

use std::time::Duration;

use lvp_testkit::require::require;
use lvp_testkit::scenarios;
use lvp_testkit::uml::{self, Uml};

mod fixture;
mod life;
mod refusals;
mod trouble;

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

fn run_all() {
    scenarios::run(scenarios![
        life::a_volume_goes_from_created_to_ready_and_is_rewritten_by_the_next_job,
        life::creating_is_idempotent_for_its_job_and_refused_to_another,
        life::the_list_has_everybody_s_volumes_and_no_insides,
        life::a_volume_that_does_not_fit_is_refused_with_both_numbers,
        life::rollback_removes_only_what_the_job_created,
        life::an_inactive_volume_is_activated,
        refusals::a_volume_that_is_open_elsewhere_is_refused_untouched,
        refusals::a_mounted_volume_and_one_under_another_device_are_refused,
        refusals::pools_thin_volumes_snapshots_and_origins_are_refused,
        refusals::what_others_tagged_is_refused_and_untagged_unless_that_is_meant,
        refusals::a_volume_that_is_handed_over_keeps_its_bytes_and_may_be_written,
        refusals::what_a_job_leaves_unwritten_says_what_it_said_before,
        refusals::a_device_that_is_not_the_volume_s_is_refused,
        refusals::a_volume_that_was_replaced_is_not_taken_for_the_first,
        refusals::a_domain_s_disk_is_refused_by_any_of_its_paths,
        trouble::a_killed_lvcreate_leaves_nothing_or_a_volume_of_its_job,
        trouble::a_held_lock_is_waited_for_until_the_time_out,
        trouble::rollback_outlasts_a_brief_opener_and_reports_a_lasting_one,
        trouble::a_missing_volume_group_is_down_and_not_empty,
    ]);
}
