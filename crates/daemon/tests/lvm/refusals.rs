//! What is never written, and stays as it was.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lvp_api::JobId;
use provisioner::volume::lvm::Lvm;
use provisioner::volume::{InUse, Unmarked, VolumeError, VolumeErrorKind, VolumeState, Volumes};

use super::fixture::*;

/// Asks to write a volume, whoever's it is, and checks that it is refused and as it was.
async fn check_refused(lvm: &Lvm, volume: &str, expected: VolumeErrorKind) -> String {
    check_refused_so(lvm, volume, expected, Unmarked::Adopt).await
}

async fn check_refused_so(
    lvm: &Lvm,
    volume: &str,
    expected: VolumeErrorKind,
    unmarked: Unmarked,
) -> String {
    let before = tags_and_commits(volume);
    let found = look(lvm, volume).await;
    let error = lvm
        .mark_populating(&found, JobId::random(), unmarked)
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
    let volume = lvm
        .mark_populating(&volume, job, Unmarked::Adopt)
        .await
        .unwrap();
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

pub(crate) async fn what_others_tagged_is_refused_and_untagged_unless_that_is_meant() {
    let lvm = backend();
    foreign("osd", "--addtag ceph.osd_id=3");
    let text = check_refused(&lvm, "osd", VolumeErrorKind::NotOurs).await;
    assert!(text.contains("ceph.osd_id=3"), "{text}");
    foreign("noted", "--addtag backup");
    check_refused(&lvm, "noted", VolumeErrorKind::NotOurs).await;

    foreign("plain", "");
    let not_ours = VolumeErrorKind::NotOurs;
    let text = check_refused_so(&lvm, "plain", not_ours, Unmarked::Refuse).await;
    assert!(text.contains("lvpctl volumes adopt plain"), "{text}");
    let plain = look(&lvm, "plain").await;
    let refused = lvm.check_writable(&plain, Unmarked::Refuse).await;
    assert_eq!(kind(refused), not_ours);
    lvm.check_writable(&plain, Unmarked::Adopt).await.unwrap();
    tool("lvchange --addtag lvp vg0/plain");
    let plain = look(&lvm, "plain").await;
    lvm.mark_populating(&plain, JobId::random(), Unmarked::Refuse)
        .await
        .unwrap();

    foreign("adopted", "");
    let adopted = look(&lvm, "adopted").await;
    let adopted = lvm
        .mark_populating(&adopted, JobId::random(), Unmarked::Adopt)
        .await
        .unwrap();
    // Ours from now on; and what is read-only stays so.
    lvm.mark_populating(&adopted, JobId::random(), Unmarked::Refuse)
        .await
        .unwrap();
    tool("lvchange --permission r vg0/adopted");
    check_refused(&lvm, "adopted", VolumeErrorKind::NotOurs).await;
}

pub(crate) async fn a_volume_that_is_handed_over_keeps_its_bytes_and_may_be_written() {
    let lvm = backend();
    foreign("given", "");
    fs::write("/dev/vg0/given", [0x5a; 4096]).unwrap();
    // Also while a virtual machine has it open.
    let guest = File::open("/dev/vg0/given").unwrap();
    let given = lvm.adopt(&name("given")).await.unwrap();
    assert_eq!(
        (given.state, tags("given")),
        (VolumeState::Adopted, "lvp".to_owned())
    );
    let again = lvm.adopt(&name("given")).await.unwrap();
    assert_eq!(again.state, VolumeState::Adopted);
    drop(guest);
    assert_eq!(fs::read("/dev/vg0/given").unwrap()[..4096], [0x5a; 4096]);
    let job = JobId::random();
    let marked = lvm.mark_populating(&given, job, Unmarked::Refuse).await;
    assert_eq!(marked.unwrap().state, populating(job, false));

    // What is another tool's, or a part of something, is not handed over by this.
    foreign("given-osd", "--addtag ceph.osd_id=3");
    foreign("given-noted", "--addtag backup");
    for volume in ["given-osd", "given-noted"] {
        let before = tags_and_commits(volume);
        let refused = lvm.adopt(&name(volume)).await;
        assert_eq!(kind(refused), VolumeErrorKind::NotOurs, "{volume}");
        assert_eq!(tags_and_commits(volume), before, "{volume} was changed");
    }
    let absent = lvm.adopt(&name("no-such")).await;
    assert_eq!(kind(absent), VolumeErrorKind::Absent);
}

pub(crate) async fn what_a_job_leaves_unwritten_says_what_it_said_before() {
    let (lvm, vm) = (backend(), name("left"));
    let (first, second, third) = (JobId::random(), JobId::random(), JobId::random());
    let made = lvm.create(&vm, EXTENT, first).await.unwrap();
    lvm.mark_ready(&made, first, &digest(1)).await.unwrap();
    let before = look(&lvm, "left").await;
    lvm.mark_populating(&before, second, Unmarked::Refuse)
        .await
        .unwrap();
    lvm.leave(&before, second).await.unwrap();
    let left = look(&lvm, "left").await;
    assert_eq!((left.state, left.last_ended), (before.state, Some(second)));
    // One that came not so far as to mark it.
    lvm.leave(&left, third).await.unwrap();
    let left = look(&lvm, "left").await;
    assert_eq!((left.state, left.last_ended), (before.state, Some(third)));
    // What another job has marked since is that job's.
    lvm.mark_populating(&left, first, Unmarked::Refuse)
        .await
        .unwrap();
    lvm.leave(&left, second).await.unwrap();
    assert_eq!(look(&lvm, "left").await.state, populating(first, false));

    foreign("left-plain", "");
    let plain = look(&lvm, "left-plain").await;
    lvm.mark_populating(&plain, first, Unmarked::Adopt)
        .await
        .unwrap();
    lvm.leave(&plain, first).await.unwrap();
    assert_eq!(tags("left-plain"), "");
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
        kind(lvm.mark_populating(&first, job, Unmarked::Adopt).await),
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
