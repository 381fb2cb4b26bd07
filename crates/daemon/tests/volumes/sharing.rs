//! What golden files and their clones do beyond what every back end promises.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use lvp_api::{ImageType, JobId};
use lvp_testkit::require::require;
use provisioner::volume::clones::{GoldenKey, waiting_name};
use provisioner::volume::dir::Dir;
use provisioner::volume::{Clones as _, Content, NoLibvirt, Volume, VolumeState, Volumes as _};

use super::contract::{MIB, SIZE, digest, look, name};
use super::directory::Directory;

fn key() -> GoldenKey {
    GoldenKey {
        digest: digest(1),
        image_type: ImageType::Raw,
    }
}

fn content() -> Content {
    Content {
        size_bytes: MIB,
        digest: digest(2),
    }
}

fn dir(directory: &Directory) -> Dir {
    Dir::new(directory.location().to_owned(), Arc::new(NoLibvirt))
}

/// A sealed golden file of a MiB of sevens; its path.
async fn golden(volumes: &Dir) -> PathBuf {
    let job = JobId::random();
    let made = volumes.make_golden(&key(), MIB, job).await.unwrap();
    let open = volumes.open(&made).await.unwrap();
    open.file.write_all_at(&vec![7; 1 << 20], 0).unwrap();
    open.file.sync_all().unwrap();
    drop(open);
    volumes.seal(&made, &key(), job, &content()).await.unwrap();
    made.path
}

async fn flaw(volumes: &Dir) -> Option<String> {
    volumes.find_golden(&key()).await.unwrap().unwrap().flaw
}

#[tokio::test]
async fn a_file_system_that_cannot_share_is_named_and_nothing_is_left_of_the_trial() {
    // tmpfs and ext4 share nothing.
    let directory = Directory::new();
    let volumes = dir(&directory);
    if let Err(why) = volumes.clones().await {
        assert!(why.contains("cannot share extents"), "{why}");
        assert!(why.contains(&directory.location().display().to_string()));
    }
    let left = fs::read_dir(directory.location().join(".lvp")).unwrap();
    assert_eq!(left.count(), 0);
    let missing = Dir::new(directory.location().join("missing"), Arc::new(NoLibvirt));
    let why = missing.clones().await.map(drop).unwrap_err();
    assert!(why.contains("missing"), "{why}");
}

#[tokio::test]
async fn a_golden_file_that_anybody_changed_is_not_used() {
    if !require("xfs") {
        return;
    }
    let directory = Directory::on("xfs");
    let volumes = dir(&directory);
    let path = golden(&volumes).await;
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o444);
    assert_eq!(flaw(&volumes).await, None);
    // Cloning it changes nothing of it.
    let sealed = volumes.find_golden(&key()).await.unwrap().unwrap();
    for vm in ["a", "b"] {
        let vm = name(vm);
        let clone = volumes.clone_golden(&sealed, &vm, SIZE, JobId::random());
        clone.await.unwrap();
    }
    assert_eq!(flaw(&volumes).await, None);

    let mode = |mode| fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    assert_eq!(flaw(&volumes).await.unwrap(), "is writable");
    mode(0o444);
    assert_eq!(flaw(&volumes).await, None);
    let second = directory.location().join("second");
    fs::hard_link(&path, &second).unwrap();
    assert_eq!(flaw(&volumes).await.unwrap(), "has another hard link");
    fs::remove_file(&second).unwrap();
    // Root writes in spite of the mode.
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[8], 0).unwrap();
    assert_eq!(
        flaw(&volumes).await.unwrap(),
        "was written to since it was made"
    );
    file.set_len(2 * MIB).unwrap();
    assert_eq!(
        flaw(&volumes).await.unwrap(),
        "has another size than its image"
    );
    drop(file);
    let third = name("c");
    let refused = volumes.clone_golden(&sealed, &third, SIZE, JobId::random());
    refused.await.unwrap_err();
    assert!(volumes.lookup(&third).await.unwrap().is_none());
    // A copy in its place is another file.
    fs::copy(&path, &second).unwrap();
    fs::rename(&second, &path).unwrap();
    assert_eq!(flaw(&volumes).await.unwrap(), "has no record");
}

#[tokio::test]
async fn a_clone_that_replaces_a_file_keeps_its_owner_mode_and_attributes() {
    if !require("xfs") {
        return;
    }
    let directory = Directory::on("xfs");
    let volumes = dir(&directory);
    golden(&volumes).await;
    let sealed = volumes.find_golden(&key()).await.unwrap().unwrap();
    let (vm, first, second) = (name("web"), JobId::random(), JobId::random());
    let old = volumes.clone_golden(&sealed, &vm, SIZE, first).await;
    let old = old.unwrap();
    volumes
        .mark_ready(&old, first, &digest(1).into())
        .await
        .unwrap();
    std::os::unix::fs::chown(&old.path, Some(64055), Some(108)).unwrap();
    fs::set_permissions(&old.path, Permissions::from_mode(0o640)).unwrap();
    let set = |attribute: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&old.path, attribute, value, flags).unwrap();
    };
    set("user.backup", b"nightly");
    // Version 2: the owner rw-, user 64056 r--, the group r--, the mask r--, others --- (linux/posix_acl_xattr.h).
    let none = u32::MAX;
    let entries = [
        (1, 6, none),
        (2, 4, 64056),
        (4, 4, none),
        (16, 4, none),
        (32, 0, none),
    ];
    let mut list = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend(u16::to_le_bytes(tag));
        list.extend(u16::to_le_bytes(permissions));
        list.extend(u32::to_le_bytes(id));
    }
    set("system.posix_acl_access", &list);

    let old = look(&volumes, &vm).await;
    let clone = volumes.clone_golden(&sealed, &vm, SIZE, second).await;
    let clone = clone.unwrap();
    volumes
        .mark_ready(&clone, second, &digest(1).into())
        .await
        .unwrap();
    let inode = fs::metadata(&clone.path).unwrap().ino();
    let replaced = volumes.replace(&old, &clone, second).await.unwrap();
    let found = fs::metadata(&replaced.path).unwrap();
    assert_eq!(found.ino(), inode);
    assert_eq!((found.uid(), found.gid()), (64055, 108));
    assert_eq!(found.mode() & 0o7777, 0o640);
    let mut value = [0; 256];
    let mut get = |attribute: &str| {
        let length = rustix::fs::getxattr(&replaced.path, attribute, &mut value[..]).unwrap();
        value[..length].to_vec()
    };
    assert_eq!(get("user.backup"), b"nightly");
    assert_eq!(get("system.posix_acl_access"), list);
    // What says which file it is, is its own.
    let state = VolumeState::Ready {
        job: Some(second),
        digest: digest(1),
    };
    assert_eq!(look(&volumes, &vm).await.state, state);
}

#[tokio::test]
async fn an_image_whose_size_was_not_known_before_is_cut_to_it_when_it_is_sealed() {
    if !require("btrfs") {
        return;
    }
    let directory = Directory::on("btrfs");
    let volumes = dir(&directory);
    let job = JobId::random();
    let made = volumes.make_golden(&key(), SIZE, job).await.unwrap();
    let odd = Content {
        size_bytes: MIB + 1,
        ..content()
    };
    let sealed = volumes.seal(&made, &key(), job, &odd).await.unwrap();
    assert_eq!((sealed.flaw, sealed.volume.size_bytes), (None, MIB + 512));
    assert_eq!(sealed.content, Some(odd));
}

/// The volume and its replacement, ready; each of another job.
async fn about_to_be_replaced(volumes: &Dir, vm: &str) -> (Volume, Volume, JobId) {
    let vm = name(vm);
    let sealed = volumes.find_golden(&key()).await.unwrap().unwrap();
    let (first, second) = (JobId::random(), JobId::random());
    let old = volumes.clone_golden(&sealed, &vm, SIZE, first).await;
    let old = old.unwrap();
    volumes
        .mark_ready(&old, first, &digest(1).into())
        .await
        .unwrap();
    let old = look(volumes, &vm).await;
    let clone = volumes.clone_golden(&sealed, &vm, SIZE, second).await;
    let clone = clone.unwrap();
    volumes
        .mark_ready(&clone, second, &digest(1).into())
        .await
        .unwrap();
    (old, clone, second)
}

#[tokio::test]
async fn a_kill_at_any_step_of_a_replacement_leaves_the_name_to_one_of_both() {
    if !require("xfs") {
        return;
    }
    let directory = Directory::on("xfs");
    let volumes = dir(&directory);
    golden(&volumes).await;
    let path = |name: &str| directory.location().join(name);
    let records = |name: &str| path(&format!(".lvp/{name}"));
    let apart = |name: &str| path(&format!(".lvp/golden/{name}"));

    // Killed when the record of the new one was written beside that of the old one.
    let (old, clone, job) = about_to_be_replaced(&volumes, "one").await;
    let waits = waiting_name(job);
    let json = apart(&format!("{waits}.json"));
    fs::copy(&json, records("one.next")).unwrap();
    let one = look(&volumes, &name("one")).await;
    assert_eq!(one.state, old.state);
    // Killed when the names were exchanged.
    fs::rename(path("one"), path("aside")).unwrap();
    fs::rename(&clone.path, path("one")).unwrap();
    fs::rename(path("aside"), &clone.path).unwrap();
    let one = look(&volumes, &name("one")).await;
    let ready = VolumeState::Ready {
        job: Some(job),
        digest: digest(1),
    };
    assert_eq!(one.state, ready);
    // The next start says that it is done, and sweeps.
    volumes
        .mark_ready(&one, job, &digest(1).into())
        .await
        .unwrap();
    assert!(!records("one.next").exists());
    assert_eq!(volumes.waiting().await.unwrap(), [job]);
    volumes.remove_waiting(job).await.unwrap();
    assert_eq!(look(&volumes, &name("one")).await.state, ready);
    assert!(!json.exists() && !clone.path.exists());

    // Somebody puts a file there while the volume is replaced.
    let (old, clone, job) = about_to_be_replaced(&volumes, "two").await;
    fs::write(path("aside"), vec![9; 1 << 20]).unwrap();
    fs::rename(path("aside"), path("two")).unwrap();
    volumes.replace(&old, &clone, job).await.unwrap_err();
    assert_eq!(fs::read(path("two")).unwrap()[0], 9);
    let two = look(&volumes, &name("two")).await;
    assert_eq!(two.state, VolumeState::Untagged);
}
