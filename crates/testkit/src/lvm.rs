//! LVM's own view of the volume group `vg0`, inside user-mode Linux ([`crate::uml`]).

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::require::command;

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its size.
    pub size_bytes: u64,
}

impl Volume {
    /// Whether it has this tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|has| has == tag)
    }

    /// The value of a tag `NAME=VALUE`.
    pub fn tag_value(&self, name: &str) -> Option<&str> {
        let mut tags = self.tags.iter();
        tags.find_map(|tag| tag.strip_prefix(name)?.strip_prefix('='))
    }
}

/// Runs a tool with arguments that have no spaces. Returns its output.
///
/// # Panics
///
/// When it fails.
pub fn tool(line: &str) -> String {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or_default();
    let output = command(name)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{line}: {error}"));
    let (status, stderr) = (output.status, String::from_utf8_lossy(&output.stderr));
    assert!(status.success(), "{line}: {status}: {stderr}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The device of a volume.
pub fn device(volume: &str) -> PathBuf {
    Path::new("/dev/vg0").join(volume)
}

/// All volumes, the hidden ones too.
///
/// # Panics
///
/// When LVM cannot be asked.
pub fn volumes() -> Vec<Volume> {
    let report = "lvs --all --reportformat json --units b --nosuffix --options";
    let json = tool(&format!("{report} lv_name,lv_tags,lv_size vg0"));
    let report: Value =
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
    let rows = report["report"][0]["lv"].as_array();
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    rows.into_iter()
        .flatten()
        .map(|row| Volume {
            // Hidden ones are in brackets.
            name: text(row, "lv_name").trim_matches(['[', ']']).to_owned(),
            tags: text(row, "lv_tags").split(',').map(str::to_owned).collect(),
            size_bytes: text(row, "lv_size").parse().unwrap_or_default(),
        })
        .collect()
}

/// One volume, if there is one of that name.
pub fn volume(name: &str) -> Option<Volume> {
    volumes().into_iter().find(|volume| volume.name == name)
}

/// Checks that the metadata is valid, and that every device of the group belongs to a volume.
///
/// # Panics
///
/// When it is not so.
pub fn check() {
    tool("vgck vg0");
    let devices = tool("dmsetup ls");
    let devices = devices.lines().filter_map(|line| line.split('\t').next());
    let mut active: Vec<_> = devices.filter(|name| name.starts_with("vg0-")).collect();
    active.sort_unstable();
    let names = volumes().into_iter();
    let mut known: Vec<_> = names
        // The device's name has every hyphen twice.
        .map(|volume| format!("vg0-{}", volume.name.replace('-', "--")))
        .collect();
    known.sort_unstable();
    let unknown: Vec<_> = active
        .iter()
        // A pool has a layer below the volume of its name.
        .map(|name| name.strip_suffix("-tpool").unwrap_or(name))
        .filter(|name| !known.iter().any(|k| k == name))
        .collect();
    assert!(unknown.is_empty(), "devices without volumes: {unknown:?}");
}

/// Leaves a marker on the first extents of the group, as a removed tenant would.
///
/// # Panics
///
/// When there is no room for it.
pub fn fill_with_marker(mib: usize) {
    tool(&format!(
        "lvcreate -qq --yes -Wn --size {mib}M --name marker vg0"
    ));
    let mut file = OpenOptions::new()
        .write(true)
        .open(device("marker"))
        .unwrap_or_else(|error| panic!("the marker: {error}"));
    for _ in 0..mib {
        file.write_all(&[0xa5; 1 << 20])
            .unwrap_or_else(|error| panic!("the marker: {error}"));
    }
    file.sync_all()
        .unwrap_or_else(|error| panic!("the marker: {error}"));
    drop(file);
    tool("lvremove -qq --yes vg0/marker");
}

/// The device that the group is on after [`make_group`].
pub const DISK: &str = "/dev/mapper/lvp-disk";

const SECTORS_PER_MIB: u64 = 2048;

/// One line of a device-mapper table: this part of `/dev/ubdb` at this place of the device, by a
/// target with these arguments in front of and behind device and offset.
pub fn segment(at_mib: u64, mib: u64, target: &str, from_mib: u64, arguments: &str) -> String {
    let [at, len, from] = [at_mib, mib, from_mib].map(|mib| mib * SECTORS_PER_MIB);
    format!("{at} {len} {target} /dev/ubdb {from} {arguments}\n")
}

/// One line of a table whose part of the device fails to be read and written.
pub fn broken(at_mib: u64, mib: u64) -> String {
    let [at, len] = [at_mib, mib].map(|mib| mib * SECTORS_PER_MIB);
    format!("{at} {len} error\n")
}

/// A table that is this part of `/dev/ubdb`.
pub fn slice(from_mib: u64, mib: u64) -> String {
    segment(0, mib, "linear", from_mib, "")
}

/// Creates a device-mapper device, or replaces the table of an existing one.
///
/// # Panics
///
/// When device-mapper refuses.
pub fn map(name: &str, table: &str) {
    let exists = Path::new("/dev/mapper").join(name).exists();
    if exists {
        tool(&format!("dmsetup suspend --noflush --nolockfs {name}"));
    }
    let mut dmsetup = command("dmsetup")
        .args([if exists { "load" } else { "create" }, name])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("dmsetup: {error}"));
    if let Some(mut input) = dmsetup.stdin.take() {
        input
            .write_all(table.as_bytes())
            .unwrap_or_else(|error| panic!("dmsetup: {error}"));
    }
    let status = dmsetup.wait();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{status:?}: {table}"
    );
    if exists {
        tool(&format!("dmsetup resume {name}"));
    }
}

/// Removes the group from its disk, with everything in it.
///
/// # Panics
///
/// When LVM refuses.
pub fn remove_group() {
    tool("vgremove -qq --yes --force vg0");
    if Path::new(DISK).exists() {
        tool("dmsetup remove --retry lvp-disk");
    } else {
        tool("pvremove -qq /dev/ubdb");
    }
}

/// Makes the group on a device of this table, called [`DISK`].
///
/// # Panics
///
/// When LVM refuses.
pub fn make_group(table: &str) {
    map("lvp-disk", table);
    tool(&format!("pvcreate -qq --yes {DISK}"));
    tool(&format!("vgcreate -qq vg0 {DISK}"));
}
