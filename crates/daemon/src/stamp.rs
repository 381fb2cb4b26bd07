//! What is recorded of a file to notice later changes.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The granularity of the kernel's file timestamps (a tick at 100 Hz, and a little more): of two changes
/// within it, the second may not be visible.
const TICK: Duration = Duration::from_millis(12);

/// What is recorded of a file to notice later changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    /// Length of the file.
    pub size_bytes: u64,
    /// Its inode.
    pub inode: u64,
    /// Its modification time, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Its change time. None in rows of releases that did not record it, which counts as changed.
    pub ctime_ns: Option<i64>,
}

impl FileStamp {
    /// The stamp of the file now.
    pub fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        let nanoseconds =
            |seconds: i64, rest| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Ok(Self {
            size_bytes: meta.len(),
            inode: meta.ino(),
            mtime_ns: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: Some(nanoseconds(meta.ctime(), meta.ctime_nsec())),
        })
    }

    /// A stamp from which every later change differs. Waits for a moment if the file was changed
    /// just now.
    pub fn settled(file: &File) -> io::Result<Self> {
        let stamp = Self::of(file)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let changed = stamp.ctime_ns.and_then(|ns| u64::try_from(ns).ok());
        if let (Ok(now), Some(changed)) = (now, changed)
            && let Some(age) = now.checked_sub(Duration::from_nanos(changed))
            && let Some(left) = TICK.checked_sub(age)
        {
            std::thread::sleep(left);
        }
        Self::of(file)
    }
}
