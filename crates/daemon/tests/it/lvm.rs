//! The daemon on logical volumes: real LVM, in user-mode Linux.
//!
//! One test, so that one kernel is started; inside, every scenario runs and is reported by name. The
//! volume group is on a device that can be made to fail.

mod disk;
mod doctor;
mod expand;
mod many;
mod provision;
mod reconcile;
mod restore;
mod surroundings;
mod thin;

use std::time::Duration;

use lvp_testkit::fault::FaultProxy;
use lvp_testkit::lvm;
use lvp_testkit::require::require;
use lvp_testkit::scenarios;
use lvp_testkit::uml::{self, Uml};

use crate::support::World;

/// The size of the group's disk.
const DISK_MIB: u64 = 512;

#[test]
fn the_daemon_works_on_logical_volumes() {
    if uml::is_inside() {
        lvm::remove_group();
        lvm::make_group(&lvm::slice(1, DISK_MIB));
        scenarios::run(scenarios![
            provision::volumes_are_provisioned_rolled_back_and_resumed,
            disk::a_disk_that_cannot_be_written_fails_the_job_and_a_repeat_mends_it,
            disk::a_disk_that_goes_away_fails_the_job_and_what_it_made_is_removed_later,
            reconcile::volumes_without_jobs_are_removed_or_left_as_their_tags_say,
            reconcile::a_job_without_its_volume_makes_it_again,
            restore::a_ready_volume_is_written_only_by_a_job_accepted_after_it_said_so,
            restore::a_job_from_the_queue_rewrites_what_it_was_accepted_for_and_no_more,
            restore::a_snapshot_is_called_one_and_an_untagged_volume_is_refused_or_handed_over,
            surroundings::the_probe_asks_for_the_volume_group_itself,
            surroundings::a_clock_that_jumps_ends_no_job_and_forgets_nothing,
            surroundings::any_number_of_callers_for_the_volumes_cost_one_lvs_at_a_time,
            surroundings::a_stuck_lvm_holds_up_neither_the_api_nor_the_stop,
            // The last: it leaves LVM set to see nothing.
            doctor::the_doctor_sees_what_lvm_sees,
        ]);
    } else if require("lvm") {
        Uml::new()
            .timeout(Duration::from_secs(880))
            .pass("LVP_SCENARIO")
            .run_this_test("lvm::the_daemon_works_on_logical_volumes");
    }
}

#[test]
fn the_daemon_serves_many_at_once_on_logical_volumes() {
    if uml::is_inside() {
        lvm::remove_group();
        lvm::make_group(&lvm::slice(1, DISK_MIB));
        scenarios::run(scenarios![
            many::linear_volumes_that_are_requested_at_once_cost_one_download,
            many::thin_volumes_that_are_requested_at_once_are_clones_of_one_golden_volume,
            many::what_a_clone_costs_does_not_depend_on_its_image,
        ]);
    } else if require("lvm") {
        Uml::new()
            .timeout(Duration::from_secs(880))
            .disk_mib(12_000)
            .pass("LVP_SCENARIO")
            .pass("LVP_MANY")
            .run_this_test("lvm::the_daemon_serves_many_at_once_on_logical_volumes");
    }
}

#[test]
fn the_daemon_clones_in_a_thin_pool() {
    if uml::is_inside() {
        lvm::remove_group();
        lvm::make_group(&lvm::slice(1, DISK_MIB));
        scenarios::run(scenarios![
            thin::an_image_is_unpacked_once_and_cloned_as_often_as_it_is_asked_for,
            expand::the_backup_gpt_is_moved_on_clones_and_on_linear_volumes,
            thin::a_pool_beyond_its_limit_refuses_requests_until_there_is_room,
        ]);
    } else if require("lvm") {
        Uml::new()
            .timeout(Duration::from_secs(880))
            .pass("LVP_SCENARIO")
            .run_this_test("lvm::the_daemon_clones_in_a_thin_pool");
    }
}

/// A world whose daemon has its volumes in an empty volume group.
async fn world() -> (World, FaultProxy) {
    // Whatever the one before has left.
    lvm::map("lvp-disk", &lvm::slice(1, DISK_MIB));
    for volume in lvm::volumes() {
        lvm::tool(&format!("lvremove -qq --yes vg0/{}", volume.name));
    }
    let (world, proxy) = World::with_faults().await;
    let world = world
        .with("VOLUME_BACKEND", "lvm")
        .with("LVM_VOLUME_GROUP", "vg0")
        .with("LVM_RETRY_BACKOFF_MS", "50,400");
    (world, proxy)
}

fn has_tag(volume: &str, tag: &str) -> bool {
    let found = lvm::volume(volume).unwrap_or_else(|| panic!("{volume} is gone"));
    found.has_tag(tag)
}

fn is_clear(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
