//! Mapped memory: aligned buffers, private or shared with another process, and a check of what is in
//! the page cache.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};

use super::error::{check, offset};

/// The smallest page of the supported machines; `mmap` returns memory that is aligned at least to
/// this.
pub(crate) const PAGE_BYTES: usize = 4096;

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

    /// Maps a file's beginning, so that whoever has mapped it as well sees what is written.
    fn shared(fd: RawFd, len: NonZeroUsize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        Self::new(len, protection, libc::MAP_SHARED, fd, 0)
    }

    /// Maps a part of a file without permission to read it: only `mincore` may examine it.
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

// SAFETY: a mapping belongs to the process and not to a thread, and this value gives no access to its
// bytes. `AlignedBuf` does, as the only one in this process for each byte: an anonymous mapping has one
// buffer, and those of a shared one do not overlap.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly this range was mapped by `new`, and whoever borrowed from it did so
        // through a borrow of `self`, which has ended. The call cannot fail for such a range.
        unsafe { libc::munmap(self.start.as_ptr(), self.len.get()) };
    }
}

/// The size of a huge page on x86-64, and on aarch64 with pages of 4 KiB. Elsewhere huge pages are
/// larger, and memory of this size gets none.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20; // 2 MiB

/// Zeroed, page-aligned memory of a fixed length. Pages that are never touched cost nothing.
///
/// It belongs to this value alone, or is a part of memory that another process has mapped as well
/// ([`share`]). Bytes of the second kind may change at any time; whoever judges them must have
/// copied them first, and must not read them again.
#[derive(Debug)]
pub(crate) struct AlignedBuf {
    mapping: Arc<Mapping>,
    /// For memory that is shared with another process: the offset there.
    place: Option<usize>,
    /// Offset of the first byte in the mapping.
    start: usize,
    len: usize,
}

impl AlignedBuf {
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let mapping = Arc::new(Mapping::anonymous(not_empty(len)?)?);
        Ok(Self {
            mapping,
            place: None,
            start: 0,
            len,
        })
    }

    /// The same, with the first `huge_bytes` in huge pages if the kernel has some free: a direct
    /// write pins one of those instead of 512 small ones. Each is allocated as a whole when its
    /// first byte is touched.
    pub(crate) fn with_huge_pages(len: usize, huge_bytes: usize) -> io::Result<Self> {
        let huge_bytes = huge_bytes.min(len) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        if huge_bytes == 0 {
            return Self::new(len);
        }
        // Before Linux 6.7, a mapping begins at any page: this is the room for an aligned huge
        // page.
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
            mapping: Arc::new(mapping),
            place: None,
            start,
            len,
        })
    }

    /// Where it is in memory that is shared with another process; None if it is private.
    pub(crate) fn place(&self) -> Option<usize> {
        self.place
    }

    fn first(&self) -> *mut u8 {
        // Within the mapping, see the constructors.
        let mapping = self.mapping.start.cast::<u8>().as_ptr();
        mapping.wrapping_add(self.start)
    }
}

/// Creates memory of `count` buffers that another process can map by the descriptor. Their beginnings
/// are `stride` bytes apart.
///
/// The other process can change the bytes, but not the length: an access never fails (SIGBUS).
pub(crate) fn share(
    count: usize,
    stride: usize,
    len: usize,
) -> io::Result<(OwnedFd, Vec<AlignedBuf>)> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match rustix::fs::memfd_create(c"lvp-decode", flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(c"lvp-decode", flags)?,
        created => created?,
    };
    let total = stride
        .checked_mul(count)
        .ok_or(io::ErrorKind::InvalidInput)?;
    rustix::fs::ftruncate(&fd, total as u64)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    let buffers = map_shared(fd.as_fd(), count, stride, len)?;
    Ok((fd, buffers))
}

/// The buffers of memory that another process created by [`share`]. Fails if it is smaller, or its length can be changed.
pub(crate) fn map_shared(
    fd: BorrowedFd<'_>,
    count: usize,
    stride: usize,
    len: usize,
) -> io::Result<Vec<AlignedBuf>> {
    let total = stride
        .checked_mul(count)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let seals = rustix::fs::fcntl_get_seals(fd)?;
    let size = u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0);
    let is_fixed = seals.contains(SealFlags::SHRINK | SealFlags::GROW);
    if len > stride || !stride.is_multiple_of(PAGE_BYTES) || !is_fixed || size < total as u64 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mapping = Mapping::shared(fd.as_raw_fd(), not_empty(total)?)?;
    // SAFETY: this is exactly the new mapping, and the advice changes no byte. That it may be refused
    // (huge pages of shared memory are off by default) changes nothing else.
    unsafe { libc::madvise(mapping.start.as_ptr(), total, libc::MADV_HUGEPAGE) };
    let mapping = Arc::new(mapping);
    let buffers = (0..count).map(|index| AlignedBuf {
        mapping: Arc::clone(&mapping),
        place: Some(index * stride),
        start: index * stride,
        len,
    });
    Ok(buffers.collect())
}

fn not_empty(len: usize) -> io::Result<NonZeroUsize> {
    NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput.into())
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping has `len` readable, initialised (zeroed) bytes from there on; it
        // lives as long as `self`, and no mutable borrow exists beside this shared one. Another
        // process may change bytes of shared memory meanwhile, as a device may that has it mapped:
        // every value is a valid byte, the length is sealed, and no code of this crate relies on
        // reading the same byte twice (see `AlignedBuf`).
        unsafe { std::slice::from_raw_parts(self.first(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes this the only borrow.
        unsafe { std::slice::from_raw_parts_mut(self.first(), self.len) }
    }
}
