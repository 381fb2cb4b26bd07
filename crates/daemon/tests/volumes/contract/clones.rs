//! What every back end promises whose volumes share their content: a suite as `contract` is, for a binary's module
//! `clones` beside that one, where its place can.

mod replace;

use std::os::unix::fs::FileExt as _;

use lvp_api::{ImageType, JobId, Sha256Digest, VolumeName};
use provisioner::volume::clones::{GoldenKey, waiting_name};
use provisioner::volume::{
    Clones, Content, Golden, Made, Removed, Unmarked, Volume, VolumeErrorKind, VolumeState, Volumes,
};
use sha2::{Digest as _, Sha256};

use crate::contract::{MIB, Place, SIZE, digest, kind, look, make, name, populating, volumes};

pub(crate) use replace::{
    a_clone_that_waits_is_removed_and_the_volume_stays,
    a_volume_is_replaced_by_a_clone_at_once_and_as_a_whole,
    a_volume_that_is_written_in_place_is_no_clone_any_more,
    only_this_program_s_volumes_are_replaced,
};

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
