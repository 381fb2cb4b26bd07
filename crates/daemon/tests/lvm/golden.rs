//! Golden volumes and clones.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use lvp_api::{ImageType, JobId, VolumeName};
use provisioner::volume::clones::{GoldenKey, waiting_name};
use provisioner::volume::lvm::{Lvm, LvmSettings};
use provisioner::volume::{Clones, Content, Golden, Removed, Volume, VolumeState, Volumes};

use super::fixture::*;
use super::spy::Spy;
use super::trouble::kill_when_it_runs;

fn key(byte: u8) -> GoldenKey {
    GoldenKey {
        digest: digest(byte),
        image_type: ImageType::Raw,
    }
}

fn content() -> Content {
    Content {
        size_bytes: EXTENT,
        digest: digest(0),
    }
}

async fn golden(lvm: &Lvm, byte: u8) -> Golden {
    let (key, job) = (key(byte), JobId::random());
    let made = lvm.make_golden(&key, EXTENT, job).await.unwrap();
    let open = lvm.open(&made).await.unwrap();
    open.file.write_all_at(&[byte; 65536], 0).unwrap();
    open.file.sync_all().unwrap();
    drop(open);
    lvm.seal(&made, &key, job, &content()).await.unwrap()
}

fn first_byte(volume: &str) -> u8 {
    let file = File::open(format!("/dev/vg0/{volume}")).unwrap();
    let mut bytes = [0; 4096];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    bytes[0]
}

async fn ready(lvm: &Lvm, golden: &Golden, vm: &VolumeName, job: JobId) -> Volume {
    let clone = lvm.clone_golden(golden, vm, 2 * EXTENT, job).await.unwrap();
    lvm.mark_ready(&clone, job, &golden.key.digest.into())
        .await
        .unwrap();
    clone
}

pub(crate) async fn what_was_changed_since_it_was_sealed_is_not_golden() {
    let lvm = thin_backend();
    let sealed = golden(&lvm, 11).await;
    let name = sealed.volume.name.to_string();
    // One chunk, in LVM's hundredths of a percent.
    let own_bytes = sealed.own_bytes.unwrap();
    assert!(own_bytes.abs_diff(65536) < 420, "{own_bytes}");
    assert_eq!(field(&name, "lv_permissions"), "read-only");
    assert_eq!(field(&name, "lv_skip_activation"), "skip activation");
    assert_eq!(field(&name, "lv_active"), "");
    let vm = super::fixture::name("flawed");
    let flaw = async || {
        let found = lvm.find_golden(&key(11)).await.unwrap().unwrap();
        let cloned = lvm.clone_golden(&sealed, &vm, EXTENT, JobId::random());
        let refused = cloned.await;
        assert_eq!(refused.is_err(), found.flaw.is_some(), "{found:?}");
        if let Ok(clone) = refused {
            tool(&format!("lvremove --yes vg0/{}", clone.name));
        }
        found.flaw.unwrap_or_default()
    };
    assert_eq!(flaw().await, "");
    for (change, back, because) in [
        (
            "lvchange --permission rw",
            "lvchange --permission r",
            "can be written",
        ),
        (
            "lvchange --deltag lvp.state=ready",
            "lvchange --addtag lvp.state=ready",
            "do not agree",
        ),
        (
            "lvchange --addtag lvp.state=populating",
            "lvchange --deltag lvp.state=populating",
            "do not agree",
        ),
        (
            "lvchange --addtag ceph.osd_id=3",
            "lvchange --deltag ceph.osd_id=3",
            "another tool",
        ),
    ] {
        tool(&format!("{change} vg0/{name}"));
        let text = flaw().await;
        assert!(text.contains(because), "{change}: {text:?}");
        tool(&format!("{back} vg0/{name}"));
        assert_eq!(flaw().await, "", "{back}");
    }
    tool(&format!("lvchange --permission rw vg0/{name}"));
    tool(&format!("lvextend --quiet --size 16M vg0/{name}"));
    tool(&format!("lvchange --permission r vg0/{name}"));
    let text = flaw().await;
    assert!(text.contains("16777216 bytes and had 4194304"), "{text}");
    // One whose tags are all gone is known by its name, and can be removed to be made anew.
    let tags: Vec<_> = tags(&name)
        .split(',')
        .map(|tag| format!("--deltag {tag}"))
        .collect();
    tool(&format!("lvchange {} vg0/{name}", tags.join(" ")));
    let text = flaw().await;
    assert!(text.contains("do not say what it holds"), "{text}");
    let found = lvm.find_golden(&key(11)).await.unwrap().unwrap();
    assert_eq!(lvm.remove_golden(&found).await.unwrap(), Removed::Removed);
}

pub(crate) async fn a_clone_costs_no_byte_and_few_commands() {
    let lvm = thin_backend();
    let golden = golden(&lvm, 12).await;
    lvm.probe().await.unwrap();
    let before = lvm.pool().unwrap();
    let spy = Spy::new();
    let (vm, job) = (name("cheap"), JobId::random());
    ready(&lvm, &golden, &vm, job).await;
    let commands = spy.commands();
    println!("a clone: {commands:?}");
    let changing = ["lvcreate", "lvextend", "lvchange", "lvchange"];
    let changes: Vec<_> = commands.iter().filter(|tool| *tool != "lvs").collect();
    assert_eq!(changes, changing);
    // A report before the snapshot, before `ready` and after it; and of the pool, if the last one is no longer fresh.
    assert!(commands.len() <= changing.len() + 4, "{commands:?}");
    drop(spy);
    lvm.probe().await.unwrap();
    let after = lvm.pool().unwrap();
    assert_eq!(after.data_ratio, before.data_ratio, "no byte");
    let blocks = |usage: &provisioner::volume::PoolUsage| usage.metadata_ratio.unwrap() * 1024.0;
    let cost = blocks(&after) - blocks(&before);
    assert!(cost < 8.5, "{cost} blocks of metadata");
    assert_eq!(field("cheap", "lv_active"), "active");
    assert_eq!(first_byte("cheap"), 12);
    if commands.len() > changing.len() + 3 {
        // The pool was looked at as well.
        let spy = Spy::new();
        ready(&lvm, &golden, &name("cheap-2"), JobId::random()).await;
        let commands = spy.commands();
        assert!(commands.len() <= changing.len() + 3, "{commands:?}");
    }
    lvm.remove_golden(&golden).await.unwrap();
    assert_eq!(first_byte("cheap"), 12);
}

pub(crate) async fn a_kill_anywhere_leaves_nothing_that_looks_golden_or_ready() {
    let (lvm, job) = (thin_backend(), JobId::random());
    let hasty = backend_with(LvmSettings {
        retry_backoff: vec![],
        ..thin_settings()
    });
    let sealed = golden(&lvm, 13).await;
    let vm = name("killed-clone");
    let mut seen = [0; 2];
    for (program, delay) in [
        ("lvcreate", 0),
        ("lvcreate", 150),
        ("lvcreate", 400),
        ("lvextend", 50),
        ("lvextend", 250),
        ("lvchange", 50),
    ] {
        let killer =
            std::thread::spawn(move || kill_when_it_runs(program, Duration::from_millis(delay)));
        let made = hasty.clone_golden(&sealed, &vm, 2 * EXTENT, job).await;
        killer.join().unwrap();
        match lvm.lookup(&vm).await.unwrap() {
            None => seen[0] += 1,
            Some(left) => {
                assert_eq!(
                    left.state,
                    populating(job, true),
                    "{program} {delay}: {made:?}"
                );
                seen[1] += 1;
            }
        }
        // Taken up again, it is a whole one.
        let clone = lvm
            .clone_golden(&sealed, &vm, 2 * EXTENT, job)
            .await
            .unwrap();
        assert_eq!(clone.size_bytes, 2 * EXTENT);
        assert_eq!(first_byte("killed-clone"), 13);
        assert_eq!(
            lvm.remove_created(&vm, job).await.unwrap(),
            Removed::Removed
        );
    }
    println!("after SIGKILL: {} absent, {} populating", seen[0], seen[1]);
    // While it is sealed.
    for delay in [0, 150, 300] {
        let (key, job) = (key(14), JobId::random());
        let made = lvm.make_golden(&key, EXTENT, job).await.unwrap();
        let killer =
            std::thread::spawn(move || kill_when_it_runs("lvchange", Duration::from_millis(delay)));
        let result = hasty.seal(&made, &key, job, &content()).await;
        killer.join().unwrap();
        let found = lvm.find_golden(&key).await.unwrap().unwrap();
        let is_ready = matches!(found.volume.state, VolumeState::Ready { .. });
        assert_eq!(found.flaw.is_none(), is_ready, "{result:?} {found:?}");
        let sealed = lvm.seal(&made, &key, job, &content()).await.unwrap();
        assert_eq!(lvm.remove_golden(&sealed).await.unwrap(), Removed::Removed);
    }
    lvm.remove_golden(&sealed).await.unwrap();
    // LVM and the kernel agree about the pool.
    let kernel = tool("dmsetup status vg0-pool0-tpool");
    let transaction = kernel.split_whitespace().nth(3).unwrap();
    assert_eq!(field("pool0", "transaction_id"), transaction);
}

/// A volume with a clone of another image that waits for its name.
async fn waiting(lvm: &Lvm, vm: &VolumeName, goldens: [&Golden; 2]) -> (Volume, Volume, JobId) {
    let (first, second) = (JobId::random(), JobId::random());
    ready(lvm, goldens[0], vm, first).await;
    let old = look(lvm, vm).await;
    let clone = ready(lvm, goldens[1], vm, second).await;
    assert_eq!(clone.name, waiting_name(second));
    (old, clone, second)
}

pub(crate) async fn a_swap_that_was_cut_off_anywhere_has_one_volume_of_the_name() {
    let lvm = thin_backend();
    let goldens = [golden(&lvm, 15).await, golden(&lvm, 16).await];
    let of = [&goldens[0], &goldens[1]];
    let vm = name("swapped");
    // What a job does that goes on, after each step, and what is done for one that does not.
    let cuts = [
        (0, false),
        (1, true),
        (1, false),
        (2, true),
        (2, false),
        (3, true),
        (3, false),
    ];
    for (done, goes_on) in cuts {
        let (old, clone, job) = waiting(&lvm, &vm, of).await;
        tool(&format!("lvchange --addtag backup.nightly vg0/{vm}"));
        let (aside, new) = (format!("lvp-old-{job}"), clone.name.to_string());
        let steps = [
            format!("lvchange --addtag lvp.aside={vm} vg0/{vm}"),
            format!("lvrename vg0 {vm} {aside}"),
            format!("lvrename vg0 {new} {vm}"),
        ];
        for step in &steps[..done] {
            tool(step);
        }
        // Whoever looks sees the old one or the new one.
        let seen = look(&lvm, &vm).await;
        assert!(matches!(seen.state, VolumeState::Ready { digest, .. }
                if digest == goldens[usize::from(done >= 2)].key.digest));
        let listed = lvm.list().await.unwrap();
        let named: Vec<_> = listed.iter().filter(|volume| volume.name == vm).collect();
        assert_eq!(named.len(), 1, "{done}: {listed:?}");
        assert_eq!(named[0].state, seen.state);
        assert!(
            listed
                .iter()
                .all(|volume| !volume.name.as_str().starts_with("lvp-"))
        );
        let waiting = lvm.waiting().await.unwrap();
        assert_eq!(waiting, [job]);
        if goes_on && done == 2 {
            // What a job that is taken up does first.
            lvm.mark_ready(&seen, job, &goldens[1].key.digest.into())
                .await
                .unwrap();
        } else if goes_on {
            let replaced = lvm.replace(&old, &clone, job).await.unwrap();
            assert_eq!(replaced.name, vm);
            if done < 2 {
                let tags = tool(&format!("lvs --noheadings -o lv_tags vg0/{vm}"));
                assert!(tags.contains("backup.nightly"), "{tags}");
            }
        } else {
            lvm.remove_waiting(job).await.unwrap();
        }
        let is_new = goes_on || done >= 2;
        assert_eq!(
            first_byte("swapped"),
            if is_new { 16 } else { 15 },
            "{done} {goes_on}"
        );
        assert_eq!(lvm.waiting().await.unwrap(), []);
        tool(&format!("lvremove --yes vg0/{vm}"));
    }
    // Killed for real.
    for delay in [0, 400] {
        let (old, clone, job) = waiting(&lvm, &vm, of).await;
        let hasty = backend_with(LvmSettings {
            retry_backoff: vec![],
            ..thin_settings()
        });
        let killer =
            std::thread::spawn(move || kill_when_it_runs("lvrename", Duration::from_millis(delay)));
        let swapped = hasty.replace(&old, &clone, job).await;
        killer.join().unwrap();
        let seen = look(&lvm, &vm).await;
        assert!(
            matches!(seen.state, VolumeState::Ready { .. }),
            "{swapped:?} {seen:?}"
        );
        lvm.replace(&old, &clone, job).await.unwrap();
        assert_eq!(first_byte("swapped"), 16);
        assert_eq!(lvm.waiting().await.unwrap(), []);
        tool(&format!("lvremove --yes vg0/{vm}"));
    }
    for golden in &goldens {
        lvm.remove_golden(golden).await.unwrap();
    }
}

pub(crate) async fn clones_leave_no_more_in_lvm_s_archive_than_before() {
    // As hosts have it: LVM's own settings, here in memory.
    let conf = "/etc/lvm/lvmlocal.conf";
    let text = fs::read_to_string(conf).unwrap();
    let on = text.replace("backup = 0 archive = 0", "backup = 1 archive = 1 archive_dir = \"/run/tmp/archive\" backup_dir = \"/run/tmp/backup\"");
    assert_ne!(on, text);
    fs::write(conf, on).unwrap();
    let lvm = thin_backend();
    let golden = golden(&lvm, 17).await;
    let archived = || fs::read_dir("/run/tmp/archive").map_or(0, Iterator::count);
    // An operator's change is archived.
    tool("lvcreate --yes --thinpool pool0 --name by-hand --virtualsize 4M vg0");
    let before = archived();
    assert!(before > 0);
    for number in 0..4 {
        let (vm, job) = (name(&format!("archived-{number}")), JobId::random());
        ready(&lvm, &golden, &vm, job).await;
    }
    assert_eq!(archived(), before, "four clones");
    // The one backup is of now.
    let backup = fs::read_to_string("/run/tmp/backup/vg0").unwrap();
    assert!(
        backup.contains("archived-3") && backup.contains("lvp.state=ready"),
        "an old backup"
    );
    fs::write(conf, text).unwrap();
    lvm.remove_golden(&golden).await.unwrap();
}
