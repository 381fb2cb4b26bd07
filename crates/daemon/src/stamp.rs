//! What is recorded of a file to notice later changes.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The granularity of the kernel's file timestamps (a tick at 100 Hz, and a little more): of two changes
/// within it, the second may not be visible.
const TICK: Duration = Duration::from_millis(12);

/// The shortest tick of a kernel (1000 Hz).
const SHORTEST_TICK_NS: i64 = 1_000_000;

/// Changes by which it is tried whether times are fine.
const FINE_CHANGES: usize = 4;

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

/// How a file system tells two changes of a file apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// By the kernel's tick.
    Coarse,
    /// A change after a look at the file's times always has another time (multigrain timestamps, since Linux 6.13, on
    /// the file systems that take part).
    Fine,
}

impl Times {
    /// Tries it with an empty file that nobody else has. What is not certain is coarse.
    pub fn found_with(file: &File) -> Self {
        Self::try_with(file).unwrap_or(Self::Coarse)
    }

    /// Changes that are seen as different in less time than any kernel's tick takes.
    fn try_with(file: &File) -> io::Result<Self> {
        let mut times = [0; FINE_CHANGES];
        for time in &mut times {
            file.write_all_at(b"x", 0)?;
            *time = FileStamp::of(file)?.ctime_ns.unwrap_or_default();
        }
        let are_different = times.is_sorted_by(|before, after| before < after);
        let took = times[FINE_CHANGES - 1].saturating_sub(times[0]);
        Ok(match are_different && took < SHORTEST_TICK_NS {
            true => Self::Fine,
            false => Self::Coarse,
        })
    }
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
    /// just now and times are coarse.
    pub fn settled(file: &File, times: Times) -> io::Result<Self> {
        let stamp = Self::of(file)?;
        if times == Times::Fine {
            return Ok(stamp);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_just_after_a_settled_stamp_is_seen_whatever_times_are_like() {
        let found = Times::found_with(&tempfile::tempfile().expect("there is room"));
        for times in [Times::Coarse, found] {
            for _ in 0..20 {
                let file = tempfile::tempfile().expect("there is room");
                file.write_all_at(b"image", 0).expect("it is written");
                let stamp = FileStamp::settled(&file, times).expect("it is looked at");
                file.write_all_at(b"other", 0).expect("it is written");
                let changed = FileStamp::of(&file).expect("it is looked at");
                assert_ne!(changed, stamp, "{times:?}");
            }
        }
    }

    #[test]
    fn times_of_a_file_that_cannot_be_written_are_coarse() {
        let file = File::open("/proc/self/exe").expect("it is there");
        assert_eq!(Times::found_with(&file), Times::Coarse);
    }
}
