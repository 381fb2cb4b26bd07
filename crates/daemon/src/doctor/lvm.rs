//! LVM: its tools, the volume group and its disks.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::devices::{self, PhysicalVolume};
use super::{Finding, size, thin};
use crate::cmd;
use crate::config::Config;
use crate::error::chain;
use crate::volume::lvm::{Lvm, report};
use crate::volume::{NoLibvirt, Volumes as _};

/// The programs that the daemon starts for logical volumes.
const TOOLS: [&str; 6] = ["lvs", "vgs", "lvcreate", "lvchange", "lvremove", "dmsetup"];

/// Those that it starts beside them for a thin pool.
const TOOLS_OF_POOLS: [&str; 2] = ["lvextend", "lvrename"];

/// Time limit of one of them: nothing here waits for data.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let group = &config.lvm.volume_group;
    let mut findings = vec![
        tools(config.lvm.pool.is_some()).await,
        kernel(Path::new("/dev/mapper/control")),
    ];
    findings.push(volume_group(config).await);
    match physical_volumes().await {
        Ok(seen) => {
            let text = lvmconfig().await.unwrap_or_default();
            let settings = devices::LvmConf::parse(&text);
            findings.extend(devices::judge(&settings, group, &seen));
            let ours = seen.iter().filter(|disk| disk.vg_name == *group);
            let sysfs = Path::new("/sys/dev/block");
            findings.extend(ours.map(|disk| self::disk(sysfs, Path::new(&disk.pv_name))));
        }
        Err(error) => {
            let remedy = "See the checks lvm.tools and lvm.kernel";
            findings.push(Finding::fail("lvm.devices", error, remedy));
        }
    }
    findings.extend(thin::check(config).await);
    findings
}

async fn tools(has_pool: bool) -> Finding {
    const CHECK: &str = "lvm.tools";
    let of_pools = TOOLS_OF_POOLS.into_iter().filter(|_| has_pool);
    let missing: Vec<_> = TOOLS
        .into_iter()
        .chain(of_pools)
        .filter(|tool| cmd::find_tool(tool).is_none())
        .collect();
    if !missing.is_empty() {
        let message = format!("Not installed: {}", missing.join(", "));
        return Finding::fail(CHECK, message, "Run 'apt install lvm2 dmsetup'");
    }
    let said = cmd::run("lvm", ["version"], TIMEOUT).await;
    let version = said.ok().and_then(|output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().next().map(|line| line.trim().to_owned())
    });
    Finding::ok(
        CHECK,
        version
            .unwrap_or_else(|| "All are installed; their version cannot be determined".to_owned()),
    )
}

fn kernel(control: &Path) -> Finding {
    const CHECK: &str = "lvm.kernel";
    let shown = control.display();
    match OpenOptions::new().read(true).write(true).open(control) {
        Ok(_) => Finding::ok(CHECK, format!("{shown} can be used")),
        Err(error) => Finding::fail(
            CHECK,
            format!("{shown} cannot be opened: {error}"),
            "Run as root on a kernel with device-mapper ('modprobe dm_mod'); in a container, give it \
             /dev/mapper",
        ),
    }
}

async fn volume_group(config: &Config) -> Finding {
    const CHECK: &str = "lvm.volume_group";
    let group = &config.lvm.volume_group;
    let backend = match Lvm::new((&config.lvm).into(), Arc::new(NoLibvirt)) {
        Ok(backend) => backend,
        Err(error) => return Finding::fail(CHECK, chain(&error), "Set lvm.volume_group"),
    };
    match backend.probe().await {
        Ok(capacity) => {
            let (free, total) = (size(capacity.free_bytes), size(capacity.total_bytes));
            let place = match &config.lvm.pool {
                Some(pool) => format!("{group}/{}", pool.name),
                None => group.clone(),
            };
            let message = format!("{place}: {free} of {total} are free");
            if capacity.free_bytes < capacity.unit_bytes {
                let remedy = "Remove volumes, or add room (vgextend; lvextend for a thin pool): only volumes that \
                    already exist can be provisioned";
                return Finding::warn(CHECK, message, remedy);
            }
            Finding::ok(CHECK, message)
        }
        Err(error) => {
            let remedy = "Create it with 'pvcreate /dev/DISK' and 'vgcreate', or set \
                lvm.volume_group (LVM_VOLUME_GROUP) to the one to use";
            Finding::fail(CHECK, chain(&error), remedy)
        }
    }
}

/// A disk of the volume group: whether it may be written and has WRITE ZEROES.
fn disk(sysfs: &Path, path: &Path) -> Finding {
    const CHECK: &str = "lvm.disks";
    let shown = path.display();
    let number = match fs::metadata(path) {
        Ok(found) if found.file_type().is_block_device() => found.rdev(),
        Ok(_) => {
            let remedy = "See 'pvs'";
            return Finding::fail(CHECK, format!("{shown} is not a block device"), remedy);
        }
        Err(error) => {
            let message = format!("{shown} cannot be examined: {error}");
            return Finding::fail(
                CHECK,
                message,
                "See 'pvs'; if this is a container, pass the device to it",
            );
        }
    };
    // Not opened exclusively, and nothing is written: this only checks the permission.
    if let Err(error) = OpenOptions::new().read(true).write(true).open(path) {
        return Finding::fail(
            CHECK,
            format!("{shown} cannot be opened for writing: {error}"),
            "Run as root; check whether the disk is write-protected ('blockdev --getro'), and at \
             DeviceAllow in the unit",
        );
    }
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let device = sysfs.join(format!("{major}:{minor}"));
    let limit = ["queue", "../queue"].iter().find_map(|queue| {
        let file = device.join(queue).join("write_zeroes_max_bytes");
        fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()
    });
    match limit {
        Some(0) | None => Finding::warn(
            CHECK,
            format!("{shown} has no WRITE ZEROES: unused parts of volumes are zeroed by writing"),
            "Jobs on large volumes take longer; volumes.stale_data: edges or keep zeroes less, and leaves \
             older data after the end of the image",
        ),
        Some(_) => Finding::ok(
            CHECK,
            format!("{shown} can be written and supports WRITE ZEROES"),
        ),
    }
}

#[derive(Debug, Deserialize)]
struct PvReport {
    report: Vec<PvPart>,
}

#[derive(Debug, Deserialize)]
struct PvPart {
    #[serde(default)]
    pv: Vec<PhysicalVolume>,
}

async fn physical_volumes() -> Result<Vec<PhysicalVolume>, String> {
    let args = reporting("pv_name,vg_name");
    let output = cmd::run("pvs", args, TIMEOUT).await;
    let output = output.map_err(|error| chain(&error))?;
    let report: PvReport = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("LVM's report on disks cannot be parsed: {error}"))?;
    Ok(report.report.into_iter().flat_map(|part| part.pv).collect())
}

async fn lvmconfig() -> Option<String> {
    let args = [
        "--type",
        "full",
        "devices/global_filter",
        "devices/filter",
        "devices/use_devicesfile",
        "devices/scan_lvs",
    ];
    let mut text = String::new();
    // One at a time: a release that does not know one of them prints none of the others.
    for name in &args[2..] {
        let asked = cmd::run("lvmconfig", [args[0], args[1], name], TIMEOUT).await;
        if let Ok(output) = asked {
            text.push_str(&String::from_utf8_lossy(&output.stdout));
        }
    }
    Some(text).filter(|text| !text.is_empty())
}

pub(super) fn reporting(fields: &str) -> Vec<String> {
    [
        "--reportformat",
        "json",
        "--config",
        report::CONFIG,
        "--options",
        fields,
    ]
    .map(str::to_owned)
    .into()
}

#[cfg(test)]
mod tests {
    use lvp_testkit::loopdev::LoopDevice;
    use lvp_testkit::require::require;

    use super::super::Status;
    use super::*;

    #[test]
    fn a_disk_with_and_one_without_write_zeroes_are_distinguished() {
        if !require("loop") {
            return;
        }
        let device = LoopDevice::new(1 << 20).expect("a loop device");
        let real = disk(Path::new("/sys/dev/block"), device.path());
        assert_eq!(real.status, Status::Ok, "{real:?}");
        // The same device, with the properties of another disk.
        let sysfs = tempfile::tempdir().expect("there is room");
        let slow = disk(sysfs.path(), device.path());
        assert_eq!(slow.status, Status::Warn, "{slow:?}");
        assert!(slow.message.contains("WRITE ZEROES"), "{slow:?}");
    }

    #[test]
    fn what_is_not_a_disk_fails() {
        let sysfs = Path::new("/sys/dev/block");
        for path in ["/nonexistent/sda", "/dev/null"] {
            let found = disk(sysfs, Path::new(path));
            assert_eq!(found.status, Status::Fail, "{found:?}");
        }
        let found = kernel(Path::new("/nonexistent/control"));
        assert_eq!(found.status, Status::Fail, "{found:?}");
    }
}
