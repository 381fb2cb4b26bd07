//! Who else has a file open: a virtual machine, a loop device, swap, any process.
//!
//! QEMU's locks show only QEMU, and only if locking is enabled. The kernel counts every open file: it grants a
//! write lease (`fcntl(2)`, `F_SETLEASE`) only on a file that nobody else has open for reading or writing, in
//! any namespace, including loop devices and swap. On file systems without leases, and for files of other
//! owners without CAP_LEASE, `/proc` and `/sys` are searched: this finds the processes, loop devices and swap
//! of this host, but not those of other hosts.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use lvp_image::device::is_sole_opener;

/// How long to wait for somebody who only opens the file briefly, as libvirt does when it refreshes a pool.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// `f_type` of NFS (`statfs(2)`), where leases depend on what the server has delegated.
const NFS: i64 = 0x6969;

/// Another user of `file`, as an operator would name it. Blocks for a moment.
pub(super) fn user_of(file: &File, path: &Path) -> io::Result<Option<String>> {
    let metadata = file.metadata()?;
    let is_local = rustix::fs::fstatfs(file)?.f_type != NFS;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let is_sole = if is_local {
            is_sole_opener(file)?
        } else {
            None
        };
        let user = match is_sole {
            Some(true) => return Ok(None),
            Some(false) => {
                Some(found(&metadata, path).unwrap_or_else(|| "another process".to_owned()))
            }
            None => found(&metadata, path),
        };
        if user.is_none() || Instant::now() >= deadline {
            return Ok(user);
        }
        std::thread::sleep(PAUSE);
    }
}

fn found(metadata: &Metadata, path: &Path) -> Option<String> {
    loop_device(metadata)
        .or_else(|| swap(metadata, path))
        .or_else(|| process(metadata))
}

fn is_same(metadata: &Metadata, path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|other| (other.dev(), other.ino()) == (metadata.dev(), metadata.ino()))
}

fn loop_device(metadata: &Metadata) -> Option<String> {
    let entries = fs::read_dir("/sys/block").ok()?;
    entries.flatten().find_map(|entry| {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        let device = entry.file_name();
        is_same(metadata, Path::new(backing.trim_end()))
            .then(|| format!("the loop device {}", device.to_string_lossy()))
    })
}

fn swap(metadata: &Metadata, path: &Path) -> Option<String> {
    let swaps = fs::read_to_string("/proc/swaps").ok()?;
    let mut areas = swaps.lines().skip(1);
    areas
        .any(|line| {
            let area = line.split_whitespace().next().unwrap_or_default();
            Path::new(area) == path || is_same(metadata, Path::new(area))
        })
        .then(|| "the kernel, as swap".to_owned())
}

fn process(metadata: &Metadata) -> Option<String> {
    let own = std::process::id();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // The process has ended meanwhile, or may not be inspected.
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let mut descriptors = descriptors.flatten();
        if pid != own && descriptors.any(|descriptor| is_same(metadata, &descriptor.path())) {
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!("process {pid} ({})", command.trim_end()));
        }
    }
    None
}
