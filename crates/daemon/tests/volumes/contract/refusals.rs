//! Volumes that are not written and do not change.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use lvp_api::JobId;
use provisioner::volume::{
    InUse, Unmarked, Volume, VolumeError, VolumeErrorKind, VolumeState, Volumes,
};

use super::{
    OneDomain, Place, SIZE, digest, is_as_made, kind, look, make, name, populating, volumes,
};

/// Asks to write a volume, and checks that it is refused, marked as before.
async fn check_refused(
    (place, volumes): (&dyn Place, &dyn Volumes),
    volume: &Volume,
    unmarked: Unmarked,
    expected: VolumeErrorKind,
) -> String {
    let text = volume.name.as_str();
    let before = place.marks(text);
    let marked = volumes.mark_populating(volume, JobId::random(), unmarked);
    let error = marked.await.expect_err(text);
    assert_eq!(error.kind(), expected, "{text}: {error}");
    assert_eq!(place.marks(text), before, "{text} was changed");
    error.to_string()
}

pub(crate) async fn an_unmarked_volume_is_written_only_if_that_is_intended(place: &dyn Place) {
    let volumes = volumes(place);
    let vm = make(place, "suite-plain");
    let found = look(&*volumes, &vm).await;
    assert_eq!(found.state, VolumeState::Untagged);
    let not_ours = VolumeErrorKind::NotOurs;
    let here = (place, &*volumes);
    let text = check_refused(here, &found, Unmarked::Refuse, not_ours).await;
    assert!(text.contains("lvpctl volumes adopt suite-plain"), "{text}");
    let refused = volumes.check_writable(&found, Unmarked::Refuse).await;
    assert_eq!(kind(refused), not_ours);
    assert!(is_as_made(&found.path));

    volumes
        .check_writable(&found, Unmarked::Adopt)
        .await
        .unwrap();
    let job = JobId::random();
    let marked = volumes.mark_populating(&found, job, Unmarked::Adopt).await;
    assert_eq!(marked.unwrap().state, populating(job, false));
    // Ours from now on.
    let found = look(&*volumes, &vm).await;
    let next = JobId::random();
    let marked = volumes.mark_populating(&found, next, Unmarked::Refuse);
    assert_eq!(marked.await.unwrap().state, populating(next, false));
}

pub(crate) async fn a_handed_over_volume_keeps_its_bytes_and_may_be_written(place: &dyn Place) {
    let volumes = volumes(place);
    let vm = make(place, "suite-given");
    // Also while a virtual machine has it open.
    let guest = File::open(place.path("suite-given")).unwrap();
    let given = volumes.adopt(&vm).await.unwrap();
    assert_eq!(given.state, VolumeState::Adopted);
    let marks = place.marks("suite-given");
    let again = volumes.adopt(&vm).await.unwrap();
    assert_eq!(again.state, VolumeState::Adopted);
    assert_eq!(look(&*volumes, &vm).await.state, VolumeState::Adopted);
    assert_eq!(place.marks("suite-given"), marks);
    drop(guest);
    assert!(is_as_made(&given.path));

    let job = JobId::random();
    let marked = volumes.mark_populating(&given, job, Unmarked::Refuse).await;
    assert_eq!(marked.unwrap().state, populating(job, false));
    // That changes nothing of one that is ours.
    assert_eq!(
        volumes.adopt(&vm).await.unwrap().state,
        populating(job, false)
    );
    let absent = volumes.adopt(&name("suite-absent")).await;
    assert_eq!(kind(absent), VolumeErrorKind::Absent);
}

pub(crate) async fn a_volume_that_is_open_elsewhere_is_refused_unchanged(place: &dyn Place) {
    let volumes = volumes(place);
    let vm = make(place, "suite-opened");
    let found = look(&*volumes, &vm).await;
    let here = (place, &*volumes);
    for options in [File::options().read(true), File::options().write(true)] {
        let holder = options.open(&found.path).unwrap();
        check_refused(here, &found, Unmarked::Adopt, VolumeErrorKind::InUse).await;
        drop(holder);
    }
    assert!(is_as_made(&found.path));
    let marked = volumes
        .mark_populating(&found, JobId::random(), Unmarked::Adopt)
        .await
        .unwrap();
    let holder = File::open(&found.path).unwrap();
    assert_eq!(kind(volumes.open(&marked).await), VolumeErrorKind::InUse);
    drop(holder);
    volumes.open(&marked).await.unwrap();
}

pub(crate) async fn two_writers_exclude_each_other(place: &dyn Place) {
    let (volumes, job) = (volumes(place), JobId::random());
    let volume = volumes.create(&name("suite-two"), SIZE, job).await.unwrap();
    let held = volumes.open(&volume).await.unwrap();
    assert_eq!(kind(volumes.open(&volume).await), VolumeErrorKind::InUse);
    drop(held);
    volumes.open(&volume).await.unwrap();
}

pub(crate) async fn a_replacement_of_a_volume_is_not_taken_for_it(place: &dyn Place) {
    let (volumes, vm, job) = (volumes(place), name("suite-twin"), JobId::random());
    let first = volumes.create(&vm, SIZE, job).await.unwrap();
    place.replace("suite-twin");
    let not_found = VolumeErrorKind::NotFound;
    let here = (place, &*volumes);
    check_refused(here, &first, Unmarked::Adopt, not_found).await;
    assert_eq!(kind(volumes.open(&first).await), not_found);
    let ready = volumes.mark_ready(&first, job, &digest(1).into()).await;
    assert_eq!(kind(ready), not_found);
    assert_eq!(kind(volumes.leave(&first, job).await), not_found);
    assert_eq!(look(&*volumes, &vm).await.state, VolumeState::Untagged);
}

pub(crate) async fn a_second_name_for_a_volumes_bytes_is_refused(place: &dyn Place) {
    let volumes = volumes(place);
    make(place, "suite-origin");
    place.make_alias("suite-alias", "suite-origin");
    let alias = name("suite-alias");
    // Some are found and refused, others are not even that.
    let refused = match volumes.lookup(&alias).await {
        Ok(found) => {
            let found = found.unwrap();
            let marked = volumes.mark_populating(&found, JobId::random(), Unmarked::Adopt);
            kind(marked.await)
        }
        Err(error) => error.kind(),
    };
    assert_eq!(refused, VolumeErrorKind::NotOurs);
    let adopted = volumes.adopt(&alias).await;
    assert_eq!(kind(adopted), VolumeErrorKind::NotOurs);
    let made = kind(volumes.create(&alias, SIZE, JobId::random()).await);
    assert!(
        matches!(
            made,
            VolumeErrorKind::NotOurs | VolumeErrorKind::AlreadyExists
        ),
        "{made:?}"
    );
    assert!(is_as_made(&place.path("suite-origin")));
}

pub(crate) async fn a_domains_disk_is_refused_by_the_domains_name(place: &dyn Place) {
    let domain = Arc::new(OneDomain::default());
    let volumes = place.asking(Arc::clone(&domain) as Arc<dyn InUse>);
    let vm = make(place, "suite-web");
    let found = look(&*volumes, &vm).await;
    *domain.disk.lock().unwrap() = found.path.clone();
    let here = (place, &*volumes);
    let in_use = VolumeErrorKind::InUse;
    let text = check_refused(here, &found, Unmarked::Adopt, in_use).await;
    assert!(text.contains("domain web-01"), "{text}");

    *domain.disk.lock().unwrap() = PathBuf::new();
    let marked = volumes
        .mark_populating(&found, JobId::random(), Unmarked::Adopt)
        .await
        .unwrap();
    *domain.disk.lock().unwrap() = marked.path.clone();
    let error = volumes.open(&marked).await.unwrap_err();
    assert_eq!(error.kind(), in_use);
    assert!(error.to_string().contains("domain web-01"), "{error}");
    assert!(is_as_made(&found.path));
}

/// A host whose libvirtd does not answer.
#[derive(Debug)]
struct Silent;

#[async_trait]
impl InUse for Silent {
    async fn user_of(&self, _paths: &[PathBuf]) -> Result<Option<String>, VolumeError> {
        let kind = VolumeErrorKind::DependencyDown;
        Err(VolumeError::new(kind, "libvirtd does not answer"))
    }
}

pub(crate) async fn nothing_is_written_if_the_domains_cannot_be_listed(place: &dyn Place) {
    let (silent, volumes) = (place.asking(Arc::new(Silent)), volumes(place));
    let vm = make(place, "suite-silent");
    let found = look(&*silent, &vm).await;
    let down = VolumeErrorKind::DependencyDown;
    check_refused((place, &*silent), &found, Unmarked::Adopt, down).await;
    let marked = volumes
        .mark_populating(&found, JobId::random(), Unmarked::Adopt)
        .await
        .unwrap();
    assert_eq!(kind(silent.open(&marked).await), down);
    assert!(is_as_made(&found.path));
}

pub(crate) async fn a_missing_place_is_down_and_not_empty(place: &dyn Place) {
    let (nowhere, called) = place.missing();
    let down = VolumeErrorKind::DependencyDown;
    let error = nowhere.probe().await.unwrap_err();
    assert_eq!(error.kind(), down);
    assert!(
        error.is_transient() && error.to_string().contains(&called),
        "{error}"
    );
    let (vm, job) = (name("suite-nowhere"), JobId::random());
    assert_eq!(kind(nowhere.lookup(&vm).await), down);
    assert_eq!(kind(nowhere.list().await), down);
    assert_eq!(kind(nowhere.create(&vm, SIZE, job).await), down);
    assert_eq!(kind(nowhere.adopt(&vm).await), down);
    assert_eq!(kind(nowhere.remove_created(&vm, job).await), down);
}
