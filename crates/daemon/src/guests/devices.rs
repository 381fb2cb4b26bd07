//! The block devices around the volumes: which disks carry them, and what else is on those disks.
//!
//! ```text
//!   sda ---- sda1 ---- (a file system)          leaf
//!     '----- sda2 ---- dm-0 (cache, ext4)       leaf that is shared: this program writes files there
//!                 |--- dm-1 (a guest's volume)  leaf
//!                 '--- dm-2 (pool) --- dm-3     leaf
//! ```
//!
//! A *disk* is where the way down ends (`slaves`, and from a partition to its disk). A *leaf* is where the way up ends
//! (`holders`, and from a disk to its partitions). Every request to a disk comes from one leaf above it, except for what
//! LVM writes itself, which is next to nothing. The kernel counts requests and waits of each of them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{major, minor};
use rustix::io::Errno;

use super::controller::Disks;

/// A block device's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    major: u32,
    minor: u32,
}

/// More levels of devices than anybody stacks: a guard against a cycle.
const MAX_LEVELS: usize = 32;

impl Device {
    /// By its numbers.
    pub fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// By what the system calls return.
    pub fn of_number(number: u64) -> Self {
        Self::new(major(number), minor(number))
    }

    /// The device at this path, or the one that carries the file system with this file.
    pub fn carrying(path: &Path, mounts: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        if metadata.file_type().is_block_device() {
            return Ok(Self::of_number(metadata.rdev()));
        }
        let device = Self::of_number(metadata.dev());
        if device.major != 0 {
            return Ok(device);
        }
        // btrfs and overlays have numbers of their own; the table of mounts has the device's path.
        let table = fs::read_to_string(mounts)?;
        let source = table
            .lines()
            .filter_map(mount)
            .find(|(number, _)| *number == device);
        let (_, source) = source.ok_or(io::ErrorKind::NotFound)?;
        let metadata = fs::metadata(source)?;
        match metadata.file_type().is_block_device() {
            true => Ok(Self::of_number(metadata.rdev())),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl FromStr for Device {
    type Err = io::Error;

    /// `254:0`
    fn from_str(text: &str) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let (major, minor) = text.trim().split_once(':').ok_or_else(invalid)?;
        let number = |text: &str| text.parse().map_err(|_| invalid());
        Ok(Self::new(number(major)?, number(minor)?))
    }
}

/// The number and the source of a line of `/proc/self/mountinfo` (proc(5)).
fn mount(line: &str) -> Option<(Device, PathBuf)> {
    let (before, after) = line.split_once(" - ")?;
    let number = before.split(' ').nth(2)?.parse().ok()?;
    let source = after.split(' ').nth(1)?;
    // Spaces in paths are octal; a device's path has none.
    Some((number, PathBuf::from(source)))
}

/// The devices according to `/sys`.
#[derive(Debug, Clone)]
pub struct Tree {
    sys: PathBuf,
}

impl Tree {
    /// Below this directory, which is `/sys` but in tests.
    pub fn new(sys: PathBuf) -> Self {
        Self { sys }
    }

    /// The disks under these devices.
    pub fn disks(&self, devices: &[Device]) -> io::Result<BTreeSet<Device>> {
        self.ends(devices.iter().copied().collect(), |device| {
            let directory = self.directory(device)?;
            let below = match is_partition(&directory) {
                true => vec![parent(&directory)?],
                false => {
                    let links = links(&directory.join("slaves"))?;
                    let below = links.iter().map(|link| number(link));
                    below.collect::<Result<_, _>>()?
                }
            };
            Ok(Some(below))
        })
    }

    /// What is on these disks. Volumes come and go: one that goes meanwhile is not there.
    pub fn leaves(&self, disks: &BTreeSet<Device>) -> io::Result<BTreeSet<Device>> {
        self.ends(disks.clone(), |device| {
            let above = self.directory(device).and_then(|directory| {
                let mut above = links(&directory.join("holders"))?;
                above.extend(partitions(&directory)?);
                Ok(above)
            });
            let Some(above) = there(above)? else {
                return Ok(None);
            };
            let above = above
                .iter()
                .filter_map(|link| there(number(link)).transpose());
            above.collect::<Result<_, _>>().map(Some)
        })
    }

    /// What has to be known of the disks before anything is measured. An error if the kernel does not count.
    pub fn kind(&self, disks: &BTreeSet<Device>) -> io::Result<Disks> {
        let mut kind = Disks::Flash;
        for disk in disks {
            let queue = self.directory(*disk)?.join("queue");
            let flag = |name: &str| -> io::Result<bool> {
                Ok(fs::read_to_string(queue.join(name))?.trim() != "0")
            };
            if !flag("iostats")? {
                return Err(io::Error::other(
                    "the kernel is told not to count (iostats)",
                ));
            }
            if flag("rotational")? {
                kind = Disks::Rotating;
            }
        }
        Ok(kind)
    }

    /// The name of a device, as in `/dev`.
    pub fn name(&self, device: Device) -> String {
        let directory = self.directory(device).ok();
        let name = directory.as_deref().and_then(Path::file_name);
        name.map_or_else(
            || format!("{}:{}", device.major, device.minor),
            |name| name.to_string_lossy().into_owned(),
        )
    }

    /// Where steps from `from` end, each of which leads to several devices or to none. `None`: the device is gone.
    fn ends(
        &self,
        from: BTreeSet<Device>,
        step: impl Fn(Device) -> io::Result<Option<Vec<Device>>>,
    ) -> io::Result<BTreeSet<Device>> {
        let mut ends = BTreeSet::new();
        let mut level = from;
        for _ in 0..MAX_LEVELS {
            let mut next = BTreeSet::new();
            for device in level {
                let Some(reached) = step(device)? else {
                    continue;
                };
                if reached.is_empty() {
                    ends.insert(device);
                }
                next.extend(reached);
            }
            if next.is_empty() {
                return Ok(ends);
            }
            level = next;
        }
        Err(io::Error::other("the devices are stacked in a circle"))
    }

    fn directory(&self, device: Device) -> io::Result<PathBuf> {
        let Device { major, minor } = device;
        fs::canonicalize(self.sys.join(format!("dev/block/{major}:{minor}")))
    }
}

fn is_partition(directory: &Path) -> bool {
    directory.join("partition").exists()
}

/// The disk of a partition, whose directory is in that of the disk.
fn parent(directory: &Path) -> io::Result<Device> {
    let disk = directory.parent().ok_or(io::ErrorKind::NotFound)?;
    number(disk)
}

fn number(directory: &Path) -> io::Result<Device> {
    fs::read_to_string(directory.join("dev"))?.parse()
}

/// None if it is about a device that is gone, whether its directory or only its driver is.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    let no_device = Some(Errno::NODEV.raw_os_error());
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == no_device => Ok(None),
        found => found.map(Some),
    }
}

/// The links to devices in a directory. Partitions have no `slaves`.
fn links(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn partitions(disk: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(disk)? {
        let directory = entry?.path();
        if is_partition(&directory) {
            found.push(directory);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
