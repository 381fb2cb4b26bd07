//! The life of a volume, from its creation to ready and back.

use lvp_api::JobId;
use provisioner::volume::{Removed, Unmarked, VolumeErrorKind, Volumes};

use super::fixture::*;

pub(crate) async fn each_change_of_state_is_one_commit() {
    let (lvm, vm) = (backend(), name("life-1"));
    let (first, second) = (JobId::random(), JobId::random());
    let before = commits();
    let made = lvm.create(&vm, EXTENT, first).await.unwrap();
    assert_eq!(made.path.to_str(), Some("/dev/vg0/life-1"));
    let created = format!("lvp,lvp.created={first},lvp.job={first},lvp.state=populating");
    assert_eq!(tags("life-1"), created);
    assert_eq!(commits(), before + 1, "never there without its tags");

    lvm.mark_ready(&made, first, &digest(1).into())
        .await
        .unwrap();
    assert_eq!(commits(), before + 2, "one commit from populating to ready");
    let image = digest(1);
    assert_eq!(
        tags("life-1"),
        format!("lvp,lvp.image={image},lvp.job={first},lvp.state=ready")
    );

    let ready = look(&lvm, &vm).await;
    let again = lvm
        .mark_populating(&ready, second, Unmarked::Refuse)
        .await
        .unwrap();
    assert_eq!(commits(), before + 3, "one commit from ready to populating");
    assert_eq!(
        tags("life-1"),
        format!("lvp,lvp.job={second},lvp.state=populating")
    );
    // Its extents hold what their last owner wrote.
    let open = lvm.open(&again).await.unwrap();
    assert!(open.is_block_device && !open.known_zero);
}

pub(crate) async fn the_list_has_no_internal_volumes() {
    let lvm = backend();
    foreign("list-plain", "");
    foreign("list-origin", "");
    tool("lvcreate --yes --snapshot --name list-snap --size 4M vg0/list-origin");
    tool("lvcreate --yes --type thin-pool --name list-pool --size 8M vg0");
    let listed = lvm.list().await.unwrap();
    let names: Vec<_> = listed.iter().map(|volume| volume.name.as_str()).collect();
    let of_ours = names.into_iter().filter(|name| name.starts_with("list-"));
    assert_eq!(
        of_ours.collect::<Vec<_>>(),
        ["list-origin", "list-plain", "list-snap"]
    );
    tool("lvremove --yes --force vg0/list-origin vg0/list-pool");
}

pub(crate) async fn the_very_last_extent_can_be_used() {
    let (lvm, vm) = (backend(), name("huge"));
    let capacity = lvm.probe().await.unwrap();
    assert_eq!(capacity.unit_bytes, EXTENT);
    // Not even a byte more.
    let one_more = capacity.free_bytes + 1;
    let kind_of = kind(lvm.create(&vm, one_more, JobId::random()).await);
    let no_space = VolumeErrorKind::NoSpace {
        free_bytes: capacity.free_bytes,
        want_bytes: capacity.free_bytes + EXTENT,
    };
    assert_eq!(kind_of, no_space);
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
