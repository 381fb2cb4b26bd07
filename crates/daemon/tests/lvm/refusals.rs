//! Volumes that are never written and do not change.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lvp_api::JobId;
use provisioner::volume::lvm::Lvm;
use provisioner::volume::{InUse, Unmarked, VolumeErrorKind, VolumeState, Volumes};

use super::contract::OneDomain;
use super::fixture::*;

/// Tries to write a volume, and checks that this is refused and nothing changed.
async fn check_refused(lvm: &Lvm, volume: &str, expected: VolumeErrorKind) -> String {
    let before = tags_and_commits(volume);
    let found = look(lvm, &name(volume)).await;
    let error = lvm
        .mark_populating(&found, JobId::random(), Unmarked::Adopt)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), expected, "{volume}: {error}");
    assert_eq!(tags_and_commits(volume), before, "{volume} was changed");
    error.to_string()
}

pub(crate) async fn a_brief_opener_is_waited_for() {
    let (lvm, job) = (backend(), JobId::random());
    let volume = lvm.create(&name("opened"), EXTENT, job).await.unwrap();
    let holder = File::open("/dev/vg0/opened").unwrap();
    // Within the back-off, as udev does.
    let release = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(150));
        drop(holder);
    });
    lvm.open(&volume).await.unwrap();
    release.join().unwrap();
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
    let below = look(&lvm, &name("below")).await;
    lvm.mark_populating(&below, JobId::random(), Unmarked::Adopt)
        .await
        .unwrap();
}

pub(crate) async fn pools_thin_volumes_snapshots_and_origins_are_refused() {
    let lvm = backend();
    foreign("origin", "");
    tool("lvcreate --yes --snapshot --name snap --size 4M vg0/origin");
    tool("lvcreate --yes --type thin-pool --name pool --size 16M vg0");
    tool("lvcreate --yes --thin --name thin --virtualsize 8M vg0/pool");
    for (volume, reason) in [
        ("origin", "snapshots depend on it"),
        ("snap", "it is a copy-on-write snapshot"),
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

pub(crate) async fn a_volume_with_another_tools_tags_is_refused() {
    let lvm = backend();
    foreign("osd", "--addtag ceph.osd_id=3");
    foreign("noted", "--addtag backup");
    for (volume, tag) in [("osd", "ceph.osd_id=3"), ("noted", "backup")] {
        let text = check_refused(&lvm, volume, VolumeErrorKind::NotOurs).await;
        assert!(text.contains(tag), "{text}");
        // Nor does this hand it over.
        let before = tags_and_commits(volume);
        let refused = lvm.adopt(&name(volume)).await;
        assert_eq!(kind(refused), VolumeErrorKind::NotOurs, "{volume}");
        assert_eq!(tags_and_commits(volume), before, "{volume} was changed");
    }
    // With our own tag it can be, even if the tag was added by hand.
    tool("lvchange --addtag lvp vg0/noted");
    let noted = look(&lvm, &name("noted")).await;
    assert_eq!(noted.state, VolumeState::Adopted);
    lvm.mark_populating(&noted, JobId::random(), Unmarked::Refuse)
        .await
        .unwrap();
    assert!(tags("noted").starts_with("backup,lvp,"), "theirs stay");
}

pub(crate) async fn a_volume_that_lvm_makes_read_only_is_refused() {
    let (lvm, job) = (backend(), JobId::random());
    lvm.create(&name("read-only"), EXTENT, job).await.unwrap();
    tool("lvchange --permission r vg0/read-only");
    check_refused(&lvm, "read-only", VolumeErrorKind::NotOurs).await;
}

pub(crate) async fn a_device_that_is_not_the_volumes_is_refused() {
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

pub(crate) async fn a_domains_disk_is_refused_by_any_of_its_paths() {
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
