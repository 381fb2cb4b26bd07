//! What others do on the disks: their requests, how long these wait, and how long the guests' tasks stand still.
//!
//! # What is ours, and what is the others'
//!
//! Every leaf above the disks ([`devices`](super::devices)) is of one of three kinds:
//!
//! - A volume that a job is writing is ours. It is left out, and so there is nothing to subtract: neither the number of our
//!   requests, which the kernel splits and merges on their way to the disk, nor their wait.
//! - A leaf that this program writes no files on is the others'. With LVM that is nearly all there is: each guest's volume
//!   is a device of its own, and what the kernel counts there is what the guest sees, before anything is split or merged.
//! - A file system with our files (the cache, or the volumes of `dir`) is shared. Bytes are exact, however requests are split
//!   and merged, so that it is decided by bytes whether others read there: sectors read less what this process has read
//!   (`/proc/self/io`). Waits are not separated: our requests and theirs wait in the same queue, so that the mean wait of
//!   all is what theirs is taken for. Ours are larger and take longer themselves, which errs to the guests' side, by less the
//!   less we are allowed to move. Whether others *write* there cannot be told from bytes, as the file system's own
//!   writes (its journal) are caused by ours. There, only the guests' control group tells (`io.stat`).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::devices::Device;

/// With fewer requests in an interval there are no others, and their mean wait would be an accident.
const LEAST_REQUESTS: u64 = 4;

/// Fewer bytes than this, read by others from a shared file system, are none: one request of the smallest size each.
const LEAST_BYTES: u64 = LEAST_REQUESTS * 4096;

const SECTOR_BYTES: u64 = 512;

/// Longest line of the kernel's that is read.
const MAX_FILE_BYTES: u64 = 4 << 20; // 4 MiB: about thirty thousand devices

/// Where the kernel tells of all this.
#[derive(Debug, Clone)]
pub struct Files {
    /// `/proc/diskstats`
    pub diskstats: PathBuf,
    /// `/proc/self/io`
    pub own: PathBuf,
    /// The directory of the guests' control group, if there is one and it is not ours.
    pub slice: Option<PathBuf>,
}

impl Files {
    /// Those of this host.
    pub fn of_host() -> Self {
        let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        // In a version 2 hierarchy there is one line, `0::/system.slice/...`.
        let is_guest = group.lines().any(|line| line.contains(":/machine.slice"));
        // The second is where systemd mounts version 2 beside version 1.
        let slices = [
            "/sys/fs/cgroup/machine.slice",
            "/sys/fs/cgroup/unified/machine.slice",
        ];
        let slices = slices.into_iter().map(PathBuf::from);
        Self {
            diskstats: "/proc/diskstats".into(),
            own: "/proc/self/io".into(),
            slice: (slices.into_iter())
                .find(|slice| slice.join("io.pressure").exists())
                .filter(|_| !is_guest),
        }
    }
}

/// One kind of request to one device, since the system's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Requests {
    count: u64,
    bytes: u64,
    wait_ms: u64,
}

impl Requests {
    fn since(self, before: Self) -> Self {
        Self {
            count: self.count.saturating_sub(before.count),
            bytes: self.bytes.saturating_sub(before.bytes),
            wait_ms: self.wait_ms.saturating_sub(before.wait_ms),
        }
    }
}

/// What the kernel has counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counted {
    reads: BTreeMap<Device, Requests>,
    writes: BTreeMap<Device, Requests>,
    /// Bytes that this process has read from disks.
    own_read_bytes: u64,
    /// Writes of the guests' control group, by disk.
    guest_writes: BTreeMap<Device, u64>,
    /// How long tasks of the guests have stood still.
    stalled: Option<Duration>,
}

/// What is to be counted, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leaves {
    /// All of them.
    pub all: BTreeSet<Device>,
    /// Those with our files.
    pub shared: BTreeSet<Device>,
    /// The disks, by which the control group counts.
    pub disks: BTreeSet<Device>,
}

/// What others did in an interval.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Others {
    /// The mean wait of their requests; None if there were next to none.
    pub wait: Option<Duration>,
    /// The part of the interval in which some task of the guests stood still.
    pub pressure: Option<f64>,
}

impl Counted {
    /// Reads everything that is to be counted.
    pub fn read(files: &Files, leaves: &Leaves) -> io::Result<Self> {
        let mut counted = Self::default();
        let text = crate::files::read(&files.diskstats, MAX_FILE_BYTES)?;
        for line in String::from_utf8_lossy(&text).lines() {
            if let Some((device, reads, writes)) = disk_line(line)
                && leaves.all.contains(&device)
            {
                counted.reads.insert(device, reads);
                counted.writes.insert(device, writes);
            }
        }
        if !leaves.shared.is_empty() {
            let own = fs::read_to_string(&files.own)?;
            counted.own_read_bytes = field(&own, "read_bytes:").unwrap_or_default();
        }
        if let Some(slice) = &files.slice {
            // The group comes and goes with the guests.
            let pressure = fs::read_to_string(slice.join("io.pressure")).unwrap_or_default();
            counted.stalled = stalled(&pressure);
            let stat = fs::read_to_string(slice.join("io.stat")).unwrap_or_default();
            counted.guest_writes = stat.lines().filter_map(group_line).collect();
        }
        Ok(counted)
    }

    /// What others did since `before`; `ours` are the volumes that jobs have written in between.
    pub fn others(
        &self,
        before: &Self,
        leaves: &Leaves,
        ours: &HashSet<Device>,
        passed: Duration,
    ) -> Others {
        let mut all = Requests::default();
        let mut add = |requests: Requests| {
            all.count += requests.count;
            all.wait_ms += requests.wait_ms;
        };
        let own_read_bytes = self.own_read_bytes.saturating_sub(before.own_read_bytes);
        let has_guest_writes = self.has_guest_writes(before, leaves);
        for leaf in leaves.all.difference(&leaves.shared) {
            if ours.contains(leaf) {
                continue;
            }
            // One that was not there before begins to be counted now.
            if let Some(reads) = since(&self.reads, &before.reads, *leaf) {
                add(reads);
            }
            if let Some(writes) = since(&self.writes, &before.writes, *leaf) {
                add(writes);
            }
        }
        for leaf in &leaves.shared {
            if let Some(reads) = since(&self.reads, &before.reads, *leaf)
                && reads.bytes.saturating_sub(own_read_bytes) >= LEAST_BYTES
            {
                add(reads);
            }
            if has_guest_writes && let Some(writes) = since(&self.writes, &before.writes, *leaf) {
                add(writes);
            }
        }
        Others {
            wait: (all.count >= LEAST_REQUESTS).then(|| mean(all)),
            pressure: pressure(self.stalled, before.stalled, passed),
        }
    }

    fn has_guest_writes(&self, before: &Self, leaves: &Leaves) -> bool {
        let places = leaves.disks.union(&leaves.shared);
        let count = |counted: &Self| -> u64 {
            let found = places
                .clone()
                .filter_map(|disk| counted.guest_writes.get(disk));
            found.sum()
        };
        count(self).saturating_sub(count(before)) >= LEAST_REQUESTS
    }
}

fn since(
    now: &BTreeMap<Device, Requests>,
    before: &BTreeMap<Device, Requests>,
    device: Device,
) -> Option<Requests> {
    Some(now.get(&device)?.since(*before.get(&device)?))
}

fn mean(requests: Requests) -> Duration {
    let nanos = u128::from(requests.wait_ms) * 1_000_000 / u128::from(requests.count.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn pressure(now: Option<Duration>, before: Option<Duration>, passed: Duration) -> Option<f64> {
    let stalled = now?.saturating_sub(before?);
    let passed = passed.as_secs_f64();
    (passed > 0.0).then(|| (stalled.as_secs_f64() / passed).min(1.0))
}

/// A line of `/proc/diskstats` (the kernel's Documentation/admin-guide/iostats.rst).
fn disk_line(line: &str) -> Option<(Device, Requests, Requests)> {
    let mut words = line.split_ascii_whitespace();
    let device = Device::new(words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let _name = words.next()?;
    let mut requests = || -> Option<Requests> {
        let mut number = || words.next()?.parse::<u64>().ok();
        let (count, _merged, sectors, wait_ms) = (number()?, number()?, number()?, number()?);
        Some(Requests {
            count,
            bytes: sectors.saturating_mul(SECTOR_BYTES),
            wait_ms,
        })
    };
    Some((device, requests()?, requests()?))
}

/// The writes of a line of `io.stat`: `8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 ...`
fn group_line(line: &str) -> Option<(Device, u64)> {
    let (device, rest) = line.split_once(' ')?;
    let writes = rest
        .split(' ')
        .find_map(|word| word.strip_prefix("wios="))?;
    Some((device.parse().ok()?, writes.parse().ok()?))
}

/// How long some task stood still, of `io.pressure`: `some avg10=0.00 avg60=0.00 avg300=0.00 total=6240209`
fn stalled(text: &str) -> Option<Duration> {
    let some = text.lines().find(|line| line.starts_with("some "))?;
    let total = some
        .split(' ')
        .find_map(|word| word.strip_prefix("total="))?;
    Some(Duration::from_micros(total.parse().ok()?))
}

fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests;
