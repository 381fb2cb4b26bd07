//! What a job may remove.

use std::fs::File;

use lvp_api::JobId;
use provisioner::volume::{Removed, Unmarked, VolumeErrorKind};

use super::{Place, SIZE, digest, is_as_made, kind, look, make, name, populating, volumes};

pub(crate) async fn only_what_the_job_created_is_removed(place: &dyn Place) {
    let volumes = volumes(place);
    let (maker, other) = (JobId::random(), JobId::random());
    let found = make(place, "suite-found");
    let plain = make(place, "suite-untouched");
    let volume = look(&*volumes, &found).await;
    volumes
        .mark_populating(&volume, maker, Unmarked::Adopt)
        .await
        .unwrap();

    // A second job that takes over an unfinished volume did not create it.
    let unfinished = name("suite-unfinished");
    let volume = volumes.create(&unfinished, SIZE, maker).await.unwrap();
    volumes
        .mark_populating(&volume, other, Unmarked::Refuse)
        .await
        .unwrap();

    let ready = name("suite-ready");
    let volume = volumes.create(&ready, SIZE, maker).await.unwrap();
    volumes
        .mark_ready(&volume, maker, &digest(1).into())
        .await
        .unwrap();

    let replaced = name("suite-replaced");
    volumes.create(&replaced, SIZE, maker).await.unwrap();
    place.replace("suite-replaced");

    for vm in [&found, &plain, &unfinished, &ready, &replaced] {
        for job in [maker, other] {
            let removed = volumes.remove_created(vm, job).await.unwrap();
            assert_eq!(removed, Removed::Kept, "{vm}");
        }
        look(&*volumes, vm).await;
    }
    assert!(is_as_made(&place.path("suite-found")));

    let mine = name("suite-mine");
    volumes.create(&mine, SIZE, maker).await.unwrap();
    let by_other = volumes.remove_created(&mine, other).await.unwrap();
    assert_eq!(by_other, Removed::Kept);
    let by_maker = volumes.remove_created(&mine, maker).await.unwrap();
    assert_eq!(by_maker, Removed::Removed);
    assert!(volumes.lookup(&mine).await.unwrap().is_none());
    assert!(!place.path("suite-mine").exists());
    let again = volumes.remove_created(&mine, maker).await.unwrap();
    assert_eq!(again, Removed::Absent);
}

pub(crate) async fn a_volume_that_is_open_elsewhere_is_not_removed(place: &dyn Place) {
    let (volumes, vm, job) = (volumes(place), name("suite-held"), JobId::random());
    let volume = volumes.create(&vm, SIZE, job).await.unwrap();
    let holder = File::open(&volume.path).unwrap();
    let removed = volumes.remove_created(&vm, job).await;
    assert_eq!(kind(removed), VolumeErrorKind::InUse);
    assert_eq!(look(&*volumes, &vm).await.state, populating(job, true));
    drop(holder);
    let removed = volumes.remove_created(&vm, job).await.unwrap();
    assert_eq!(removed, Removed::Removed);
}
