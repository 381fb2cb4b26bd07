//! Power cuts of disks with a cache of their own: what was not flushed is on the medium or not, in
//! any order. Every write of the group's disk is logged (dm-log-writes), and from the log the disk is
//! made as it may have been at many instants; each is looked at as the next start would find it.
//!
//! What is left out: LVM's metadata is one unflushed write after another, so those are taken to reach
//! the medium in their order, whatever becomes of the data around them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::time::{Duration, Instant};

use lvp_api::JobState;
use lvp_testkit::log_writes::{Entry, Log};
use lvp_testkit::require::require;
use lvp_testkit::uml::{self, Uml};
use lvp_testkit::{lvm, lvm::DISK};
use sha2::{Digest as _, Sha256};

use super::super::look::is_whole_but_for_ends;
use super::super::rig::{Random, hex, number};
use crate::support::{MIB, World, image};

const TEST: &str = "torture::uml::cache::torture_lost_disk_caches_leave_no_volume_half_true";

/// How many instants are looked at; more while `LVP_TORTURE_SECS` lasts.
const DEFAULT_LOOKS: usize = 4;

/// The disk, its log and the disk as it may have been, on one disk.
const DISK_MIB: u64 = 256;
const LOG_MIB: u64 = 900;

/// Where the group's first extent is; LVM's metadata is in front of it.
const FIRST_EXTENT_SECTOR: u64 = 2048;

#[test]
fn torture_lost_disk_caches_leave_no_volume_half_true() {
    if uml::is_inside() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(log_and_replay());
    } else if require("lvm") {
        let secs = Duration::from_secs(number("LVP_TORTURE_SECS", 0));
        Uml::new()
            .disk_mib(2048)
            .timeout(secs + Duration::from_secs(300))
            .pass("LVP_TORTURE_SECS")
            .pass("LVP_TORTURE_SEED")
            .run_this_test(TEST);
    }
}

async fn log_and_replay() {
    let until = Instant::now() + Duration::from_secs(number("LVP_TORTURE_SECS", 0));
    let mut random = Random::from_environment();
    lvm::remove_group();
    lvm::map("lvp-raw", &lvm::slice(1, DISK_MIB));
    lvm::map("lvp-log", &lvm::slice(1 + DISK_MIB, LOG_MIB));
    let sectors = DISK_MIB * 2048;
    let logged = format!("0 {sectors} log-writes /dev/mapper/lvp-raw /dev/mapper/lvp-log");
    lvm::make_group(&logged);
    let disks = two_jobs_on_one_volume().await;
    lvm::tool("vgchange -qq -an vg0");
    lvm::tool("dmsetup remove --retry lvp-disk");
    let file = File::open("/dev/mapper/lvp-log").expect("it opens");
    let log = Log::read(file).expect("it is a log");

    // The same name, as LVM is set to look there only.
    lvm::tool("dmsetup remove --retry lvp-raw");
    lvm::map("lvp-disk", &lvm::slice(1 + DISK_MIB + LOG_MIB, DISK_MIB));
    let medium = OpenOptions::new().write(true).open(DISK).expect("it opens");
    let made = position(&log, "made");
    let groups = groups(&log.entries);
    let chosen = groups.iter().filter(|(start, _)| *start > made).count();
    println!("{} writes between {chosen} flushes", log.entries.len());
    let mut looks = 0;
    let mut stages = BTreeMap::<&str, usize>::new();
    let mut left = chosen;
    for (start, end) in &groups {
        let entries = &log.entries[*start..*end];
        if *start > made {
            let mark = log.entries[*start].mark.as_deref();
            // Whoever was told that a job is done has its volume, whatever happens. What follows
            // the mark is the next job's.
            for (name, expected) in [("first", "ready 0"), ("second", "ready 1")] {
                if mark == Some(name) {
                    medium.sync_all().expect("it is written");
                    assert_eq!(look_at_medium(&disks), expected, "{name} had completed");
                }
            }
            let due = mark.is_some()
                || Instant::now() < until
                || random.below(left as u64) < DEFAULT_LOOKS as u64;
            left -= 1;
            if due {
                replay_some(&log, entries, &medium, &mut random);
                *stages.entry(look_at_medium(&disks)).or_default() += 1;
                looks += 1;
            }
        }
        for entry in entries {
            log.replay(entry, &medium).expect("it is replayed");
        }
    }
    println!("Disk caches lost: {looks}: {stages:?}");
    assert!(looks > 2, "nothing was looked at");
}

/// A new volume, then another image on it; the images' disks, in that order.
async fn two_jobs_on_one_volume() -> Vec<(String, Vec<u8>)> {
    lvm::tool("dmsetup message lvp-disk 0 mark made");
    let world = World::new()
        .await
        .with("VOLUME_BACKEND", "lvm")
        .with("LVM_VOLUME_GROUP", "vg0");
    let mut disks = Vec::new();
    let daemon = world.start();
    for (index, mark) in ["first", "second"].into_iter().enumerate() {
        let builder = image(8 * MIB, 40, 2 * index as u64 + 1);
        let bytes = builder.build();
        disks.push((hex(&Sha256::digest(&bytes)), builder.disk()));
        let url = world.put(&format!("{index}.qcow2"), &bytes);
        let job = daemon.provision(&url, "vm", 12 * MIB).await;
        let job = job.expect("it is accepted");
        let status = daemon.ended(&job).await.expect("it ends");
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        lvm::tool(&format!("dmsetup message lvp-disk 0 mark {mark}"));
    }
    daemon.kill().expect("it is killed");
    disks
}

fn position(log: &Log, mark: &str) -> usize {
    let mut entries = log.entries.iter();
    let found = entries.position(|entry| entry.mark.as_deref() == Some(mark));
    found.expect("it was marked")
}

/// What lies between one flush or mark and the next; each begins with the one before it.
fn groups(entries: &[Entry]) -> Vec<(usize, usize)> {
    let ends = |entry: &Entry| entry.is_flush() || entry.mark.is_some();
    let mut starts: Vec<_> = (0..entries.len())
        .filter(|index| *index == 0 || ends(&entries[*index]))
        .collect();
    starts.push(entries.len());
    starts.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

/// Some of the writes that were not safe yet have reached the medium.
fn replay_some(log: &Log, entries: &[Entry], medium: &File, random: &mut Random) {
    let metadata = entries
        .iter()
        .filter(|entry| entry.sector < FIRST_EXTENT_SECTOR)
        .count();
    let mut metadata_left = random.below(metadata as u64 + 1);
    // None, about half, or all of the data.
    let share = random.below(3);
    for entry in entries {
        let reaches = if entry.sector < FIRST_EXTENT_SECTOR {
            let is_early = metadata_left > 0;
            metadata_left = metadata_left.saturating_sub(1);
            is_early
        } else {
            random.below(2) < share
        };
        if reaches {
            log.replay(entry, medium).expect("it is replayed");
        }
    }
    medium.sync_all().expect("it is written");
}

/// The volume is absent, says that it is not ready, or is right.
fn look_at_medium(disks: &[(String, Vec<u8>)]) -> &'static str {
    lvm::tool("vgchange -qq -ay vg0");
    let stage = match lvm::volume("vm") {
        None => "absent",
        Some(volume) => {
            let bytes = fs::read(lvm::device("vm")).expect("it is read");
            match volume.tag_value("lvp.image") {
                Some(digest) => {
                    let index = disks.iter().position(|(known, _)| known == digest);
                    let index = index.expect("the image is one of ours");
                    let (body, tail) = bytes.split_at(disks[index].1.len());
                    assert!(body == disks[index].1, "says ready and is wrong");
                    assert!(tail.iter().all(|byte| *byte == 0), "there is a tail");
                    ["ready 0", "ready 1"][index]
                }
                None => {
                    assert!(volume.has_tag("lvp.state=populating"), "{volume:?}");
                    let is_cleared = bytes[..4096].iter().all(|byte| *byte == 0);
                    let mut disks = disks.iter();
                    assert!(
                        is_cleared || disks.any(|(_, disk)| is_whole_but_for_ends(&bytes, disk)),
                        "is not ready and has a head"
                    );
                    "not ready"
                }
            }
        }
    };
    lvm::tool("vgchange -qq -an vg0");
    stage
}
