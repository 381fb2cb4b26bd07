//! The pool's guard.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use lvp_api::JobId;
use provisioner::volume::lvm::Lvm;
use provisioner::volume::{Need, Removed, Reservation, VolumeErrorKind, Volumes};

use super::fixture::*;

/// A pool of its own, in which percents are easy to count.
const POOL_MIB: u64 = 100;

fn disk(bytes: u64) -> Need {
    Need::Disk {
        bytes,
        size_bytes: 1 << 40,
    }
}

fn with_overcommit(percent: u64) -> Lvm {
    let mut settings = thin_settings();
    settings.pool.as_mut().unwrap().overcommit_percent_max = Some(percent);
    backend_with(settings)
}

async fn fill(lvm: &Lvm, volume: &str, mib: u64) -> JobId {
    let job = JobId::random();
    let made = lvm.create(&name(volume), mib * MIB, job).await.unwrap();
    let open = lvm.open(&made).await.unwrap();
    let bytes = vec![7; usize::try_from(MIB).unwrap()];
    for at in 0..mib {
        open.file.write_all_at(&bytes, at * MIB).unwrap();
    }
    open.file.sync_all().unwrap();
    job
}

/// Room that a removal gives back: the kernel counts it when it commits, about once a second (`COMMIT_PERIOD` in
/// drivers/md/dm-thin.c).
async fn room_again(lvm: &Lvm, volume: &str, need: Need) -> Reservation {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match lvm.reserve(&name(volume), need).await {
            Ok(room) => return room,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) async fn what_jobs_reserved_is_not_promised_twice() {
    make_pool(POOL_MIB, "");
    let lvm = thin_backend();
    let full = VolumeErrorKind::PoolFull;
    let first = lvm.reserve(&name("guard-a"), disk(50 * MIB)).await;
    let first = first.unwrap();
    // 80 % are 80 MiB.
    let error = lvm.reserve(&name("guard-b"), disk(31 * MIB)).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), full);
    for part in [
        "vg0/pool0",
        "0.00 % of its data",
        "50 MiB",
        "31 MiB",
        "80 % (lvm.pool_data_percent_max)",
    ] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    let second = lvm.reserve(&name("guard-b"), disk(30 * MIB)).await;
    let second = second.unwrap();
    assert_eq!(lvm.pool().unwrap().reserved_bytes, 80 * MIB);
    assert_eq!(lvm.probe().await.unwrap().free_bytes, 0);
    // What a job has written is not counted twice.
    let job = fill(&lvm, "guard-a", 50).await;
    let capacity = lvm.probe().await.unwrap();
    assert_eq!(capacity.free_bytes, 0);
    // In LVM's hundredths of a percent.
    let left = lvm.pool().unwrap().reserved_bytes;
    assert!(left.abs_diff(30 * MIB) < 65536, "{left}");
    drop((first, second));
    assert_eq!(lvm.pool().unwrap().reserved_bytes, 0);
    // Nor forgotten when its reservation is given back.
    let error = lvm.reserve(&name("guard-b"), disk(31 * MIB)).await;
    assert_eq!(kind(error), full);
    drop(lvm.reserve(&name("guard-b"), Need::Clone).await.unwrap());
    let usage = lvm.pool().unwrap();
    assert_eq!(usage.data_ratio, Some(0.5));
    assert_eq!(usage.virtual_bytes, 52 * MIB);
    assert_eq!(usage.flaw, None);
    lvm.remove_created(&name("guard-a"), job).await.unwrap();
    drop(room_again(&lvm, "guard-b", disk(80 * MIB)).await);

    // More may be promised than there is, unless that is bounded; never to one volume alone.
    let bounded = with_overcommit(150);
    for volume in ["guard-1", "guard-2"] {
        bounded.create(&name(volume), 72 * MIB, job).await.unwrap();
    }
    let error = bounded
        .create(&name("guard-3"), 72 * MIB, job)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), full);
    assert!(error.to_string().contains("150 %"), "{error}");
    lvm.create(&name("guard-3"), 72 * MIB, job).await.unwrap();
    let error = lvm
        .create(&name("guard-4"), 104 * MIB, job)
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), VolumeErrorKind::NoSpace { .. }),
        "{error}"
    );
}

pub(crate) async fn a_pool_that_is_not_sound_gives_no_room_and_says_why() {
    make_pool(POOL_MIB, "");
    let lvm = || thin_backend();
    let refused = async |because: &str| {
        for error in [
            lvm()
                .reserve(&name("unsound"), disk(MIB))
                .await
                .unwrap_err(),
            lvm()
                .reserve(&name("unsound"), Need::Clone)
                .await
                .unwrap_err(),
            lvm()
                .create(&name("unsound"), MIB, JobId::random())
                .await
                .unwrap_err(),
        ] {
            assert_eq!(error.kind(), VolumeErrorKind::PoolUnsound, "{error}");
            assert!(error.to_string().contains(because), "{error}");
        }
        assert!(lvm().clones().await.unwrap_err().contains(because));
    };
    tool("lvchange --activate n vg0/pool0");
    tool("lvchange --zero n vg0/pool0");
    refused("lvchange -Z y vg0/pool0").await;
    tool("lvchange --activate n vg0/pool0");
    tool("lvchange --zero y vg0/pool0");

    // One that is not active is activated, to see how full it is.
    tool("lvchange --activate n vg0/pool0");
    drop(lvm().reserve(&name("unsound"), disk(MIB)).await.unwrap());

    // Metadata that are read-only after an error.
    tool("lvcreate --yes --thinpool pool0 --name there --virtualsize 4M vg0");
    tool("dmsetup suspend vg0-pool0-tpool");
    let table = tool("dmsetup table vg0-pool0-tpool");
    let read_only = format!("{} read_only\n", counted(&table));
    fs::write("/run/tmp/table", read_only).unwrap();
    tool("dmsetup load vg0-pool0-tpool /run/tmp/table");
    tool("dmsetup resume vg0-pool0-tpool");
    refused("metadata").await;
    tool("lvchange --activate n vg0/there vg0/pool0");

    // No thin pool at all.
    foreign("no-pool", "");
    let mut settings = thin_settings();
    settings.pool.as_mut().unwrap().name = name("no-pool");
    let wrong = backend_with(settings);
    let error = wrong.reserve(&name("x"), Need::Clone).await.unwrap_err();
    assert_eq!(error.kind(), VolumeErrorKind::PoolUnsound);
    assert!(error.to_string().contains("is no thin pool"), "{error}");
}

/// A pool's table with room for one more feature argument.
fn counted(table: &str) -> String {
    // start length thin-pool metadata data block low-water count features...
    let mut words: Vec<_> = table.split_whitespace().map(str::to_owned).collect();
    if words.len() == 7 {
        words.push("0".to_owned());
    }
    let count: u32 = words[7].parse().unwrap();
    words[7] = (count + 1).to_string();
    words.join(" ")
}

pub(crate) async fn a_pool_that_fills_up_fails_the_writer_and_recovers() {
    // A minute, where nobody has changed it.
    const PATIENCE: &str = "/sys/module/dm_thin_pool/parameters/no_space_timeout";
    fs::write(PATIENCE, "4").unwrap();
    for policy in ["error", "queue"] {
        make_pool(32, "");
        if policy == "error" {
            tool("lvchange --errorwhenfull y vg0/pool0");
        }
        assert_eq!(field("pool0", "lv_when_full"), policy);
        let (lvm, job) = (thin_backend(), JobId::random());
        let room = lvm.reserve(&name("late"), disk(16 * MIB)).await.unwrap();
        let late = lvm.create(&name("late"), 28 * MIB, job).await.unwrap();
        // Guests are not asked.
        tool("lvcreate --yes --thinpool pool0 --name guest --virtualsize 28M vg0");
        let guest = File::options().write(true).open("/dev/vg0/guest").unwrap();
        guest.write_all_at(&vec![1; 24 << 20], 0).unwrap();
        guest.sync_all().unwrap();

        let open = lvm.open(&late).await.unwrap();
        let started = Instant::now();
        let written = tokio::task::spawn_blocking(move || {
            let written = open.file.write_all_at(&vec![2; 16 << 20], 0);
            written.and_then(|()| open.file.sync_all())
        });
        let error = written.await.unwrap().unwrap_err();
        assert!(
            started.elapsed() < Duration::from_secs(40),
            "{policy}: {error}"
        );
        println!("{policy}: {error} after {:?}", started.elapsed());
        drop(room);
        let kind_of = kind(lvm.reserve(&name("next"), Need::Clone).await);
        assert!(
            matches!(
                kind_of,
                VolumeErrorKind::PoolUnsound | VolumeErrorKind::PoolFull
            ),
            "{policy}: {kind_of:?}"
        );
        // The job's volume goes, and with it what it took.
        let removed = lvm.remove_created(&name("late"), job).await.unwrap();
        assert_eq!(removed, Removed::Removed);
        drop(guest);
        tool("lvremove --yes vg0/guest");
        drop(room_again(&lvm, "next", disk(16 * MIB)).await);
        assert_eq!(field("pool0", "lv_health_status"), "", "{policy}");
    }
    fs::write(PATIENCE, "60").unwrap();
    make_pool(512, "");
}
