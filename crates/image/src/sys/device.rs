//! Block device ioctls, open file locks and leases, for which rustix has no safe form, and a wait
//! for a pipe.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use super::error::{check, offset};

// include/uapi/linux/fs.h; the generic ioctl encoding of x86-64, aarch64, riscv64 and s390x.
const BLKZEROOUT: libc::c_ulong = 0x127f;
const BLKDISCARD: libc::c_ulong = 0x1277;
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;

// include/uapi/asm-generic/fcntl.h; the libc crate does not have it.
const F_SETSIG: libc::c_int = 10;

// The fields of `struct flock` are shorter than the constants that go there.
#[expect(clippy::cast_possible_truncation, reason = "the constant is 1")]
const WRITE_LOCK: libc::c_short = libc::F_WRLCK as libc::c_short;
#[expect(clippy::cast_possible_truncation, reason = "the constant is 0")]
const FROM_START: libc::c_short = libc::SEEK_SET as libc::c_short;

/// Size of a block device in bytes.
pub(crate) fn block_device_size(file: &File) -> io::Result<u64> {
    let mut bytes: u64 = 0;
    // SAFETY: BLKGETSIZE64 writes one u64 to its argument, which points to a live u64; the
    // descriptor is open for the borrow's life.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64 as _, &raw mut bytes) })?;
    Ok(bytes)
}

/// Makes a range of a block device read as zero without freeing its space. If the device has no
/// command for it, the kernel writes the zeros. Both ends must be multiples of the logical block
/// size.
pub(crate) fn block_zero_out(file: &File, range: &Range<u64>) -> io::Result<()> {
    let argument: [u64; 2] = [range.start, range.end - range.start];
    // SAFETY: BLKZEROOUT reads two u64 (start, length) from its argument, which points to a
    // live array of two; the descriptor is open for the borrow's life.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKZEROOUT as _, argument.as_ptr()) })?;
    Ok(())
}

/// Says that a range of a block device is not needed any more. What it reads as afterwards is up to the device.
pub(crate) fn block_discard(file: &File, range: &Range<u64>) -> io::Result<()> {
    let argument: [u64; 2] = [range.start, range.end - range.start];
    // SAFETY: BLKDISCARD reads two u64 (start, length) from its argument, which points to a
    // live array of two; the descriptor is open for the borrow's life.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD as _, argument.as_ptr()) })?;
    Ok(())
}

/// Takes a write lock on a byte range of the file, for the life of this open file. False if another
/// open file (of this or another process) holds a conflicting lock.
pub(crate) fn try_lock_range(file: &File, range: &Range<u64>) -> io::Result<bool> {
    let lock = libc::flock {
        l_type: WRITE_LOCK,
        l_whence: FROM_START,
        l_start: offset(range.start)?,
        l_len: offset(range.end - range.start)?,
        // Required by F_OFD_SETLK.
        l_pid: 0,
    };
    // SAFETY: F_OFD_SETLK reads one flock from its argument, which points to a live one; the
    // descriptor is open for the borrow's life.
    match check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) }) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Takes a write lease on the file and releases it at once: the kernel grants one if no other open
/// file, of this or another process, refers to the same inode. EAGAIN if one does, EINVAL if the
/// file system has no leases, EACCES for another user's file without CAP_LEASE.
pub(crate) fn try_write_lease(file: &File) -> io::Result<()> {
    let descriptor = file.as_raw_fd();
    // A process that opens the file meanwhile waits for the lease, and this process is notified: by
    // a signal that is ignored by default instead of SIGIO, which would terminate it.
    // SAFETY: F_SETSIG takes an int; the descriptor is open for the borrow's life.
    check(unsafe { libc::fcntl(descriptor, F_SETSIG, libc::SIGURG) })?;
    // SAFETY: F_SETLEASE takes an int; the descriptor is open for the borrow's life.
    check(unsafe { libc::fcntl(descriptor, libc::F_SETLEASE, libc::F_WRLCK) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(descriptor, libc::F_SETLEASE, libc::F_UNLCK) })?;
    Ok(())
}

/// Waits until the last descriptor of a pipe's writing end is closed, in any process. False if that
/// has not happened in time.
pub(crate) fn wait_for_hangup(reader: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let mut wanted = libc::pollfd {
        fd: reader.as_raw_fd(),
        events: 0, // POLLHUP is reported without being requested.
        revents: 0,
    };
    // Rounded up, so that the wait is not too short.
    let limit = limit.as_micros().div_ceil(1000);
    let limit = libc::c_int::try_from(limit).unwrap_or(libc::c_int::MAX);
    // SAFETY: poll writes to one pollfd, which the pointer leads to and which lives through the call.
    let told = check(unsafe { libc::poll(&raw mut wanted, 1, limit) })?;
    Ok(told == 1 && wanted.revents & libc::POLLHUP != 0)
}
