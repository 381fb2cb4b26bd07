//! The look at everything: volumes, cache, database.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::PathBuf;

use lvp_testkit::daemon::Home;
use lvp_testkit::lvm;
use lvp_testkit::require::command;
use rusqlite::Connection;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::rig::{Rig, VOLUMES, hex};

/// What is cleared first and written last, at both ends of the disk.
const END: usize = 1 << 20;
const BLOCK: usize = 4096;

/// Where the volumes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Directory,
    Lvm,
    /// In the thin pool [`POOL`] of the group.
    Thin,
}

/// The thin pool.
pub(super) const POOL: &str = "pool0";

/// A volume as somebody else finds it.
struct Seen {
    bytes: Vec<u8>,
    /// The image that it says it holds; None while it says that it does not.
    ready: Option<String>,
    /// Whether LVM says that a job made it, which is all that is known until LVM has cleared its
    /// first block.
    is_new: bool,
}

/// Every volume is absent, provably not ready, or right; every cache file is what its name says;
/// what a guest wrote to a ready volume is there, unless a job was asked for since; the database is
/// whole, and has every job that was accepted. The names of the ready volumes.
///
/// # Panics
///
/// If anything is not so.
pub(super) fn look(rig: &mut Rig) -> Vec<String> {
    if rig.place != Place::Directory {
        for volume in lvm::volumes() {
            let ours = (0..VOLUMES).any(|index| volume.name == format!("vm-{index}"));
            let of_clones = ["lvp-golden-", "lvp-new-", "lvp-old-"];
            let of_clones = of_clones
                .iter()
                .any(|prefix| volume.name.starts_with(prefix));
            let of_pool = volume.name.starts_with(POOL) || volume.name.ends_with("_pmspare");
            let expected = ours || rig.place == Place::Thin && (of_clones || of_pool);
            assert!(expected, "{volume:?} is left in the volume group");
        }
    }
    let mut ready = Vec::new();
    for index in 0..VOLUMES {
        let name = format!("vm-{index}");
        let seen = see(rig, &name);
        let is_guest_s = look_at_guest(rig, &name, seen.as_ref());
        let Some(seen) = seen else {
            rig.tally.absent += 1;
            continue;
        };
        match &seen.ready {
            Some(digest) if is_guest_s => {
                rig.tally.ready += 1;
                ready.push((name, digest.clone()));
            }
            Some(digest) => {
                let disk = rig.disks.get(digest).expect("the image is one of ours");
                let (bytes, tail) = seen.bytes.split_at(disk.len());
                assert!(bytes == disk, "{name} says ready and is wrong");
                assert!(tail.iter().all(|byte| *byte == 0), "{name} has a tail");
                rig.tally.ready += 1;
                ready.push((name, digest.clone()));
            }
            None => {
                assert!(
                    is_not_bootable(rig, &name, &seen),
                    "{name} is not ready and has a head: {:x?}",
                    &seen.bytes[..16]
                );
                rig.tally.not_ready += 1;
            }
        }
    }
    look_at_cache(rig);
    look_at_database(rig, &ready);
    ready.into_iter().map(|(name, _)| name).collect()
}

/// Whether the volume is ready and as a guest has left it. It must be, while no job was asked for
/// since, whatever became of the database.
fn look_at_guest(rig: &mut Rig, name: &str, seen: Option<&Seen>) -> bool {
    let Some(guest) = rig.guests.get(name) else {
        return false;
    };
    let is_ready = seen.is_some_and(|seen| seen.ready.is_some());
    if is_ready && seen.is_some_and(|seen| seen.bytes == guest.bytes) {
        rig.tally.guests += 1;
        return true;
    }
    assert!(
        guest.may_be_rewritten,
        "{name} was ready, a guest has written to it, nobody asked for it since, and it is changed"
    );
    if is_ready {
        rig.guests.remove(name);
    }
    false
}

/// What a volume that is not ready may hold. LVM clears 4 KiB when it makes one, the copier a MiB.
/// Only what is all there but for its ends may have a part of its head. In a power cut a new volume
/// may be caught before LVM has cleared anything: then its head is none of ours.
fn is_not_bootable(rig: &Rig, name: &str, seen: &Seen) -> bool {
    let cleared = match rig.place {
        Place::Directory => END,
        Place::Lvm => BLOCK,
        // A new one is all zeros, and what it is cloned with is whole.
        Place::Thin => END,
    };
    let is_cleared = seen.bytes.iter().take(cleared).all(|byte| *byte == 0);
    let mut disks = rig.disks.values();
    let is_strangers = seen.is_new && disks.all(|disk| disk[..BLOCK] != seen.bytes[..BLOCK]);
    // What a job has marked and not begun to write.
    let guest = rig.guests.get(name);
    let is_guest_s = guest.is_some_and(|guest| is_whole_but_for_ends(&seen.bytes, &guest.bytes));
    let mut disks = rig.disks.values();
    is_cleared
        || is_guest_s
        || is_strangers
        || disks.any(|disk| is_whole_but_for_ends(&seen.bytes, disk))
}

/// Whether a volume holds the disk, each block of whose ends may be cleared: before a copy they are
/// cleared while the rest is the old image still, after it they are written once the rest is there.
pub(super) fn is_whole_but_for_ends(volume: &[u8], disk: &[u8]) -> bool {
    let body = END..disk.len() - END;
    let ends = (0..END).chain(body.end..disk.len()).step_by(BLOCK);
    volume[body.clone()] == disk[body]
        && ends.into_iter().all(|start| {
            let found = &volume[start..start + BLOCK];
            found == &disk[start..start + BLOCK] || found.iter().all(|byte| *byte == 0)
        })
}

/// The volume, if it is there. What a killed daemon had started may change it under the look.
fn see(rig: &Rig, name: &str) -> Option<Seen> {
    for _ in 0..10 {
        let seen = match rig.place {
            Place::Directory => see_file(rig, name),
            Place::Lvm | Place::Thin => see_logical_volume(name),
        };
        match seen {
            Ok(seen) => return seen,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => panic!("{name}: {error}"),
        }
    }
    panic!("{name} comes and goes");
}

fn see_file(rig: &Rig, name: &str) -> io::Result<Option<Seen>> {
    let path = rig.world.home.volume(name);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = fs::read(&path)?;
    assert_eq!(bytes.len() as u64, rig.place.volume_bytes(), "{name}");
    let record = path.with_file_name(".lvp").join(format!("{name}.json"));
    let record: Value = serde_json::from_slice(&fs::read(record)?)?;
    let image = record["image"].as_str().map(str::to_owned);
    let ready =
        (record["state"] == "ready").then(|| image.expect("a ready volume names its image"));
    Ok(Some(Seen {
        bytes,
        ready,
        is_new: false,
    }))
}

fn see_logical_volume(name: &str) -> io::Result<Option<Seen>> {
    let volumes = lvm::volumes();
    let mut named = volumes.iter().filter(|volume| volume.name == name);
    // Cut off between two renames, the name is that of the clone that gets it.
    let mut getting = volumes.iter().filter(|volume| {
        volume.name.starts_with("lvp-new-")
            && volume.tag_value("lvp.for") == Some(name)
            && volume.has_tag("lvp.state=ready")
    });
    let Some(volume) = named.next().or_else(|| getting.next()) else {
        return Ok(None);
    };
    assert!(volume.has_tag("lvp"), "{volume:?} is not marked as ours");
    let ready = volume.has_tag("lvp.state=ready").then(|| {
        let image = volume.tag_value("lvp.image").expect("it names its image");
        image.to_owned()
    });
    assert!(
        ready.is_some() || volume.has_tag("lvp.state=populating"),
        "{volume:?} says neither"
    );
    let device = lvm::device(&volume.name);
    if volume.has_tag("lvp.state=populating") && !device.exists() {
        // A clone is activated once it has its size; it may be gone by now.
        let activate = ["-qq", "--activate", "y", &format!("vg0/{}", volume.name)];
        command("lvchange").args(activate).status()?;
    }
    let mut bytes = Vec::new();
    fs::File::open(device)?.read_to_end(&mut bytes)?;
    assert_eq!(bytes.len() as u64, volume.size_bytes);
    let is_new = volume.tag_value("lvp.created").is_some();
    Ok(Some(Seen {
        bytes,
        ready,
        is_new,
    }))
}

fn look_at_cache(rig: &mut Rig) {
    let home = &rig.world.home;
    for file in home.cache_files() {
        if let Some(digest) = file.strip_suffix(".img") {
            let bytes = fs::read(home.path().join("cache").join(&file)).expect("it is read");
            let found = hex(&Sha256::digest(bytes));
            assert_eq!(found, digest, "a cache file is not its name's");
            rig.tally.cached += 1;
        } else if let Some(copy) = file.strip_suffix("-qcow2.disk") {
            let digest = copy.strip_prefix(".lvp-").expect("a copy's name");
            let disk = rig.disks.get(digest).expect("the image is one of ours");
            let bytes = fs::read(home.path().join("cache").join(&file)).expect("it is read");
            assert!(bytes == *disk, "{file} is not its image's disk");
            rig.tally.unpacked += 1;
        } else {
            assert!(file.ends_with(".partial"), "{file} is left in the cache");
            rig.tally.partials += 1;
        }
    }
}

/// The database agrees with the volumes: the one that a completed job wrote last is ready.
fn look_at_database(rig: &Rig, ready: &[(String, String)]) {
    let database = Connection::open(rig.world.home.path().join("jobs.db")).expect("it opens");
    let whole: String = database
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .expect("it is checked");
    assert_eq!(whole, "ok");
    for job in &rig.accepted {
        let known: u32 = database
            .query_row("SELECT count(*) FROM jobs WHERE id = ?1", [job], |row| {
                row.get(0)
            })
            .expect("it is asked");
        assert_eq!(known, 1, "the job {job} was accepted and is forgotten");
    }
    let mut last = database
        .prepare(
            "SELECT volume_name, image_digest FROM jobs AS job WHERE state = 'completed' AND seq = \
             (SELECT max(seq) FROM jobs WHERE volume_name = job.volume_name)",
        )
        .expect("it is SQL");
    let last = last
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("it is asked");
    for completed in last {
        let completed: (String, String) = completed.expect("it is read");
        let is_outdated = rig.forgotten.contains(&completed.0);
        assert!(
            is_outdated || ready.contains(&completed),
            "{completed:?} is completed and not among {ready:?}"
        );
    }
}

impl Place {
    pub(super) fn path(self, home: &Home, name: &str) -> PathBuf {
        match self {
            Self::Directory => home.volume(name),
            Self::Lvm | Self::Thin => lvm::device(name),
        }
    }

    /// Nothing goes on any more: every device is a volume's, and of golden volumes and clones nothing is half made.
    pub(super) fn check_leftovers(self, disks: &BTreeMap<String, Vec<u8>>) {
        if self == Self::Directory {
            return;
        }
        lvm::check();
        if self == Self::Lvm {
            return;
        }
        for volume in lvm::volumes() {
            let name = &volume.name;
            let is_left = ["lvp-new-", "lvp-old-"]
                .iter()
                .any(|of| name.starts_with(of));
            assert!(!is_left, "{volume:?} is left over");
            if name.starts_with("lvp-golden-") {
                assert!(volume.has_tag("lvp.state=ready"), "{volume:?} is half made");
                let image = volume.tag_value("lvp.image").expect("it names its image");
                lvm::tool(&format!("lvchange -qq --activate y -K vg0/{name}"));
                let bytes = fs::read(lvm::device(name)).expect("it is read");
                let (disk, tail) = bytes.split_at(disks[image].len());
                assert!(disk == disks[image], "{name} is wrong");
                assert!(tail.iter().all(|byte| *byte == 0), "{name} has a tail");
                lvm::tool(&format!("lvchange -qq --activate n vg0/{name}"));
            }
        }
        let of_lvm = lvm::tool(&format!(
            "lvs --noheadings --options transaction_id vg0/{POOL}"
        ));
        let status = lvm::tool(&format!("dmsetup status vg0-{POOL}-tpool"));
        let of_kernel = status.split_whitespace().nth(3);
        assert_eq!(
            Some(&*of_lvm),
            of_kernel,
            "LVM and the kernel do not agree: {status}"
        );
    }
}
