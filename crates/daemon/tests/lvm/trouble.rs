//! Trouble with LVM: kills, locks, other processes that open a volume.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use lvp_api::{JobId, VolumeName};
use lvp_testkit::process::signal;
use provisioner::volume::lvm::{Lvm, LvmSettings};
use provisioner::volume::{Removed, Unmarked, VolumeErrorKind, Volumes};

use super::fixture::*;

pub(crate) async fn a_killed_lvcreate_leaves_nothing_or_its_jobs_volume() {
    let once = LvmSettings {
        retry_backoff: vec![],
        ..settings()
    };
    let (hasty, lvm) = (backend_with(once), backend());
    let (mut absent, mut present) = (0, 0);
    // An lvcreate takes 300 to 600 ms here; the instants cover all of it.
    for delay_ms in (0..6).map(|step| step * 100) {
        let (vm, job) = (name(&format!("killed-{delay_ms}")), JobId::random());
        let killer = std::thread::spawn(move || {
            kill_when_it_runs("lvcreate", Duration::from_millis(delay_ms))
        });
        let result = hasty.create(&vm, EXTENT, job).await;
        let killed = killer.join().unwrap();
        assert!(result.is_ok() || killed, "{result:?}");
        match lvm.lookup(&vm).await.unwrap() {
            None => absent += 1,
            Some(volume) => {
                assert_eq!(volume.state, populating(job, true));
                present += 1;
            }
        }
        check_recovers(&lvm, &vm, job, delay_ms % 200 == 0).await;
    }
    println!("after SIGKILL of lvcreate: {absent} absent, {present} present");
}

/// Whatever was left, the job can be rolled back, or resumed and then rolled back.
async fn check_recovers(lvm: &Lvm, vm: &VolumeName, job: JobId, take_up: bool) {
    if take_up {
        let volume = lvm.create(vm, EXTENT, job).await.unwrap();
        let volume = lvm
            .mark_populating(&volume, job, Unmarked::Refuse)
            .await
            .unwrap();
        lvm.open(&volume).await.unwrap();
    }
    let removed = lvm.remove_created(vm, job).await.unwrap();
    assert!(matches!(removed, Removed::Removed | Removed::Absent));
    assert!(lvm.lookup(vm).await.unwrap().is_none());
}

/// Waits for a program to run, then a while, then kills it. False when it had ended by then.
pub(crate) fn kill_when_it_runs(program: &str, delay: Duration) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    let pid = loop {
        assert!(Instant::now() < deadline, "no {program} was started");
        if let Some(pid) = pid_of(program) {
            break pid;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    std::thread::sleep(delay);
    signal(pid, "KILL").is_ok()
}

fn pid_of(program: &str) -> Option<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm.trim_end() == program)
    })
}

pub(crate) async fn a_held_lock_is_waited_for_until_the_time_out() {
    let (vm, job) = (name("locked"), JobId::random());
    let hold = || {
        // LVM removes the file whenever nobody holds the lock.
        let lock = File::options()
            .append(true)
            .create(true)
            .open("/run/lock/lvm/V_vg0")
            .unwrap();
        lock.lock().unwrap();
        lock
    };
    let impatient = LvmSettings {
        command_timeout: Duration::from_millis(1500),
        ..settings()
    };
    let lock = hold();
    let started = Instant::now();
    let error = backend_with(impatient)
        .create(&vm, EXTENT, job)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), VolumeErrorKind::Timeout, "{error}");
    assert!(error.is_transient());
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    drop(lock);

    let lock = hold();
    let release = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        drop(lock);
    });
    let lvm = backend();
    assert!(
        lvm.lookup(&vm).await.unwrap().is_none(),
        "the first try left nothing"
    );
    release.join().unwrap();
    lvm.create(&vm, EXTENT, job).await.unwrap();
}

pub(crate) async fn rollback_outlasts_a_brief_opener() {
    let (lvm, job) = (backend(), JobId::random());
    let brief = lvm.create(&name("brief"), EXTENT, job).await.unwrap();
    let holder = File::open(&brief.path).unwrap();
    let release = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(800));
        drop(holder);
    });
    assert_eq!(
        lvm.remove_created(&brief.name, job).await.unwrap(),
        Removed::Removed
    );
    release.join().unwrap();
}
