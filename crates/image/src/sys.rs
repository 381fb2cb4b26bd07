//! The system calls that the standard library lacks: the only file with `unsafe` code.
//!
//! Each function is a thin, safe wrapper around one call. Policy (when to use which, what a
//! failure means) is in the callers.
#![expect(
    unsafe_code,
    reason = "ioctls, fallocate and page-aligned memory have no safe form in the standard library"
)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::time::Duration;

use bytes::Bytes;

// include/uapi/linux/fs.h; the generic ioctl encoding of x86-64, aarch64, riscv64 and s390x.
const BLKSSZGET: libc::c_ulong = 0x1268;
const BLKPBSZGET: libc::c_ulong = 0x127b;
const BLKZEROOUT: libc::c_ulong = 0x127f;
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;

/// The smallest page of the supported machines; what `mmap` hands out is aligned to it at least.
pub(crate) const PAGE_BYTES: usize = 4096;

// The fields of `struct flock` are shorter than the constants that go there.
#[expect(clippy::cast_possible_truncation, reason = "the constant is 1")]
const WRITE_LOCK: libc::c_short = libc::F_WRLCK as libc::c_short;
#[expect(clippy::cast_possible_truncation, reason = "the constant is 0")]
const FROM_START: libc::c_short = libc::SEEK_SET as libc::c_short;

/// Turns the C convention "-1 and errno" into a result.
fn check(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(returned)
    }
}

fn offset(value: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(value).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Size of a block device in bytes.
pub(crate) fn block_device_size(file: &File) -> io::Result<u64> {
    let mut bytes: u64 = 0;
    // SAFETY: BLKGETSIZE64 writes one u64 to its argument, which points to a live u64; the
    // descriptor is open for the borrow's life.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64 as _, &raw mut bytes) })?;
    Ok(bytes)
}

/// The unit in which a block device takes requests (512 or 4096 bytes, nearly always).
pub(crate) fn logical_block_size(file: &File) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes one int to its argument, which points to a live int; the
    // descriptor is open for the borrow's life.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKSSZGET as _, &raw mut bytes) })?;
    u64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The unit in which a block device stores data; smaller writes cost it a read.
pub(crate) fn physical_block_size(file: &File) -> io::Result<u64> {
    let mut bytes: libc::c_uint = 0;
    // SAFETY: BLKPBSZGET writes one unsigned int to its argument, which points to a live one;
    // the descriptor is open for the borrow's life.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKPBSZGET as _, &raw mut bytes) })?;
    Ok(u64::from(bytes))
}

/// Makes a range of a block device read as zero without freeing its space; where the device has no
/// command for it, the kernel writes the zeros. Both ends must be multiples of the logical block
/// size.
pub(crate) fn block_zero_out(file: &File, range: &Range<u64>) -> io::Result<()> {
    let argument: [u64; 2] = [range.start, range.end - range.start];
    // SAFETY: BLKZEROOUT reads two u64 (start, length) from its argument, which points to a
    // live array of two; the descriptor is open for the borrow's life.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKZEROOUT as _, argument.as_ptr()) })?;
    Ok(())
}

/// Frees a range of a file, so that it reads as zero; its size stays. On a block device this is
/// its WRITE ZEROES command, and both ends must be multiples of the logical block size.
pub(crate) fn punch_hole(file: &File, range: &Range<u64>) -> io::Result<()> {
    let (start, len) = (offset(range.start)?, offset(range.end - range.start)?);
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no memory is passed; the descriptor is open for the borrow's life.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, start, len) })?;
    Ok(())
}

/// Turns O_DIRECT on or off for every user of this open file. EINVAL where the file system has
/// no direct I/O.
pub(crate) fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    // SAFETY: F_GETFL takes no argument; the descriptor is open for the borrow's life.
    let flags = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })?;
    let wanted = if direct {
        flags | libc::O_DIRECT
    } else {
        flags & !libc::O_DIRECT
    };
    // SAFETY: F_SETFL takes an int; the descriptor is open for the borrow's life.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, wanted) })?;
    Ok(())
}

/// What direct I/O on a regular file must be aligned to, `(memory, offset)`; None where the
/// kernel (before 6.1) or the file system does not tell.
pub(crate) fn direct_io_alignment(file: &File) -> Option<(u64, u64)> {
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is a NUL-terminated constant, AT_EMPTY_PATH makes the call take the
    // descriptor (open for the borrow's life), and the buffer has room for one statx.
    check(unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            stat.as_mut_ptr(),
        )
    })
    .ok()?;
    // SAFETY: all-zero bytes are a valid statx, and the call above only filled it further.
    let stat = unsafe { stat.assume_init() };
    let known = stat.stx_mask & libc::STATX_DIOALIGN != 0;
    known.then(|| {
        (
            u64::from(stat.stx_dio_mem_align),
            u64::from(stat.stx_dio_offset_align),
        )
    })
}

/// Drops clean pages of the file from the page cache; `len` 0 means up to its end. A hint.
pub(crate) fn drop_cached(file: &File, start: u64, len: u64) -> io::Result<()> {
    let (start, len) = (offset(start)?, offset(len)?);
    let advice = libc::POSIX_FADV_DONTNEED;
    // SAFETY: no memory is passed; the descriptor is open for the borrow's life.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), start, len, advice) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Whether every page of the range is in the page cache, so that reading it costs no I/O.
pub(crate) fn is_cached(file: &File, range: &Range<u64>) -> io::Result<bool> {
    let page = PAGE_BYTES as u64;
    let start = range.start - range.start % page;
    let len = usize::try_from(range.end - start)
        .ok()
        .and_then(NonZeroUsize::new)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let mapping = Mapping::of_file(file.as_raw_fd(), start, len)?;
    let mut pages = vec![0_u8; len.get().div_ceil(PAGE_BYTES)];
    // SAFETY: the mapping covers `len` bytes from its page-aligned start, and `pages` has one
    // byte per page of it.
    check(unsafe { libc::mincore(mapping.start.as_ptr(), len.get(), pages.as_mut_ptr()) })?;
    Ok(pages.iter().all(|page| page & 1 != 0))
}

/// Offset of the first data at or after `from`; None when only a hole is left. Moves the file
/// position, which this crate never relies on.
pub(crate) fn seek_data(file: &File, from: u64) -> io::Result<Option<u64>> {
    seek(file, from, libc::SEEK_DATA)
}

/// Offset of the first hole at or after `from`; the file's end counts as one.
pub(crate) fn seek_hole(file: &File, from: u64) -> io::Result<Option<u64>> {
    seek(file, from, libc::SEEK_HOLE)
}

fn seek(file: &File, from: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    // SAFETY: no memory is passed; the descriptor is open for the borrow's life.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset(from)?, whence) };
    match u64::try_from(found) {
        Ok(found) => Ok(Some(found)),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

/// Takes a write lock on a byte range of the file, for the life of this open file. False when
/// another open file (of this or another process) holds a conflicting lock.
pub(crate) fn try_lock_range(file: &File, range: &Range<u64>) -> io::Result<bool> {
    // SAFETY: all-zero bytes are a valid flock; F_OFD_SETLK demands l_pid to be 0.
    let mut lock: libc::flock = unsafe { MaybeUninit::zeroed().assume_init() };
    lock.l_type = WRITE_LOCK;
    lock.l_whence = FROM_START;
    lock.l_start = offset(range.start)?;
    lock.l_len = offset(range.end - range.start)?;
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

/// Waits until the last descriptor of a pipe's writing end is closed, in any process. False when that
/// has not happened in time.
pub(crate) fn wait_for_hangup(reader: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let mut wanted = libc::pollfd {
        fd: reader.as_raw_fd(),
        events: 0, // POLLHUP is told without being asked for.
        revents: 0,
    };
    // Rounded up: not a moment too early.
    let limit = limit.as_micros().div_ceil(1000);
    let limit = libc::c_int::try_from(limit).unwrap_or(libc::c_int::MAX);
    // SAFETY: poll writes to one pollfd, which the pointer leads to and which lives through the call.
    let told = check(unsafe { libc::poll(&raw mut wanted, 1, limit) })?;
    Ok(told == 1 && wanted.revents & libc::POLLHUP != 0)
}

/// Gives an unnamed file (O_TMPFILE) a name. EEXIST when the name is taken.
pub(crate) fn link_unnamed(file: &File, path: &Path) -> io::Result<()> {
    let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let to = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both paths are NUL-terminated strings that live through the call; the descriptor
    // named in the first is open for the borrow's life.
    check(unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    })?;
    Ok(())
}

/// A memory mapping, unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    start: NonNull<libc::c_void>,
    len: NonZeroUsize,
}

impl Mapping {
    fn anonymous(len: NonZeroUsize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        Self::new(len, protection, flags, -1, 0)
    }

    /// Maps a part of a file without the right to read it: only `mincore` may look at it.
    fn of_file(fd: RawFd, start: u64, len: NonZeroUsize) -> io::Result<Self> {
        Self::new(len, libc::PROT_NONE, libc::MAP_SHARED, fd, offset(start)?)
    }

    fn new(
        len: NonZeroUsize,
        protection: libc::c_int,
        flags: libc::c_int,
        fd: RawFd,
        start: libc::off_t,
    ) -> io::Result<Self> {
        // SAFETY: the kernel chooses a free address, so no existing memory is touched.
        let mapped =
            unsafe { libc::mmap(ptr::null_mut(), len.get(), protection, flags, fd, start) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(mapped).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly this range was mapped by `new`, and whoever borrowed from it did so
        // through a borrow of `self`, which has ended. The call cannot fail for such a range.
        unsafe { libc::munmap(self.start.as_ptr(), self.len.get()) };
    }
}

/// Lets the calling thread stand back behind the others of its process when there are more of them
/// than cores. On Linux a nice value belongs to a thread: nice(2), "C library/kernel differences".
pub(crate) fn stand_back(steps: libc::c_int) {
    // SAFETY: a number goes in and a number comes out. That -1 may be an error or a priority does
    // not matter: nothing depends on it.
    unsafe { libc::nice(steps) };
}

/// A huge page of x86-64, and of aarch64 with pages of 4 KiB. Elsewhere huge pages are larger, and
/// memory of this size gets none.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20; // 2 MiB

/// Zeroed, page-aligned memory of a fixed length. Pages that are never touched cost nothing.
#[derive(Debug)]
pub(crate) struct AlignedBuf {
    mapping: Mapping,
    /// Offset of the first byte in the mapping.
    start: usize,
    len: usize,
}

// SAFETY: the mapping is private, anonymous memory owned by this value alone.
unsafe impl Send for AlignedBuf {}
// SAFETY: a shared reference gives shared access to the bytes only.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let mapping = Mapping::anonymous(not_empty(len)?)?;
        let start = 0;
        Ok(Self {
            mapping,
            start,
            len,
        })
    }

    /// The same, with the first `huge_bytes` in huge pages where the kernel has some to spare: a
    /// direct write pins one of those where it would pin 512 others. Each is taken as a whole when
    /// its first byte is touched.
    pub(crate) fn with_huge_pages(len: usize, huge_bytes: usize) -> io::Result<Self> {
        let huge_bytes = huge_bytes.min(len) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        if huge_bytes == 0 {
            return Self::new(len);
        }
        // Before Linux 6.7, a mapping begins at any page: the room to begin at a huge one.
        let mapping = Mapping::anonymous(not_empty(len + HUGE_PAGE_BYTES)?)?;
        let first = mapping.start.cast::<u8>();
        let start = first.align_offset(HUGE_PAGE_BYTES);
        // SAFETY: `start` is less than a huge page, which the mapping has more than `len`: the
        // range lies within it, and the advice changes no byte. That it may be refused (a kernel
        // without huge pages) changes nothing else.
        unsafe {
            libc::madvise(
                first.add(start).as_ptr().cast(),
                huge_bytes,
                libc::MADV_HUGEPAGE,
            )
        };
        Ok(Self {
            mapping,
            start,
            len,
        })
    }

    fn first(&self) -> *mut u8 {
        // SAFETY: `start` lies within the mapping, see the two constructors.
        unsafe { self.mapping.start.cast::<u8>().add(self.start) }.as_ptr()
    }
}

fn not_empty(len: usize) -> io::Result<NonZeroUsize> {
    NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput.into())
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping has `len` readable, initialised (zeroed) bytes from there on; it
        // lives as long as `self`, and no mutable borrow exists beside this shared one.
        unsafe { std::slice::from_raw_parts(self.first(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes this the only borrow.
        unsafe { std::slice::from_raw_parts_mut(self.first(), self.len) }
    }
}

/// Memory that an asynchronous write reads from.
#[derive(Debug)]
pub(crate) enum Memory {
    /// Used again afterwards.
    Own(AlignedBuf),
    /// Given back to whoever else has it.
    Shared(Bytes),
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(buffer) => buffer,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// Writes that the kernel carries out while the caller goes on: io_submit(2). That is so for
/// direct I/O; other writes are over when they are submitted.
#[derive(Debug)]
pub(crate) struct AsyncWrites {
    context: libc::c_ulong,
    /// By key; None where a key is free.
    batches: Vec<Option<Batch>>,
    /// Writes that the kernel has.
    in_flight: usize,
}

/// The writes of one call of [`AsyncWrites::submit`].
#[derive(Debug)]
struct Batch {
    memory: Memory,
    /// None while a write is under way.
    results: Vec<Option<io::Result<usize>>>,
}

/// What became of the writes of one call of [`AsyncWrites::submit`].
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) key: usize,
    pub(crate) memory: Memory,
    /// How much each wrote.
    pub(crate) results: Vec<io::Result<usize>>,
}

/// `struct io_event` of include/uapi/linux/aio_abi.h.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct IoEvent {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

/// `IOCB_CMD_PWRITE` of include/uapi/linux/aio_abi.h.
const IOCB_CMD_PWRITE: u16 = 1;

/// Events that are taken at a time.
const EVENTS: usize = 32;

impl AsyncWrites {
    /// A context for at least so many writes at once. EAGAIN when the system's limit
    /// (fs.aio-max-nr) is reached, ENOSYS where the kernel is built without it.
    pub(crate) fn new(writes: u32) -> io::Result<Self> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: io_setup writes one aio_context_t (an unsigned long) to its second argument,
        // which points to a live one that is 0 as it demands.
        let done = unsafe { libc::syscall(libc::SYS_io_setup, writes, &raw mut context) };
        if done == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            context,
            batches: Vec::new(),
            in_flight: 0,
        })
    }

    /// Starts writing parts of `memory` to the given offsets; returns the key that
    /// [`AsyncWrites::next_done`] will name.
    pub(crate) fn submit(
        &mut self,
        file: &File,
        memory: Memory,
        parts: impl ExactSizeIterator<Item = (Range<usize>, u64)>,
    ) -> io::Result<usize> {
        let results = (0..parts.len()).map(|_| None).collect();
        let free = self.batches.iter().position(Option::is_none);
        let key = free.unwrap_or(self.batches.len());
        let mut iocbs = Vec::with_capacity(parts.len());
        for (index, (range, position)) in parts.enumerate() {
            let bytes = memory.get(range).ok_or(io::ErrorKind::InvalidInput)?;
            // SAFETY: all-zero bytes are a valid iocb; flags and the result's descriptor are unused.
            let mut iocb: libc::iocb = unsafe { MaybeUninit::zeroed().assume_init() };
            iocb.aio_data = ((key as u64) << 32) | index as u64;
            iocb.aio_lio_opcode = IOCB_CMD_PWRITE;
            iocb.aio_fildes = file.as_raw_fd().cast_unsigned();
            iocb.aio_buf = bytes.as_ptr() as u64;
            iocb.aio_nbytes = bytes.len() as u64;
            iocb.aio_offset = offset(position)?;
            iocbs.push(iocb);
        }
        // The memory is in its place before the kernel hears of it, and leaves it only when the
        // kernel has told of every write.
        let batch = Some(Batch { memory, results });
        match free {
            Some(key) => self.batches[key] = batch,
            None => self.batches.push(batch),
        }
        let mut waiting: Vec<*mut libc::iocb> =
            iocbs.iter_mut().map(|iocb| &raw mut *iocb).collect();
        let mut next = 0;
        while next < waiting.len() {
            let left = &mut waiting[next..];
            // SAFETY: the pointers are to live iocbs, which the kernel copies. They name the
            // memory of the batch above, at an address that moving its owner does not change, and
            // that is kept until every write is over: by `next_done`, or by io_destroy in `drop`.
            let taken = unsafe {
                libc::syscall(
                    libc::SYS_io_submit,
                    self.context,
                    left.len(),
                    left.as_mut_ptr(),
                )
            };
            match usize::try_from(taken) {
                Ok(taken) if taken > 0 => {
                    next += taken;
                    self.in_flight += taken;
                }
                _ => {
                    let error = io::Error::last_os_error();
                    if error.raw_os_error() == Some(libc::EAGAIN) && self.in_flight > 0 {
                        self.collect(true)?;
                        continue;
                    }
                    self.record(key, next, Err(error));
                    next += 1;
                }
            }
        }
        Ok(key)
    }

    /// Whether it has nothing under way and nobody's memory.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.batches.iter().all(Option::is_none)
    }

    /// The next batch of which every write is over. None when there are no more, or, without `wait`,
    /// when they are not over yet.
    pub(crate) fn next_done(&mut self, wait: bool) -> io::Result<Option<Done>> {
        let mut is_last_look = false;
        loop {
            let is_done = |batch: &Option<Batch>| {
                batch
                    .as_ref()
                    .is_some_and(|batch| batch.results.iter().all(Option::is_some))
            };
            if let Some(key) = self.batches.iter().position(is_done)
                && let Some(batch) = self.batches[key].take()
            {
                return Ok(Some(Done {
                    key,
                    memory: batch.memory,
                    results: batch.results.into_iter().flatten().collect(),
                }));
            }
            if self.in_flight == 0 || is_last_look {
                return Ok(None);
            }
            self.collect(wait)?;
            is_last_look = !wait;
        }
    }

    /// Takes note of writes that are over; with `wait`, waits for at least one.
    fn collect(&mut self, wait: bool) -> io::Result<()> {
        let mut events = [IoEvent {
            data: 0,
            obj: 0,
            res: 0,
            res2: 0,
        }; EVENTS];
        // SAFETY: io_getevents writes at most EVENTS events to the array, which has room for them;
        // without a timeout (null) it waits until there are as many as the least that is asked for.
        let got = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                libc::c_long::from(wait),
                EVENTS as libc::c_long,
                events.as_mut_ptr(),
                ptr::null_mut::<libc::timespec>(),
            )
        };
        let got = match usize::try_from(got) {
            Ok(got) => got,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => 0,
                error => return Err(error),
            },
        };
        for event in events.into_iter().take(got) {
            self.in_flight -= 1;
            let key = (event.data >> 32) as usize;
            let index = (event.data & 0xffff_ffff) as usize;
            // A negative result is an errno.
            let result = usize::try_from(event.res).map_err(|_| {
                io::Error::from_raw_os_error(i32::try_from(-event.res).unwrap_or(libc::EIO))
            });
            self.record(key, index, result);
        }
        Ok(())
    }

    fn record(&mut self, key: usize, index: usize, result: io::Result<usize>) {
        let batch = self.batches.get_mut(key).and_then(Option::as_mut);
        if let Some(slot) = batch.and_then(|batch| batch.results.get_mut(index)) {
            *slot = Some(result);
        }
    }
}

impl Drop for AsyncWrites {
    fn drop(&mut self) {
        // SAFETY: no pointer is passed. The call returns when no write of this context is under
        // way any more (io_destroy(2)), and the memory that they read goes after that.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_memory_is_zeroed_aligned_and_writable() {
        let check = |mut buf: AlignedBuf, len, alignment| {
            assert_eq!((buf.len(), buf.as_ptr().align_offset(alignment)), (len, 0));
            assert!(buf.iter().all(|byte| *byte == 0));
            buf[len - 1] = 7;
            assert_eq!(buf[len - 1], 7);
        };
        let odd = 3 * PAGE_BYTES + 5;
        check(AlignedBuf::new(odd).unwrap(), odd, PAGE_BYTES);
        let small = AlignedBuf::with_huge_pages(odd, usize::MAX).unwrap();
        check(small, odd, PAGE_BYTES);
        let large = 2 * HUGE_PAGE_BYTES + odd;
        let buf = AlignedBuf::with_huge_pages(large, HUGE_PAGE_BYTES).unwrap();
        check(buf, large, HUGE_PAGE_BYTES);
    }

    #[test]
    fn a_freshly_written_file_is_cached_and_a_range_lock_excludes_a_second_opener() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), vec![1_u8; 100_000]).unwrap();
        let open = || File::options().read(true).write(true).open(path.path());
        let (first, second) = (open().unwrap(), open().unwrap());
        assert!(is_cached(&first, &(4097..99_999)).unwrap());
        assert!(try_lock_range(&first, &(100..300)).unwrap());
        assert!(!try_lock_range(&second, &(200..201)).unwrap());
        drop(first);
        assert!(try_lock_range(&second, &(200..201)).unwrap());
    }

    #[test]
    fn asynchronous_writes_land_where_they_should_and_tell_what_became_of_them() {
        let file = tempfile::tempfile().unwrap();
        let mut writes = AsyncWrites::new(4).unwrap();
        assert!(writes.next_done(true).unwrap().is_none());
        let shared = Memory::Shared(Bytes::from_static(b"abcdef"));
        // More than there is room for at once.
        let parts = (0..64_u64).map(|place| (0..3, place * 3));
        let many = writes
            .submit(&file, shared, parts.collect::<Vec<_>>().into_iter())
            .unwrap();
        let own = Memory::Own(AlignedBuf::new(4096).unwrap());
        let one = writes
            .submit(&file, own, [(0..6, 192)].into_iter())
            .unwrap();
        assert_ne!(many, one);
        let mut keys = Vec::new();
        while let Some(done) = writes.next_done(true).unwrap() {
            let each = if matches!(done.memory, Memory::Own(_)) {
                6
            } else {
                3
            };
            assert!(
                done.results
                    .iter()
                    .all(|written| *written.as_ref().unwrap() == each)
            );
            keys.push((done.key, done.results.len()));
        }
        keys.sort_unstable();
        assert_eq!(keys, [(many, 64), (one, 1)]);
        let mut found = vec![0; 200];
        let len = std::os::unix::fs::FileExt::read_at(&file, &mut found, 0).unwrap();
        assert_eq!(found[..len], [b"abc".repeat(64), vec![0; 6]].concat());

        let read_only = File::open("/dev/null").unwrap();
        let shared = Memory::Shared(Bytes::from_static(b"abc"));
        writes
            .submit(&read_only, shared, [(0..3, 0)].into_iter())
            .unwrap();
        let results = writes.next_done(true).unwrap().unwrap().results;
        assert_eq!(
            results[0].as_ref().unwrap_err().raw_os_error(),
            Some(libc::EBADF)
        );
    }

    #[test]
    fn holes_of_a_sparse_file_are_found_and_made() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 65536], 1 << 20).unwrap();
        assert_eq!(seek_data(&file, 0).unwrap(), Some(1 << 20));
        assert_eq!(seek_hole(&file, 1 << 20).unwrap(), Some((1 << 20) + 65536));
        assert_eq!(seek_data(&file, 2 << 20).unwrap(), None);
        punch_hole(&file, &(0..2 << 20)).unwrap();
        assert_eq!(seek_data(&file, 0).unwrap(), None);
    }
}
