//! The contract of every back end of volumes: one suite, which each of them passes.
//!
//! A back end gives a [`Place`] with what can be done there by hand, and runs [`each`] of the promises on
//! it. They use names of their own, so that one place will do for all. What a back end does beyond them
//! (LVM's tags, a directory's records) is in tests of its own.

use std::fmt::Debug;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use lvp_api::{JobId, Sha256Digest, VolumeName};
use provisioner::volume::{
    InUse, NoLibvirt, Volume, VolumeError, VolumeErrorKind, VolumeState, Volumes,
};

pub(crate) mod life;
pub(crate) mod refusals;
pub(crate) mod rollback;

pub(crate) const MIB: u64 = 1 << 20;

/// The size of what is made by hand, a multiple of every back end's unit.
pub(crate) const SIZE: u64 = 8 * MIB;

/// What is at the beginning and at the end of what is made by hand.
pub(crate) const BLOCK: [u8; 4096] = [0xaa; 4096];

/// A place with volumes, seen by other programs.
pub(crate) trait Place: Sync {
    /// The back end on it, which asks this whether a domain uses a volume.
    fn asking(&self, in_use: Arc<dyn InUse>) -> Box<dyn Volumes>;

    /// The back end on a place that does not exist, and the name of that place.
    fn missing(&self) -> (Box<dyn Volumes>, String);

    /// Where a volume's bytes are.
    fn path(&self, volume: &str) -> PathBuf;

    /// Makes a volume of [`SIZE`].
    fn make(&self, volume: &str);

    /// Puts another one of the same size in a volume's place.
    fn replace(&self, volume: &str);

    /// Creates another name for the bytes of `other`.
    fn make_alias(&self, volume: &str, other: &str);

    /// How a volume is marked: another text after every change of its marks.
    fn marks(&self, volume: &str) -> String;
}

/// Runs a macro with the path of every promise.
macro_rules! each {
    ($run:ident) => {
        $run! {
            life::a_volume_goes_from_created_to_ready_and_is_rewritten_by_the_next_job,
            life::creating_is_idempotent_for_its_job_and_refused_to_another,
            life::every_kind_of_name_works,
            life::the_list_has_everybodys_volumes_as_a_look_up_shows_them,
            life::a_volume_that_does_not_fit_is_refused_with_both_numbers,
            life::nothing_is_changed_before_it_is_open_and_volumes_reported_as_zero_are_zero,
            life::a_volume_that_a_job_did_not_write_keeps_its_marks,
            refusals::an_unmarked_volume_is_written_only_if_that_is_intended,
            refusals::a_handed_over_volume_keeps_its_bytes_and_may_be_written,
            refusals::a_volume_that_is_open_elsewhere_is_refused_unchanged,
            refusals::two_writers_exclude_each_other,
            refusals::a_replacement_of_a_volume_is_not_taken_for_it,
            refusals::a_second_name_for_a_volumes_bytes_is_refused,
            refusals::a_domains_disk_is_refused_by_the_domains_name,
            refusals::nothing_is_written_if_the_domains_cannot_be_listed,
            refusals::a_missing_place_is_down_and_not_empty,
            rollback::only_what_the_job_created_is_removed,
            rollback::a_volume_that_is_open_elsewhere_is_not_removed,
        }
    };
}

pub(crate) use each;

/// The back end on a place, for a host without domains.
pub(crate) fn volumes(place: &dyn Place) -> Box<dyn Volumes> {
    place.asking(Arc::new(NoLibvirt))
}

/// Makes a volume by hand whose first and last [`BLOCK`] can be known again.
pub(crate) fn make(place: &dyn Place, volume: &str) -> VolumeName {
    place.make(volume);
    let file = File::options()
        .write(true)
        .open(place.path(volume))
        .unwrap();
    for at in [0, SIZE - BLOCK.len() as u64] {
        file.write_all_at(&BLOCK, at).unwrap();
    }
    file.sync_all().unwrap();
    name(volume)
}

/// Whether a volume's blocks are those of [`make`] still.
pub(crate) fn is_as_made(path: &Path) -> bool {
    let file = File::open(path).unwrap();
    [0, SIZE - BLOCK.len() as u64].into_iter().all(|at| {
        let mut block = [0; BLOCK.len()];
        file.read_exact_at(&mut block, at).unwrap();
        block == BLOCK
    })
}

pub(crate) async fn look(volumes: &dyn Volumes, volume: &VolumeName) -> Volume {
    volumes.lookup(volume).await.unwrap().unwrap()
}

pub(crate) fn name(text: &str) -> VolumeName {
    text.parse().unwrap()
}

pub(crate) fn digest(byte: u8) -> Sha256Digest {
    Sha256Digest::new([byte; 32])
}

pub(crate) fn kind<T: Debug>(result: Result<T, VolumeError>) -> VolumeErrorKind {
    result.unwrap_err().kind()
}

pub(crate) fn populating(job: JobId, created: bool) -> VolumeState {
    VolumeState::Populating { job, created }
}

/// A host with one running domain.
#[derive(Debug, Default)]
pub(crate) struct OneDomain {
    pub(crate) disk: Mutex<PathBuf>,
}

#[async_trait]
impl InUse for OneDomain {
    async fn user_of(&self, paths: &[PathBuf]) -> Result<Option<String>, VolumeError> {
        let is_its_disk = paths.contains(&self.disk.lock().unwrap());
        Ok(is_its_disk.then(|| "domain web-01".to_owned()))
    }
}
