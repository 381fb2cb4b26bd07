//! The life of a volume, from its creation to ready and back.

use std::io::{Seek as _, Write as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};

use lvp_api::JobId;
use provisioner::volume::{Removed, Unmarked, VolumeErrorKind, VolumeState};

use super::{
    BLOCK, MIB, Place, SIZE, digest, is_as_made, kind, look, make, name, populating, volumes,
};

pub(crate) async fn a_volume_goes_from_created_to_ready_and_is_rewritten_by_the_next_job(
    place: &dyn Place,
) {
    const WRITTEN: [u8; 4096] = [0x5a; 4096];
    let (volumes, vm) = (volumes(place), name("suite-life"));
    let (first, second) = (JobId::random(), JobId::random());
    assert!(volumes.lookup(&vm).await.unwrap().is_none());
    let unit_bytes = volumes.probe().await.unwrap().unit_bytes;
    let size_bytes = (SIZE + 1).next_multiple_of(unit_bytes);
    let made = volumes.create(&vm, SIZE + 1, first).await.unwrap();
    assert_eq!(made.size_bytes, size_bytes, "rounded up to whole units");
    assert_eq!((&made.name, &made.path), (&vm, &place.path("suite-life")));
    assert_eq!(made.state, populating(first, true));
    // For a volume that the job created, this changes nothing.
    let before = place.marks("suite-life");
    let made = volumes
        .mark_populating(&made, first, Unmarked::Refuse)
        .await
        .unwrap();
    assert_eq!(made.state, populating(first, true));
    assert_eq!(place.marks("suite-life"), before);

    let mut open = volumes.open(&made).await.unwrap();
    assert_eq!((&open.path, open.size_bytes), (&made.path, size_bytes));
    let kind_of_file = open.file.metadata().unwrap().file_type();
    assert_eq!(open.is_block_device, kind_of_file.is_block_device());
    assert_eq!(open.file.stream_position().unwrap(), 0);
    open.file.write_all(&WRITTEN).unwrap();
    open.file.sync_all().unwrap();
    drop(open);
    volumes
        .mark_ready(&made, first, &digest(1).into())
        .await
        .unwrap();
    // It can be read, unless somebody has it open.
    let file = volumes.open_to_read(&made).await.unwrap();
    let mut bytes = [1; 4096];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, WRITTEN);
    let refused = volumes.open_to_read(&made).await;
    assert_eq!(kind(refused.map(drop)), VolumeErrorKind::InUse);
    drop(file);
    let once = place.marks("suite-life");
    volumes
        .mark_ready(&made, first, &digest(1).into())
        .await
        .unwrap();
    assert_eq!(place.marks("suite-life"), once);
    let ready = look(&*volumes, &vm).await;
    let state = VolumeState::Ready {
        job: Some(first),
        digest: digest(1),
    };
    assert_eq!((ready.state, ready.last_ended), (state, None));

    let again = volumes
        .mark_populating(&ready, second, Unmarked::Refuse)
        .await
        .unwrap();
    assert_eq!(again.state, populating(second, false));
    assert_eq!(look(&*volumes, &vm).await.state, again.state);
    // Another job's request has no effect, nor has an earlier look-up.
    let foreign = volumes.mark_ready(&again, first, &digest(2).into()).await;
    assert_eq!(kind(foreign), VolumeErrorKind::Internal);
    assert_eq!(kind(volumes.open(&ready).await), VolumeErrorKind::Internal);
    let open = volumes.open(&again).await.unwrap();
    let mut bytes = [1; 4096];
    open.file.read_exact_at(&mut bytes, 0).unwrap();
    let expected = if open.known_zero { [0; 4096] } else { WRITTEN };
    assert_eq!(bytes, expected, "the same volume");
}

pub(crate) async fn creating_is_idempotent_for_its_job_and_refused_to_another(place: &dyn Place) {
    let (volumes, vm, job) = (volumes(place), name("suite-idem"), JobId::random());
    let first = volumes.create(&vm, SIZE, job).await.unwrap();
    let before = place.marks("suite-idem");
    let second = volumes.create(&vm, SIZE - 1, job).await.unwrap();
    assert_eq!(
        (first.path, first.size_bytes),
        (second.path, second.size_bytes)
    );
    for (size_bytes, by) in [(SIZE, JobId::random()), (3 * SIZE, job)] {
        let refused = volumes.create(&vm, size_bytes, by).await;
        assert_eq!(kind(refused), VolumeErrorKind::AlreadyExists);
    }
    assert_eq!(place.marks("suite-idem"), before);
    make(place, "suite-idem-plain");
    let refused = volumes.create(&name("suite-idem-plain"), SIZE, job).await;
    assert_eq!(kind(refused), VolumeErrorKind::AlreadyExists);
    assert!(is_as_made(&place.path("suite-idem-plain")));
}

pub(crate) async fn every_kind_of_name_works(place: &dyn Place) {
    let (volumes, job) = (volumes(place), JobId::random());
    let long = "x".repeat(100);
    // The last two are what some back end could put beside a volume of the first one's name.
    for text in ["s", "+su_it.e-n--ame", &long, "s.json", "s-real"] {
        let vm = name(text);
        let made = volumes.create(&vm, MIB, job).await.unwrap();
        let found = look(&*volumes, &vm).await;
        assert_eq!((&found.name, &found.path), (&vm, &made.path));
        drop(volumes.open(&found).await.unwrap());
    }
    for text in ["s", "+su_it.e-n--ame", &long, "s.json", "s-real"] {
        let removed = volumes.remove_created(&name(text), job).await.unwrap();
        assert_eq!(removed, Removed::Removed, "{text}");
    }
}

pub(crate) async fn the_list_has_everybodys_volumes_as_a_look_up_shows_them(place: &dyn Place) {
    let (volumes, job) = (volumes(place), JobId::random());
    let ours = name("suite-list-c");
    volumes.create(&ours, SIZE, job).await.unwrap();
    make(place, "suite-list-b");
    make(place, "suite-list-a");
    volumes.adopt(&name("suite-list-a")).await.unwrap();
    let listed = volumes.list().await.unwrap();
    let names: Vec<_> = listed.iter().map(|volume| volume.name.as_str()).collect();
    assert!(names.is_sorted(), "{names:?}");
    let of_here: Vec<_> = listed
        .iter()
        .filter(|volume| volume.name.as_str().starts_with("suite-list-"))
        .collect();
    let states: Vec<_> = of_here.iter().map(|volume| volume.state).collect();
    assert_eq!(
        states,
        [
            VolumeState::Adopted,
            VolumeState::Untagged,
            populating(job, true)
        ]
    );
    for volume in of_here {
        let found = look(&*volumes, &volume.name).await;
        assert_eq!(
            (&found.path, found.size_bytes, found.state),
            (&volume.path, SIZE, volume.state)
        );
    }
}

pub(crate) async fn a_volume_that_does_not_fit_is_refused_with_both_numbers(place: &dyn Place) {
    // Others may use the place as well, but not that much of it meanwhile.
    const SLACK: u64 = 1 << 30;
    let (volumes, vm) = (volumes(place), name("suite-huge"));
    let capacity = volumes.probe().await.unwrap();
    assert!(capacity.free_bytes <= capacity.total_bytes);
    assert!(capacity.unit_bytes.is_power_of_two());
    let want = 1 << 60;
    let error = volumes
        .create(&vm, want, JobId::random())
        .await
        .unwrap_err();
    let VolumeErrorKind::NoSpace {
        free_bytes,
        want_bytes,
    } = error.kind()
    else {
        panic!("{error:?}");
    };
    assert_eq!(want_bytes, want);
    assert!(
        free_bytes.abs_diff(capacity.free_bytes) < SLACK,
        "{free_bytes}"
    );
    for number in [free_bytes, want_bytes] {
        assert!(error.to_string().contains(&number.to_string()), "{error}");
    }
    let huge = volumes.create(&vm, u64::MAX, JobId::random()).await;
    assert!(matches!(kind(huge), VolumeErrorKind::NoSpace { .. }));
    assert!(volumes.lookup(&vm).await.unwrap().is_none());
}

pub(crate) async fn nothing_is_changed_before_it_is_open_and_volumes_reported_as_zero_are_zero(
    place: &dyn Place,
) {
    let volumes = volumes(place);
    let vm = make(place, "suite-zero");
    let found = look(&*volumes, &vm).await;
    // Nobody has said that it will be written.
    let opened = kind(volumes.open(&found).await);
    assert!(
        matches!(opened, VolumeErrorKind::Internal | VolumeErrorKind::NotOurs),
        "{opened:?}"
    );
    let marked = volumes
        .mark_populating(&found, JobId::random(), Unmarked::Adopt)
        .await
        .unwrap();
    assert!(is_as_made(&marked.path));
    let open = volumes.open(&marked).await.unwrap();
    assert_eq!(open.size_bytes, SIZE);
    let mut bytes = vec![1; usize::try_from(SIZE).unwrap()];
    open.file.read_exact_at(&mut bytes, 0).unwrap();
    if open.known_zero {
        assert!(bytes.iter().all(|byte| *byte == 0));
    } else {
        assert_eq!(bytes[..BLOCK.len()], BLOCK);
    }
}

pub(crate) async fn a_volume_that_a_job_did_not_write_keeps_its_marks(place: &dyn Place) {
    let (volumes, vm) = (volumes(place), name("suite-left"));
    let (first, second, third) = (JobId::random(), JobId::random(), JobId::random());
    let made = volumes.create(&vm, SIZE, first).await.unwrap();
    volumes
        .mark_ready(&made, first, &digest(1).into())
        .await
        .unwrap();
    let before = look(&*volumes, &vm).await;
    volumes
        .mark_populating(&before, second, Unmarked::Refuse)
        .await
        .unwrap();
    volumes.leave(&before, second).await.unwrap();
    let left = look(&*volumes, &vm).await;
    assert_eq!((left.state, left.last_ended), (before.state, Some(second)));
    // A job that did not get as far as marking it.
    volumes.leave(&left, third).await.unwrap();
    let left = look(&*volumes, &vm).await;
    assert_eq!((left.state, left.last_ended), (before.state, Some(third)));
    // What another job has marked since is that job's.
    volumes
        .mark_populating(&left, first, Unmarked::Refuse)
        .await
        .unwrap();
    volumes.leave(&left, second).await.unwrap();
    assert_eq!(look(&*volumes, &vm).await.state, populating(first, false));

    for adopted in [false, true] {
        let text = format!("suite-left-{adopted}");
        let plain = make(place, &text);
        if adopted {
            volumes.adopt(&plain).await.unwrap();
        }
        let found = look(&*volumes, &plain).await;
        volumes
            .mark_populating(&found, first, Unmarked::Adopt)
            .await
            .unwrap();
        volumes.leave(&found, first).await.unwrap();
        let left = look(&*volumes, &plain).await;
        assert_eq!((left.state, left.last_ended), (found.state, None));
        let allowed = volumes.check_writable(&left, Unmarked::Refuse).await;
        assert_eq!(allowed.is_ok(), adopted);
        assert!(is_as_made(&left.path));
    }
}
