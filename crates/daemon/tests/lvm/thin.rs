//! Volumes in a thin pool.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use lvp_api::{JobId, VolumeKind};
use provisioner::volume::{Unmarked, VolumeErrorKind, Volumes};

use super::fixture::*;

pub(crate) async fn a_new_volume_is_thin_in_one_step_and_an_old_one_stays_linear() {
    let (thin, linear) = (thin_backend(), backend());
    let (first, second) = (JobId::random(), JobId::random());
    let old = linear
        .create(&name("mixed-old"), EXTENT, first)
        .await
        .unwrap();
    linear
        .mark_ready(&old, first, &digest(1).into())
        .await
        .unwrap();

    let before = commits();
    let capacity = thin.probe().await.unwrap();
    let vm = name("mixed-new");
    let new = thin.create(&vm, 3 * EXTENT - 1, second).await.unwrap();
    // The pool's message is another commit, in which the volume is what it was.
    assert_eq!(commits(), before + 2);
    assert_eq!(new.kind, Some(VolumeKind::Thin));
    assert_eq!(new.size_bytes, 3 * EXTENT);
    let created = format!("lvp,lvp.created={second},lvp.job={second},lvp.state=populating");
    assert_eq!(tags("mixed-new"), created);
    assert_eq!(field("mixed-new", "pool_lv"), "pool0");
    // It takes nothing before it is written.
    assert!(capacity.is_sparse);
    assert_eq!(thin.probe().await.unwrap(), capacity);
    let open = thin.open(&new).await.unwrap();
    assert!(open.known_zero && open.is_block_device);
    drop(open);
    thin.mark_ready(&new, second, &digest(1).into())
        .await
        .unwrap();

    // The linear one is rewritten as what it is.
    let old = look(&thin, &name("mixed-old")).await;
    assert_eq!(old.kind, Some(VolumeKind::Linear));
    let marked = thin.mark_populating(&old, second, Unmarked::Refuse);
    let open = thin.open(&marked.await.unwrap()).await.unwrap();
    assert!(!open.known_zero);
    drop(open);
    assert_eq!(field("mixed-old", "lv_layout"), "linear");
    // And the other way round: without the pool, its volumes are not written.
    let new = look(&linear, &name("mixed-new")).await;
    let refused = linear.mark_populating(&new, first, Unmarked::Refuse).await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), VolumeErrorKind::NotOurs);
    assert!(
        error.to_string().contains("set lvm.thin_pool to pool0"),
        "{error}"
    );
}

pub(crate) async fn a_volume_that_was_written_is_empty_again_when_it_is_opened() {
    let (lvm, job, next) = (thin_backend(), JobId::random(), JobId::random());
    let volume = lvm.create(&name("emptied"), 2 * EXTENT, job).await.unwrap();
    let open = lvm.open(&volume).await.unwrap();
    // Not whole blocks of the pool, and the volume's last one.
    open.file.write_all_at(&[7; 4096], 100_000).unwrap();
    open.file
        .write_all_at(&[7; 4096], 2 * EXTENT - 4096)
        .unwrap();
    open.file.sync_all().unwrap();
    drop(open);
    lvm.mark_ready(&volume, job, &digest(1).into())
        .await
        .unwrap();
    assert_ne!(field("emptied", "data_percent"), "0.00");
    let ready = look(&lvm, &name("emptied")).await;
    let marked = lvm.mark_populating(&ready, next, Unmarked::Refuse).await;
    let marked = marked.unwrap();
    let open = lvm.open(&marked).await.unwrap();
    assert!(open.known_zero);
    assert_eq!(field("emptied", "data_percent"), "0.00");
    let mut bytes = vec![1; usize::try_from(2 * EXTENT).unwrap()];
    open.file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    drop(open);

    // Where discards are switched off, nothing is taken for zero.
    tool("lvchange --activate n vg0/emptied vg0/pool0");
    for other in tool("lvs --noheadings --options lv_name --select pool_lv=pool0 vg0").lines() {
        tool(&format!("lvchange --activate n vg0/{}", other.trim()));
    }
    tool("lvchange --discards ignore vg0/pool0");
    tool("lvchange --activate y vg0/emptied");
    let file = File::options().write(true).open(&marked.path).unwrap();
    file.write_all_at(&[7; 4096], 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let open = lvm.open(&marked).await.unwrap();
    assert!(!open.known_zero);
    drop(open);
    tool("lvchange --activate n vg0/emptied vg0/pool0");
    tool("lvchange --discards passdown vg0/pool0");
    tool("lvchange --activate y vg0");
}

pub(crate) async fn a_thin_volume_of_another_pool_is_never_written() {
    let lvm = thin_backend();
    tool("lvcreate --yes --type thin-pool --size 8M --name pool1 vg0");
    tool("lvcreate --yes --thinpool pool1 --name elsewhere --virtualsize 8M --addtag lvp vg0");
    let found = look(&lvm, &name("elsewhere")).await;
    let before = tags_and_commits("elsewhere");
    let refused = lvm.mark_populating(&found, JobId::random(), Unmarked::Adopt);
    let error = refused.await.unwrap_err();
    assert_eq!(error.kind(), VolumeErrorKind::NotOurs);
    assert!(
        error.to_string().contains("only pool0 is watched"),
        "{error}"
    );
    assert_eq!(tags_and_commits("elsewhere"), before);
    tool("lvremove --yes vg0/pool1");
}
