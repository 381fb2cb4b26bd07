//! What every back end promises whose volumes share their content: a suite as `contract` is, for a binary's module
//! `clones` beside that one, where its place can.

use std::os::unix::fs::FileExt as _;

use lvp_api::{ImageType, JobId, Sha256Digest, VolumeName};
use provisioner::volume::clones::{GoldenKey, waiting_name};
use provisioner::volume::{
    Clones, Content, Golden, Made, Removed, Unmarked, Volume, VolumeErrorKind, VolumeState, Volumes,
};
use sha2::{Digest as _, Sha256};

use crate::contract::{MIB, Place, SIZE, digest, kind, look, make, name, populating, volumes};

/// Runs a macro with the path of every promise of those whose volumes share their content.
macro_rules! each_of_clones {
    ($run:ident) => {
        $run! {
            clones::a_golden_volume_is_used_only_once_it_is_sealed_and_is_in_no_list,
            clones::what_a_job_left_of_a_golden_volume_is_removed_as_of_any_other,
            clones::a_clone_has_the_golden_volume_s_bytes_and_zeros_behind_them,
            clones::an_unfinished_clone_is_made_anew_by_its_job_and_removed_by_no_other,
            clones::a_clone_is_ready_at_once_under_a_free_name_and_takes_nobody_s,
            clones::a_volume_is_replaced_by_a_clone_at_once_and_as_a_whole,
            clones::a_clone_that_waits_is_removed_and_the_volume_stays,
            clones::only_this_program_s_volumes_are_replaced,
            clones::a_volume_that_is_written_in_place_is_no_clone_any_more,
        }
    };
}

pub(crate) use each_of_clones;

/// What the golden volume's image is: a disk of this size with a block at its start and one at its end.
const DISK: u64 = 4 * MIB;

fn key(byte: u8) -> GoldenKey {
    GoldenKey {
        digest: digest(byte),
        image_type: ImageType::Qcow2,
    }
}

fn image_of(byte: u8) -> Vec<u8> {
    let mut disk = vec![0; usize::try_from(DISK).unwrap()];
    disk[..4096].fill(byte);
    let end = disk.len() - 4096;
    disk[end..].fill(byte);
    disk
}

fn content(byte: u8) -> Content {
    Content {
        size_bytes: DISK,
        digest: Sha256Digest::new(Sha256::digest(image_of(byte)).into()),
    }
}

async fn write(volumes: &dyn Volumes, volume: &Volume, byte: u8) {
    let open = volumes.open(volume).await.unwrap();
    open.file.write_all_at(&image_of(byte), 0).unwrap();
    open.file.sync_all().unwrap();
}

async fn clones(volumes: &dyn Volumes) -> &dyn Clones {
    volumes.clones().await.unwrap()
}

/// A sealed golden volume.
async fn golden(volumes: &dyn Volumes, byte: u8) -> Golden {
    let (clones, key, job) = (clones(volumes).await, key(byte), JobId::random());
    let volume = clones.make_golden(&key, DISK, job).await.unwrap();
    write(volumes, &volume, byte).await;
    let golden = clones.seal(&volume, &key, job, &content(byte)).await;
    golden.unwrap()
}

/// The volume's bytes: the image's disk, and zeros behind it.
async fn holds(volumes: &dyn Volumes, volume: &Volume, byte: u8) {
    let file = clones(volumes).await.read_golden(volume).await.unwrap();
    let mut bytes = vec![1; usize::try_from(volume.size_bytes).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let (disk, rest) = bytes.split_at(usize::try_from(DISK).unwrap());
    assert!(disk == image_of(byte), "the image's disk");
    assert!(rest.iter().all(|byte| *byte == 0), "zeros behind it");
}

async fn ready(volumes: &dyn Volumes, golden: &Golden, vm: &VolumeName, job: JobId) -> Volume {
    let clone = clones(volumes)
        .await
        .clone_golden(golden, vm, SIZE, job)
        .await
        .unwrap();
    let image = golden.key.digest;
    volumes
        .mark_ready(&clone, job, &image.into())
        .await
        .unwrap();
    clone
}

pub(crate) async fn a_golden_volume_is_used_only_once_it_is_sealed_and_is_in_no_list(
    place: &dyn Place,
) {
    let volumes = volumes(place);
    let volumes = &*volumes;
    let (clones, key, job) = (clones(volumes).await, key(1), JobId::random());
    assert!(clones.find_golden(&key).await.unwrap().is_none());
    let made = clones.make_golden(&key, DISK, job).await.unwrap();
    assert_eq!(made.state, populating(job, true));
    assert_eq!(made.name, key.volume_name());
    let again = clones.make_golden(&key, DISK, job).await.unwrap();
    assert_eq!(again.path, made.path);
    let unfinished = clones.find_golden(&key).await.unwrap().unwrap();
    assert!(unfinished.flaw.is_some(), "{unfinished:?}");
    assert_eq!(unfinished.content, None);
    let early = name("suite-early");
    let cloned = clones.clone_golden(&unfinished, &early, SIZE, job);
    cloned.await.unwrap_err();
    assert!(volumes.lookup(&early).await.unwrap().is_none());

    write(volumes, &made, 1).await;
    // Another job's word counts for nothing.
    let foreign = clones.seal(&made, &key, JobId::random(), &content(1)).await;
    assert_eq!(kind(foreign), VolumeErrorKind::Internal);
    let sealed = clones.seal(&made, &key, job, &content(1)).await.unwrap();
    let found = clones.find_golden(&key).await.unwrap().unwrap();
    for golden in [&sealed, &found] {
        assert_eq!(golden.flaw, None);
        assert_eq!((golden.key, golden.content), (key, Some(content(1))));
    }
    clones.seal(&made, &key, job, &content(1)).await.unwrap();
    holds(volumes, &found.volume, 1).await;
    // Read-only, whoever asks.
    volumes.open(&found.volume).await.unwrap_err();

    let all = clones.golden().await.unwrap();
    assert!(all.iter().any(|golden| golden.key == key));
    let listed = volumes.list().await.unwrap();
    assert!(listed.iter().all(|volume| volume.name != found.volume.name));
    let removed = clones.remove_golden(&found).await.unwrap();
    assert_eq!(removed, Removed::Removed);
    assert_eq!(clones.remove_golden(&found).await.unwrap(), Removed::Absent);
    assert!(clones.find_golden(&key).await.unwrap().is_none());
}

pub(crate) async fn what_a_job_left_of_a_golden_volume_is_removed_as_of_any_other(
    place: &dyn Place,
) {
    let volumes = volumes(place);
    let volumes = &*volumes;
    let (clones, key, job) = (clones(volumes).await, key(2), JobId::random());
    clones.make_golden(&key, DISK, job).await.unwrap();
    let name = key.volume_name();
    let other = volumes.remove_created(&name, JobId::random()).await;
    assert_eq!(other.unwrap(), Removed::Kept);
    let removed = volumes.remove_created(&name, job).await;
    assert_eq!(removed.unwrap(), Removed::Removed);
    assert!(clones.find_golden(&key).await.unwrap().is_none());
    // And one that somebody else began is removed by whoever is to make it.
    clones
        .make_golden(&key, DISK, JobId::random())
        .await
        .unwrap();
    let left = clones.find_golden(&key).await.unwrap().unwrap();
    clones.remove_golden(&left).await.unwrap();
    clones.make_golden(&key, DISK, job).await.unwrap();
    volumes.remove_created(&name, job).await.unwrap();
}

pub(crate) async fn a_clone_has_the_golden_volume_s_bytes_and_zeros_behind_them(place: &dyn Place) {
    let volumes = volumes(place);
    let volumes = &*volumes;
    let (golden, job) = (golden(volumes, 3).await, JobId::random());
    let vm = name("suite-clone");
    let clone = clones(volumes)
        .await
        .clone_golden(&golden, &vm, SIZE, job)
        .await
        .unwrap();
    assert_eq!(clone.state, populating(job, true));
    assert_eq!((&clone.name, clone.size_bytes), (&vm, SIZE));
    assert_eq!(look(volumes, &vm).await.state, populating(job, true));
    volumes
        .mark_ready(&clone, job, &golden.key.digest.into())
        .await
        .unwrap();
    let found = look(volumes, &vm).await;
    let state = VolumeState::Ready {
        job: Some(job),
        digest: golden.key.digest,
    };
    assert_eq!((found.state, found.content), (state, golden.content));
    assert_eq!(found.kind, Some(lvp_api::VolumeKind::Clone));
    holds(volumes, &found, 3).await;

    // What is written to the one is not in the others, and the golden volume's end is not theirs.
    let guest = std::fs::File::options().write(true).open(&found.path);
    let guest = guest.unwrap();
    guest.write_all_at(&[9; 4096], 0).unwrap();
    guest.sync_all().unwrap();
    drop(guest);
    let second = ready(volumes, &golden, &name("suite-clone-2"), job).await;
    holds(volumes, &second, 3).await;
    clones(volumes).await.remove_golden(&golden).await.unwrap();
    holds(volumes, &look(volumes, &second.name).await, 3).await;
}

pub(crate) async fn a_clone_is_ready_at_once_under_a_free_name_and_takes_nobody_s(
    place: &dyn Place,
) {
    let volumes = volumes(place);
    let volumes = &*volumes;
    let golden = golden(volumes, 1).await;
    let clones = clones(volumes).await;
    let holds_it = Made::from(golden.key.digest);
    for (vm, is_free) in [("suite-free", true), ("suite-looked", false)] {
        let (vm, job) = (name(vm), JobId::random());
        let made = clones
            .clone_ready(&golden, &vm, SIZE, (job, &holds_it), is_free)
            .await;
        let made = made.unwrap();
        let found = volumes.lookup(&vm).await.unwrap().unwrap();
        let (by, digest) = (Some(job), golden.key.digest);
        assert_eq!(found.state, VolumeState::Ready { job: by, digest });
        assert_eq!((&found.path, &found.name), (&made.path, &vm));
        assert!(found.size_bytes >= SIZE, "{found:?}");
        holds(volumes, &found, 1).await;
        // The name was free when somebody looked, and is not any more.
        let late = JobId::random();
        match clones
            .clone_ready(&golden, &vm, 2 * SIZE, (late, &holds_it), true)
            .await
        {
            Err(error) => assert_eq!(error.kind(), VolumeErrorKind::AlreadyExists),
            Ok(waits) => assert_eq!(waits.name, waiting_name(late)),
        }
        let still = volumes.lookup(&vm).await.unwrap().unwrap();
        assert_eq!(
            (still.state, still.size_bytes),
            (found.state, found.size_bytes)
        );
        clones.remove_waiting(late).await.unwrap();
    }
    // What was cloned was no golden volume by then.
    clones.remove_golden(&golden).await.unwrap();
    let (vm, job) = (name("suite-gone"), JobId::random());
    let gone = clones
        .clone_ready(&golden, &vm, SIZE, (job, &holds_it), true)
        .await;
    gone.unwrap_err();
    assert!(volumes.lookup(&vm).await.unwrap().is_none());
}

pub(crate) async fn an_unfinished_clone_is_made_anew_by_its_job_and_removed_by_no_other(
    place: &dyn Place,
) {
    let volumes = volumes(place);
    let volumes = &*volumes;
    let (golden, vm, job) = (
        golden(volumes, 4).await,
        name("suite-unfinished-clone"),
        JobId::random(),
    );
    let clones = clones(volumes).await;
    for _ in 0..2 {
        let clone = clones.clone_golden(&golden, &vm, SIZE, job).await.unwrap();
        assert_eq!((&clone.name, clone.state), (&vm, populating(job, true)));
    }
    let other = volumes.remove_created(&vm, JobId::random()).await;
    assert_eq!(other.unwrap(), Removed::Kept);
    let removed = volumes.remove_created(&vm, job).await;
    assert_eq!(removed.unwrap(), Removed::Removed);
    clones.remove_golden(&golden).await.unwrap();
}

pub(crate) async fn a_volume_is_replaced_by_a_clone_at_once_and_as_a_whole(place: &dyn Place) {
    let volumes = volumes(place);
    let volumes = &*volumes;
    let (old_image, new_image) = (golden(volumes, 5).await, golden(volumes, 6).await);
    let (first, second) = (JobId::random(), JobId::random());
    let vm = name("suite-swap");
    ready(volumes, &old_image, &vm, first).await;
    let old = look(volumes, &vm).await;
    let clones = clones(volumes).await;
    assert!(clones.is_replaceable(&old));
    clones.check_unused(&old).await.unwrap();

    let clone = clones
        .clone_golden(&new_image, &vm, old.size_bytes, second)
        .await
        .unwrap();
    assert_eq!(clone.name, waiting_name(second));
    assert_eq!(clones.waiting().await.unwrap(), [second]);
    let listed = volumes.list().await.unwrap();
    assert!(listed.iter().all(|volume| volume.name != clone.name));
    assert_eq!(look(volumes, &vm).await.state, old.state);
    // Not before it is ready.
    clones.replace(&old, &clone, second).await.unwrap_err();
    holds(volumes, &look(volumes, &vm).await, 5).await;
    let digest = new_image.key.digest;
    volumes
        .mark_ready(&clone, second, &digest.into())
        .await
        .unwrap();

    // Not while somebody has the old one.
    let guest = std::fs::File::open(&old.path).unwrap();
    let refused = kind(clones.check_unused(&old).await);
    assert_eq!(refused, VolumeErrorKind::InUse);
    let refused = kind(clones.replace(&old, &clone, second).await);
    assert_eq!(refused, VolumeErrorKind::InUse);
    holds(volumes, &look(volumes, &vm).await, 5).await;
    drop(guest);

    for _ in 0..2 {
        let replaced = clones.replace(&old, &clone, second).await.unwrap();
        let state = VolumeState::Ready {
            job: Some(second),
            digest,
        };
        assert_eq!((&replaced.name, replaced.state), (&vm, state));
        assert_eq!(replaced.path, old.path);
        let found = look(volumes, &vm).await;
        assert_eq!(found.state, state);
        holds(volumes, &found, 6).await;
        assert_eq!(clones.waiting().await.unwrap(), []);
    }
    // A volume as any other.
    let third = JobId::random();
    let marked = volumes
        .mark_populating(&look(volumes, &vm).await, third, Unmarked::Refuse)
        .await
        .unwrap();
    assert_eq!(marked.state, populating(third, false));
    volumes.leave(&look(volumes, &vm).await, third).await.ok();
    for golden in [old_image, new_image] {
        clones.remove_golden(&golden).await.unwrap();
    }
}

pub(crate) async fn a_clone_that_waits_is_removed_and_the_volume_stays(place: &dyn Place) {
    let volumes = volumes(place);
    let volumes = &*volumes;
    let golden = golden(volumes, 7).await;
    let (first, second) = (JobId::random(), JobId::random());
    let vm = name("suite-waiting");
    ready(volumes, &golden, &vm, first).await;
    let clones = clones(volumes).await;
    for is_ready in [false, true] {
        let clone = clones
            .clone_golden(&golden, &vm, SIZE, second)
            .await
            .unwrap();
        assert_eq!(clone.name, waiting_name(second));
        if is_ready {
            let digest = golden.key.digest;
            volumes
                .mark_ready(&clone, second, &digest.into())
                .await
                .unwrap();
        }
        let removed = clones.remove_waiting(second).await.unwrap();
        assert_eq!(removed, Removed::Removed);
        let again = clones.remove_waiting(second).await.unwrap();
        assert_eq!(again, Removed::Absent);
        assert_eq!(clones.waiting().await.unwrap(), []);
        holds(volumes, &look(volumes, &vm).await, 7).await;
    }
    clones.remove_golden(&golden).await.unwrap();
}

pub(crate) async fn only_this_program_s_volumes_are_replaced(place: &dyn Place) {
    let volumes = volumes(place);
    let clones = clones(&*volumes).await;
    let plain = make(place, "suite-not-replaced");
    assert!(!clones.is_replaceable(&look(&*volumes, &plain).await));
    volumes.adopt(&plain).await.unwrap();
    assert!(!clones.is_replaceable(&look(&*volumes, &plain).await));
}

pub(crate) async fn a_volume_that_is_written_in_place_is_no_clone_any_more(place: &dyn Place) {
    let volumes = volumes(place);
    let volumes = &*volumes;
    let (golden, job) = (golden(volumes, 8).await, JobId::random());
    let vm = name("suite-rewritten");
    ready(volumes, &golden, &vm, job).await;
    let next = JobId::random();
    // Marked and left unwritten it says what it said.
    let before = look(volumes, &vm).await;
    let mark = async || {
        let found = look(volumes, &vm).await;
        volumes
            .mark_populating(&found, next, Unmarked::Refuse)
            .await
            .unwrap()
    };
    mark().await;
    assert_eq!(look(volumes, &vm).await.content, None, "while it is marked");
    volumes.leave(&before, next).await.unwrap();
    assert_eq!(look(volumes, &vm).await.content, golden.content);
    let marked = mark().await;
    write(volumes, &marked, 9).await;
    volumes
        .mark_ready(&marked, next, &digest(9).into())
        .await
        .unwrap();
    assert_eq!(look(volumes, &vm).await.content, None);
    clones(volumes).await.remove_golden(&golden).await.unwrap();
}
