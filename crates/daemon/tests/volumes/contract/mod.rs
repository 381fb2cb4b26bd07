//! What every back end of volumes promises: one suite, which each of them passes.
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

/// A place with volumes, as those have it who are not this program.
pub(crate) trait Place: Sync {
    /// The back end on it, which asks this whether a domain uses a volume.
    fn asking(&self, in_use: Arc<dyn InUse>) -> Box<dyn Volumes>;

    /// The back end on a place that is not there, and the name of that place.
    fn missing(&self) -> (Box<dyn Volumes>, String);

    /// Where a volume's bytes are.
    fn path(&self, volume: &str) -> PathBuf;

    /// Makes a volume of [`SIZE`].
    fn make(&self, volume: &str);

    /// Puts another one of the same size in a volume's place.
    fn replace(&self, volume: &str);

    /// Makes something under this name whose bytes are those of `other`.
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
            life::every_kind_of_name_will_do,
            life::the_list_has_everybody_s_volumes_as_they_are_looked_up,
            life::a_volume_that_does_not_fit_is_refused_with_both_numbers,
            life::nothing_is_changed_before_it_is_open_and_what_is_said_to_be_zero_is,
            life::what_a_job_leaves_unwritten_says_what_it_said_before,
            refusals::what_nobody_marked_is_written_only_when_that_is_meant,
            refusals::what_is_handed_over_keeps_its_bytes_and_may_be_written,
            refusals::what_is_open_elsewhere_is_refused_untouched,
            refusals::two_writers_exclude_each_other,
            refusals::what_was_put_in_a_volume_s_place_is_not_taken_for_it,
            refusals::another_s_bytes_under_a_name_of_their_own_are_refused,
            refusals::a_domain_s_disk_is_refused_by_the_domain_s_name,
            refusals::nothing_is_touched_when_the_domains_cannot_be_asked,
            refusals::a_place_that_is_not_there_is_down_and_not_empty,
            rollback::only_what_the_job_created_is_removed,
            rollback::what_is_open_elsewhere_stays,
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
