//! Calls on files and threads for which rustix has a safe form.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{Advice, AtFlags, CWD, FallocateFlags, OFlags, SeekFrom, StatxFlags};
use rustix::io::Errno;

/// The unit in which a block device processes requests (nearly always 512 or 4096 bytes).
pub(crate) fn logical_block_size(file: &File) -> io::Result<u64> {
    Ok(u64::from(rustix::fs::ioctl_blksszget(file)?))
}

/// Frees a range of a file, so that it reads as zero; the file's size does not change. On a block
/// device this is its WRITE ZEROES command, and both ends must be multiples of the logical block
/// size.
pub(crate) fn punch_hole(file: &File, range: &Range<u64>) -> io::Result<()> {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let len = range.end - range.start;
    Ok(rustix::fs::fallocate(file, mode, range.start, len)?)
}

/// Turns O_DIRECT on or off for every user of this open file. EINVAL if the file system does not
/// support direct I/O.
pub(crate) fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    Ok(rustix::fs::fcntl_setfl(file, flags)?)
}

/// The alignment that direct I/O on a regular file needs, `(memory, offset)`; None if the kernel
/// (before 6.1) or the file system does not report it.
pub(crate) fn direct_io_alignment(file: &File) -> Option<(u64, u64)> {
    let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let is_known = stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
    is_known.then(|| {
        (
            u64::from(stat.stx_dio_mem_align),
            u64::from(stat.stx_dio_offset_align),
        )
    })
}

/// Drops clean pages of the file from the page cache; `len` 0 means to the end of the file. A hint.
pub(crate) fn drop_cached(file: &File, start: u64, len: u64) -> io::Result<()> {
    let len = NonZeroU64::new(len);
    Ok(rustix::fs::fadvise(file, start, len, Advice::DontNeed)?)
}

/// Offset of the first data at or after `from`; None if only a hole is left. Moves the file
/// position, on which this crate never relies.
pub(crate) fn seek_data(file: &File, from: u64) -> io::Result<Option<u64>> {
    seek(file, SeekFrom::Data(from))
}

/// Offset of the first hole at or after `from`; the file's end counts as one.
pub(crate) fn seek_hole(file: &File, from: u64) -> io::Result<Option<u64>> {
    seek(file, SeekFrom::Hole(from))
}

fn seek(file: &File, from: SeekFrom) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, from) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives an unnamed file (O_TMPFILE) a name. EEXIST when the name is taken.
pub(crate) fn link_unnamed(file: &File, path: &Path) -> io::Result<()> {
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = AtFlags::SYMLINK_FOLLOW;
    Ok(rustix::fs::linkat(CWD, from, CWD, path, flags)?)
}

/// Lowers the calling thread's priority by this many steps, so that the process's other threads come
/// first if there are more of them than cores. On Linux a nice value belongs to a thread: nice(2),
/// "C library/kernel differences".
pub(crate) fn lower_priority(steps: i32) {
    // Nothing depends on it: a thread with the usual priority does its work as well.
    rustix::process::nice(steps).ok();
}

/// Gives the calling thread a priority that is lower than that of the process that started this one by this many steps,
/// whichever of its threads did: a nice value is inherited from the thread.
pub(crate) fn set_priority_below_parent(steps: i32) {
    let parent = rustix::process::getppid();
    let priority = rustix::process::getpriority_process(parent);
    // As above.
    priority
        .and_then(|priority| rustix::process::setpriority_process(None, priority + steps))
        .ok();
}
