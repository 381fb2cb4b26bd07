//! What is never written, and stays as it was.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lvp_api::JobId;
use provisioner::volume::lvm::Lvm;
use provisioner::volume::{InUse, VolumeError, VolumeErrorKind, VolumeState, Volumes};

use super::fixture::*;

/// Asks to write a volume, and checks that it is refused and as it was.
async fn check_refused(lvm: &Lvm, volume: &str, expected: VolumeErrorKind) -> String {
    let before = tags_and_commits(volume);
    let found = look(lvm, volume).await;
    let error = lvm
        .mark_populating(&found, JobId::random())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), expected, "{volume}: {error}");
    assert_eq!(tags_and_commits(volume), before, "{volume} was changed");
    error.to_string()
}

pub(crate) async fn a_volume_that_is_open_elsewhere_is_refused_untouched() {
    let (lvm, job) = (backend(), JobId::random());
    foreign("opened", "");
    let holder = File::open("/dev/vg0/opened").unwrap();
    check_refused(&lvm, "opened", VolumeErrorKind::InUse).await;
    drop(holder);
    let volume = look(&lvm, "opened").await;
    let volume = lvm.mark_populating(&volume, job).await.unwrap();
    let holder = File::open("/dev/vg0/opened").unwrap();
    assert_eq!(kind(lvm.open(&volume).await), VolumeErrorKind::InUse);
    // Who lets go within the back-off, as udev does, is waited for.
    let release = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(150));
        drop(holder);
    });
    let ours = lvm.open(&volume).await.unwrap();
    release.join().unwrap();
    // And nobody else gets in beside us.
    assert_eq!(kind(lvm.open(&volume).await), VolumeErrorKind::InUse);
    drop(ours);
}

pub(crate) async fn a_mounted_volume_and_one_under_another_device_are_refused() {
    let lvm = backend();
    foreign("mounted", "");
    tool("mkfs.ext4 -q /dev/vg0/mounted");
    tool("mount /dev/vg0/mounted /run/mnt");
    check_refused(&lvm, "mounted", VolumeErrorKind::InUse).await;
    tool("umount /run/mnt");

    foreign("below", "");
    let table = "/run/tmp/table";
    fs::write(table, "0 8192 linear /dev/vg0/below 0\n").unwrap();
    tool(&format!("dmsetup create above {table}"));
    check_refused(&lvm, "below", VolumeErrorKind::InUse).await;
    tool("dmsetup remove above");
    let below = look(&lvm, "below").await;
    lvm.mark_populating(&below, JobId::random()).await.unwrap();
}

pub(crate) async fn pools_thin_volumes_snapshots_and_origins_are_refused() {
    let lvm = backend();
    foreign("origin", "");
    tool("lvcreate --yes --snapshot --name snap --size 4M vg0/origin");
    tool("lvcreate --yes --type thin-pool --name pool --size 16M vg0");
    tool("lvcreate --yes --thin --name thin --virtualsize 8M vg0/pool");
    for (volume, reason) in [
        ("origin", "snapshots depend on it"),
        ("snap", "it is a snapshot"),
        ("pool", "part of another volume"),
        ("thin", "thin"),
    ] {
        let text = check_refused(&lvm, volume, VolumeErrorKind::NotOurs).await;
        assert!(text.contains(reason), "{text}");
    }
    // Also when somebody gives them our tag.
    tool("lvchange --addtag lvp vg0/origin");
    check_refused(&lvm, "origin", VolumeErrorKind::NotOurs).await;
    tool("lvremove --yes --force vg0/origin vg0/pool");
}

pub(crate) async fn what_others_tagged_is_refused_and_untagged_by_configuration() {
    let lvm = backend();
    let mut strict = settings();
    strict.adopt_untagged = false;
    let strict = backend_with(strict);
    foreign("osd", "--addtag ceph.osd_id=3");
    let text = check_refused(&lvm, "osd", VolumeErrorKind::NotOurs).await;
    assert!(text.contains("ceph.osd_id=3"), "{text}");
    foreign("noted", "--addtag backup");
    check_refused(&lvm, "noted", VolumeErrorKind::NotOurs).await;

    foreign("plain", "");
    let text = check_refused(&strict, "plain", VolumeErrorKind::NotOurs).await;
    assert!(text.contains("adopt_untagged"), "{text}");
    tool("lvchange --addtag lvp vg0/plain");
    let plain = look(&strict, "plain").await;
    strict
        .mark_populating(&plain, JobId::random())
        .await
        .unwrap();

    foreign("adopted", "");
    let adopted = look(&lvm, "adopted").await;
    let adopted = lvm
        .mark_populating(&adopted, JobId::random())
        .await
        .unwrap();
    // Ours from now on, also for the strict; and what is read-only stays so.
    strict
        .mark_populating(&adopted, JobId::random())
        .await
        .unwrap();
    tool("lvchange --permission r vg0/adopted");
    check_refused(&lvm, "adopted", VolumeErrorKind::NotOurs).await;
}

pub(crate) async fn a_device_that_is_not_the_volume_s_is_refused() {
    let (lvm, job) = (backend(), JobId::random());
    let link = Path::new("/dev/vg0/meant");
    let meant = lvm.create(&name("meant"), EXTENT, job).await.unwrap();
    lvm.create(&name("victim"), EXTENT, job).await.unwrap();
    let original = fs::read_link(link).unwrap();

    fs::remove_file(link).unwrap();
    symlink("/dev/mapper/vg0-victim", link).unwrap();
    let error = lvm.open(&meant).await.unwrap_err();
    assert_eq!(error.kind(), VolumeErrorKind::WrongDevice);
    check_refused(&lvm, "meant", VolumeErrorKind::WrongDevice).await;

    fs::remove_file(link).unwrap();
    fs::write(link, vec![0xaa; 4096]).unwrap();
    assert_eq!(kind(lvm.open(&meant).await), VolumeErrorKind::WrongDevice);
    assert_eq!(fs::read(link).unwrap(), vec![0xaa; 4096]);

    fs::remove_file(link).unwrap();
    symlink(original, link).unwrap();
    lvm.open(&meant).await.unwrap();
}

pub(crate) async fn a_volume_that_was_replaced_is_not_taken_for_the_first() {
    let (lvm, job) = (backend(), JobId::random());
    let first = lvm.create(&name("twin"), EXTENT, job).await.unwrap();
    tool("lvremove --yes vg0/twin");
    tool("lvcreate --yes --name twin --size 4M vg0");
    assert_eq!(
        kind(lvm.mark_populating(&first, job).await),
        VolumeErrorKind::NotFound
    );
    assert_eq!(kind(lvm.open(&first).await), VolumeErrorKind::NotFound);
    let ready = lvm.mark_ready(&first, job, &digest(1)).await;
    assert_eq!(kind(ready), VolumeErrorKind::NotFound);
    assert_eq!(look(&lvm, "twin").await.state, VolumeState::Untagged);
}

/// A host with one running domain, and everything it was asked about.
#[derive(Debug, Default)]
struct OneDomain {
    disk: Mutex<PathBuf>,
}

#[async_trait]
impl InUse for OneDomain {
    async fn user_of(&self, paths: &[PathBuf]) -> Result<Option<String>, VolumeError> {
        let is_its_disk = paths.contains(&self.disk.lock().unwrap());
        Ok(is_its_disk.then(|| "domain web-01".to_owned()))
    }
}

pub(crate) async fn a_domain_s_disk_is_refused_by_any_of_its_paths() {
    let domain = Arc::new(OneDomain::default());
    let lvm = backend_asking(Arc::clone(&domain) as Arc<dyn InUse>);
    foreign("web-01", "");
    let node = fs::canonicalize("/dev/vg0/web-01").unwrap();
    let paths = [
        "/dev/vg0/web-01",
        "/dev/mapper/vg0-web--01",
        node.to_str().unwrap(),
    ];
    for path in paths {
        *domain.disk.lock().unwrap() = PathBuf::from(path);
        let text = check_refused(&lvm, "web-01", VolumeErrorKind::InUse).await;
        assert!(text.contains("domain web-01"), "{text}");
    }
}
