//! What `doctor` says of LVM.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use lvp_testkit::lvm::{self, device, tool};
use lvp_testkit::require::command;

use crate::doctor;
use crate::support::World;

/// A sound host, a guest's volume group, a full thin pool, and a filter that hides all.
pub(crate) async fn the_doctor_sees_what_lvm_sees() {
    lvm::remove_group();
    tool("pvcreate -qq --yes /dev/ubdb");
    tool("vgcreate -qq vg0 /dev/ubdb");
    let world = World::new()
        .await
        .with("VOLUME_BACKEND", "lvm")
        .with("LVM_VOLUME_GROUP", "vg0");
    let daemon = world.start();
    let home = &world.home;
    let sound = doctor::report(home, &[]);
    for (name, expected) in [
        ("host.user", "root"),
        ("lvm.tools", "LVM version"),
        ("lvm.kernel", "can be used"),
        ("lvm.volume_group", "vg0: "),
        ("lvm.devices", "not scanned"),
        ("lvm.thin_pools", "There are none"),
        (
            "volumes.adopted",
            "Every volume has this program's tags or record",
        ),
    ] {
        let (status, message) = doctor::check(&sound, name);
        assert_eq!(status, "ok", "{name}: {message}");
        assert!(message.contains(expected), "{name}: {message}");
    }
    let (_, disk) = doctor::check(&sound, "lvm.disks");
    assert!(disk.contains("/dev/ubdb"), "{disk}");

    let lvcreate = |rest: &str| tool(&format!("lvcreate -qq --yes {rest}"));
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
    tool("vgcreate -qq guestvg /dev/vg0/guest");
    let odd = doctor::report(home, &[]);
    let (status, message) = doctor::check(&odd, "lvm.devices");
    assert_eq!(status, "warn", "{message}");
    assert!(message.contains("group guestvg"), "{message}");
    let (status, message) = doctor::check(&odd, "volumes.adopted");
    assert_eq!(status, "ok", "{message}");
    assert!(message.contains("are refused: guest, thin"), "{message}");
    let all = doctor::report(home, &["--set", "lvm.adopt_untagged=true"]);
    let (status, message) = doctor::check(&all, "volumes.adopted");
    assert_eq!(status, "warn", "{message}");
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
    drop(daemon);
}
