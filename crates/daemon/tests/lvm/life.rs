//! What works: a volume's way from nothing to ready and back.

use std::io::{Read, Seek, SeekFrom, Write};

use lvp_api::JobId;
use provisioner::volume::{Removed, Unmarked, VolumeErrorKind, VolumeState, Volumes};

use super::fixture::*;

pub(crate) async fn a_volume_goes_from_created_to_ready_and_is_rewritten_by_the_next_job() {
    let (lvm, vm) = (backend(), name("life-1"));
    let (first, second) = (JobId::random(), JobId::random());
    assert!(lvm.lookup(&vm).await.unwrap().is_none());
    let before = commits();
    let made = lvm.create(&vm, EXTENT + 1, first).await.unwrap();
    assert_eq!(made.size_bytes, 2 * EXTENT, "rounded up to whole extents");
    assert_eq!(made.path.to_str(), Some("/dev/vg0/life-1"));
    assert_eq!(made.state, populating(first, true));
    let created = format!("lvp,lvp.created={first},lvp.job={first},lvp.state=populating");
    assert_eq!(tags("life-1"), created);
    assert_eq!(commits(), before + 1, "never there without its tags");
    // For a volume that the job created this changes nothing.
    let made = lvm
        .mark_populating(&made, first, Unmarked::Refuse)
        .await
        .unwrap();
    assert_eq!(
        (made.state, commits()),
        (populating(first, true), before + 1)
    );

    let mut open = lvm.open(&made).await.unwrap();
    assert!(open.is_block_device && !open.known_zero);
    assert_eq!(open.size_bytes, 2 * EXTENT);
    assert_eq!(open.file.stream_position().unwrap(), 0);
    open.file.write_all(&[0x5a; 4096]).unwrap();
    open.file.sync_all().unwrap();
    drop(open);
    lvm.mark_ready(&made, first, &digest(1)).await.unwrap();
    lvm.mark_ready(&made, first, &digest(1)).await.unwrap();
    assert_eq!(commits(), before + 2, "one commit from populating to ready");
    let ready = look(&lvm, "life-1").await;
    let state = VolumeState::Ready {
        job: Some(first),
        digest: digest(1),
    };
    assert_eq!(ready.state, state);
    let image = digest(1);
    assert_eq!(
        tags("life-1"),
        format!("lvp,lvp.image={image},lvp.job={first},lvp.state=ready")
    );

    let again = lvm
        .mark_populating(&ready, second, Unmarked::Refuse)
        .await
        .unwrap();
    assert_eq!(again.state, populating(second, false));
    assert_eq!(commits(), before + 3, "one commit from ready to populating");
    assert_eq!(
        tags("life-1"),
        format!("lvp,lvp.job={second},lvp.state=populating")
    );
    // Another job's word counts for nothing.
    let foreign = lvm.mark_ready(&again, first, &digest(2)).await;
    assert_eq!(kind(foreign), VolumeErrorKind::Internal);
    assert_eq!(kind(lvm.open(&ready).await), VolumeErrorKind::Internal);
    let mut open = lvm.open(&again).await.unwrap();
    let mut bytes = [0; 4096];
    open.file.seek(SeekFrom::Start(0)).unwrap();
    open.file.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, [0x5a; 4096], "the same volume");
}

pub(crate) async fn creating_is_idempotent_for_its_job_and_refused_to_another() {
    let (lvm, vm, job) = (backend(), name("idem"), JobId::random());
    let first = lvm.create(&vm, EXTENT, job).await.unwrap();
    let before = commits();
    let second = lvm.create(&vm, EXTENT - 1, job).await.unwrap();
    assert_eq!((first.path, commits()), (second.path, before));
    for (size, by) in [(EXTENT, JobId::random()), (3 * EXTENT, job)] {
        let refused = lvm.create(&vm, size, by).await;
        assert_eq!(kind(refused), VolumeErrorKind::AlreadyExists);
    }
    assert_eq!(commits(), before);
}

pub(crate) async fn the_list_has_everybody_s_volumes_and_no_insides() {
    let lvm = backend();
    foreign("list-plain", "");
    foreign("list-origin", "");
    tool("lvcreate --yes --snapshot --name list-snap --size 4M vg0/list-origin");
    tool("lvcreate --yes --type thin-pool --name list-pool --size 8M vg0");
    let listed = lvm.list().await.unwrap();
    let names: Vec<_> = listed.iter().map(|volume| volume.name.as_str()).collect();
    assert!(names.is_sorted(), "{names:?}");
    let of_ours = names.into_iter().filter(|name| name.starts_with("list-"));
    assert_eq!(
        of_ours.collect::<Vec<_>>(),
        ["list-origin", "list-plain", "list-snap"]
    );
    tool("lvremove --yes --force vg0/list-origin vg0/list-pool");
}

pub(crate) async fn a_volume_that_does_not_fit_is_refused_with_both_numbers() {
    let (lvm, vm) = (backend(), name("huge"));
    let capacity = lvm.probe().await.unwrap();
    assert_eq!(capacity.unit_bytes, EXTENT);
    let one_more = capacity.free_bytes + 1;
    let kind_of = kind(lvm.create(&vm, one_more, JobId::random()).await);
    let no_space = VolumeErrorKind::NoSpace {
        free_bytes: capacity.free_bytes,
        want_bytes: capacity.free_bytes + EXTENT,
    };
    assert_eq!(kind_of, no_space);
    let huge = lvm.create(&vm, u64::MAX, JobId::random()).await;
    assert!(matches!(kind(huge), VolumeErrorKind::NoSpace { .. }));
    assert!(lvm.lookup(&vm).await.unwrap().is_none());
    // The very last extent can be had.
    let job = JobId::random();
    let all = lvm.create(&vm, capacity.free_bytes, job).await.unwrap();
    assert_eq!(all.size_bytes, capacity.free_bytes);
    assert_eq!(lvm.probe().await.unwrap().free_bytes, 0);
    let nothing_left = lvm.create(&name("one"), 1, JobId::random()).await;
    assert!(matches!(
        kind(nothing_left),
        VolumeErrorKind::NoSpace { free_bytes: 0, .. }
    ));
    assert_eq!(
        lvm.remove_created(&vm, job).await.unwrap(),
        Removed::Removed
    );
}

pub(crate) async fn rollback_removes_only_what_the_job_created() {
    let lvm = backend();
    let (maker, other) = (JobId::random(), JobId::random());
    foreign("found", "");
    let found = look(&lvm, "found").await;
    assert_eq!(found.state, VolumeState::Untagged);
    let found = lvm
        .mark_populating(&found, maker, Unmarked::Adopt)
        .await
        .unwrap();
    assert_eq!(found.state, populating(maker, false));

    let unfinished = lvm
        .create(&name("unfinished"), EXTENT, maker)
        .await
        .unwrap();
    lvm.mark_populating(&unfinished, other, Unmarked::Refuse)
        .await
        .unwrap();

    let ready = lvm.create(&name("ready"), EXTENT, maker).await.unwrap();
    lvm.mark_ready(&ready, maker, &digest(1)).await.unwrap();

    for volume in ["found", "unfinished", "ready"] {
        for job in [maker, other] {
            let removed = lvm.remove_created(&name(volume), job).await.unwrap();
            assert_eq!(removed, Removed::Kept, "{volume}");
        }
        look(&lvm, volume).await;
    }
    let mine = name("mine");
    lvm.create(&mine, EXTENT, maker).await.unwrap();
    assert_eq!(
        lvm.remove_created(&mine, other).await.unwrap(),
        Removed::Kept
    );
    assert_eq!(
        lvm.remove_created(&mine, maker).await.unwrap(),
        Removed::Removed
    );
    assert_eq!(
        lvm.remove_created(&mine, maker).await.unwrap(),
        Removed::Absent
    );
}

pub(crate) async fn an_inactive_volume_is_activated() {
    let (lvm, job) = (backend(), JobId::random());
    let volume = lvm.create(&name("asleep"), EXTENT, job).await.unwrap();
    tool("lvchange --activate n vg0/asleep");
    let volume = lvm
        .mark_populating(&volume, job, Unmarked::Refuse)
        .await
        .unwrap();
    tool("lvchange --activate n vg0/asleep");
    let open = lvm.open(&volume).await.unwrap();
    assert_eq!(open.size_bytes, EXTENT);
    drop(open);
    tool("lvchange --activate n vg0/asleep");
    assert_eq!(
        lvm.remove_created(&name("asleep"), job).await.unwrap(),
        Removed::Removed
    );
}
