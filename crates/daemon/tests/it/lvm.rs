//! The daemon on logical volumes: real LVM, in user-mode Linux.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use lvp_api::{JobState, VolumeList};
use lvp_testkit::daemon::{Home, wait_for};
use lvp_testkit::fault::{Fault, Rule};
use lvp_testkit::require::{command, require};
use lvp_testkit::uml::{self, Uml};

use crate::dependencies::becomes;
use crate::doctor;
use crate::support::{MIB, World, image, metric};

#[test]
fn the_daemon_provisions_logical_volumes() {
    if uml::is_inside() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(provisions_rolls_back_and_resumes());
    } else if require("lvm") {
        Uml::new()
            .timeout(Duration::from_secs(300))
            .run_this_test("lvm::the_daemon_provisions_logical_volumes");
    }
}

async fn provisions_rolls_back_and_resumes() {
    let (world, proxy) = World::with_faults().await;
    let world = world
        .with("VOLUME_BACKEND", "lvm")
        .with("LVM_VOLUME_GROUP", "vg0");
    fill_the_volume_group_with_a_marker();
    let builder = image(24 * MIB, 100, 1);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();

    // A new volume holds the image, zeros behind it, and says so.
    let job = daemon
        .provision(&url, "vm-1", 30 * MIB)
        .await
        .expect("it is accepted");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    let bytes = fs::read(device("vm-1")).expect("the volume is read");
    assert_eq!(
        bytes.len() as u64,
        32 * MIB,
        "rounded up to whole extents of 4 MiB"
    );
    assert!(bytes[..24 << 20] == builder.disk(), "the disk is wrong");
    assert!(
        bytes[24 << 20..].iter().all(|byte| *byte == 0),
        "the marker is left behind the disk"
    );
    assert!(tags("vm-1").contains("lvp.state=ready"), "{}", tags("vm-1"));
    let digest = status.image_digest.expect("it is known");
    assert!(
        tags("vm-1").contains(&format!("lvp.image={digest}")),
        "{}",
        tags("vm-1")
    );
    let listed: VolumeList = daemon.get("/api/v1/volumes").await.expect("a list");
    assert_eq!(listed.volumes[0].state, "ready");

    // One that does not fit the volume group fails with both numbers, and leaves nothing.
    let job = daemon
        .provision(&url, "vm-2", 1 << 40)
        .await
        .expect("it is accepted");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(
        (status.status, status.error_code),
        (JobState::Failed, Some(507)),
        "{status:?}"
    );
    assert!(!device("vm-2").exists());

    // One whose digest is wrong is removed; a reused volume stays, not ready, and a repeat mends it.
    let other = image(24 * MIB, 80, 3);
    world.put("b.qcow2", &other.build());
    let wrong = format!("{}  b.qcow2", "2".repeat(64));
    world
        .s3
        .objects()
        .put("images", "b.qcow2.sha256", wrong.as_bytes())
        .expect("written");
    for volume in ["vm-3", "vm-1"] {
        let job = daemon
            .provision("s3://images/b.qcow2", volume, 32 * MIB)
            .await
            .expect("a job");
        let status = daemon.ended(&job).await.expect("it ends");
        assert_eq!(
            (status.status, status.error_code),
            (JobState::Failed, Some(422)),
            "{status:?}"
        );
    }
    assert!(
        !device("vm-3").exists(),
        "a volume with the wrong bytes is left"
    );
    assert!(
        tags("vm-1").contains("lvp.state=populating"),
        "{}",
        tags("vm-1")
    );
    let head = fs::read(device("vm-1")).expect("the volume is read");
    assert!(
        head[..1 << 20].iter().all(|byte| *byte == 0),
        "vm-1 looks bootable"
    );
    let job = daemon
        .provision(&url, "vm-1", 30 * MIB)
        .await
        .expect("it is accepted");
    assert_eq!(
        daemon.ended(&job).await.expect("it ends").status,
        JobState::Completed
    );
    let bytes = fs::read(device("vm-1")).expect("the volume is read");
    assert!(
        bytes[..24 << 20] == builder.disk(),
        "the repeat did not mend it"
    );

    // Killed half-way, a volume is not ready; the next daemon finishes it.
    let url = world.put("c.qcow2", &other.build());
    proxy.inject(Rule::new(Fault::Slow(400_000)).method("GET"));
    let job = daemon
        .provision(&url, "vm-4", 32 * MIB)
        .await
        .expect("it is accepted");
    wait_for("the download", async || {
        let progress = daemon.status(&job).await.ok()?.progress?;
        (progress.bytes_processed > 0).then_some(())
    })
    .await;
    daemon.kill().expect("it is killed");
    assert!(
        tags("vm-4").contains("lvp.state=populating"),
        "{}",
        tags("vm-4")
    );
    proxy.clear();
    let daemon = world.start();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(
        (status.status, status.attempts),
        (JobState::Completed, 2),
        "{status:?}"
    );
    let bytes = fs::read(device("vm-4")).expect("the volume is read");
    assert!(bytes[..24 << 20] == other.disk(), "the disk is wrong");
    assert!(
        bytes[24 << 20..].iter().all(|byte| *byte == 0),
        "the marker is left"
    );
    assert!(tags("vm-4").contains("lvp.state=ready"), "{}", tags("vm-4"));

    // The probe asks for the volume group itself, and at once when a job missed it.
    becomes(&daemon, "lvm", 1.0).await;
    let size = metric(&daemon, r#"volumes_size_bytes{backend="lvm"}"#).await;
    assert!(size > Some(0.0), "{size:?}");
    lvm(&["vgrename", "-qq", "vg0", "vg9"]);
    let missed = daemon.provision(&url, "vm-5", 32 * MIB).await;
    becomes(&daemon, "lvm", 0.0).await;
    let missed = daemon.ended(&missed.expect("a job")).await;
    assert_eq!(missed.expect("it ends").status, JobState::Failed);
    lvm(&["vgrename", "-qq", "vg9", "vg0"]);
    becomes(&daemon, "lvm", 1.0).await;
    the_doctor_sees_what_lvm_sees(&world.home);
}

/// On real LVM: a sound host, a guest's volume group, a full thin pool, and a filter that hides all.
fn the_doctor_sees_what_lvm_sees(home: &Home) {
    let sound = doctor::report(home, &[]);
    for (name, expected) in [
        ("host.user", "root"),
        ("lvm.tools", "LVM version"),
        ("lvm.kernel", "can be used"),
        ("lvm.volume_group", "vg0: "),
        ("lvm.devices", "not scanned"),
        ("lvm.thin_pools", "There are none"),
    ] {
        let (status, message) = doctor::check(&sound, name);
        assert_eq!(status, "ok", "{name}: {message}");
        assert!(message.contains(expected), "{name}: {message}");
    }
    let (_, disk) = doctor::check(&sound, "lvm.disks");
    assert!(disk.contains("/dev/ubdb"), "{disk}");

    let lvcreate = |rest: &str| {
        let arguments: Vec<_> = rest.split(' ').collect();
        lvm(&[&["lvcreate", "-qq", "--yes"], &arguments[..]].concat());
    };
    lvcreate("-L 8M -n guest vg0");
    lvcreate("--type thin-pool -L 8M -n pool vg0");
    lvcreate("-V 8M --thinpool pool -n thin vg0");
    let mut thin = OpenOptions::new()
        .write(true)
        .open(device("thin"))
        .expect("it opens");
    thin.write_all(&[1; 7 << 20]).expect("it is written");
    thin.sync_all().expect("it is written");
    drop(thin);
    let conf = home.path().join("lvmlocal.conf");
    fs::write(&conf, "devices { scan_lvs = 1 }\n").expect("there is room");
    let mounted = command("mount")
        .args(["--bind".as_ref(), conf.as_os_str()])
        .arg("/etc/lvm/lvmlocal.conf")
        .status();
    assert!(mounted.expect("mount starts").success());
    lvm(&["vgcreate", "-qq", "guestvg", "/dev/vg0/guest"]);
    let odd = doctor::report(home, &[]);
    let (status, message) = doctor::check(&odd, "lvm.devices");
    assert_eq!(status, "warn", "{message}");
    assert!(message.contains("group guestvg"), "{message}");
    let (status, message) = doctor::check(&odd, "lvm.thin_pools");
    assert_eq!(status, "warn", "{message}");
    assert!(message.contains("Thin pool pool: 87"), "{message}");
    assert_eq!(doctor::check(&odd, "lvm.volume_group").0, "ok");

    fs::write(&conf, "devices { global_filter = [ \"r|.*|\" ] }\n").expect("there is room");
    let hidden = doctor::report(home, &[]);
    assert_eq!(doctor::check(&hidden, "lvm.volume_group").0, "fail");
    let (status, message) = doctor::check(&hidden, "lvm.devices");
    assert_eq!(status, "fail", "{message}");
    assert!(message.contains("a filter in lvm.conf"), "{message}");
}

fn device(volume: &str) -> PathBuf {
    PathBuf::from(format!("/dev/vg0/{volume}"))
}

fn lvm(arguments: &[&str]) -> String {
    let output = command("lvm").args(arguments).output().expect("lvm starts");
    assert!(output.status.success(), "lvm {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn tags(volume: &str) -> String {
    lvm(&[
        "lvs",
        "--noheadings",
        "-o",
        "lv_tags",
        &format!("vg0/{volume}"),
    ])
}

/// What the last tenant left on the extents that the volumes will get.
fn fill_the_volume_group_with_a_marker() {
    lvm(&[
        "lvcreate", "-qq", "--yes", "-Wn", "-L", "160M", "-n", "marker", "vg0",
    ]);
    let mut file = OpenOptions::new()
        .write(true)
        .open(device("marker"))
        .expect("it opens");
    for _ in 0..160 {
        file.write_all(&[0xa5; 1 << 20]).expect("it is written");
    }
    file.sync_all().expect("it is written");
    drop(file);
    lvm(&["lvremove", "-qq", "--yes", "vg0/marker"]);
}
