//! Where an image is written: a block device or a regular file.
//!
//! A [`Target`] owns the open file and knows what it takes: its size, the unit of its requests,
//! whether direct I/O works, whether it reads as zero already. It guarantees three things:
//!
//! - **Nobody else has it.** A block device is opened with `O_EXCL`, which the kernel refuses
//!   while it is mounted or held by another driver; a regular file is locked the way QEMU locks
//!   its disks, so that neither starts while the other runs.
//! - **The page cache does not grow.** Writes bypass it where the target and the image's
//!   alignment permit; elsewhere what was written is flushed and dropped every few MiB.
//! - **Zero means zero.** A range is cleared by the device's WRITE ZEROES, by a hole in a file, or
//!   by writing zeros. A discard is never taken for zeroing: what it leaves is up to the device.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::grace;
use crate::sys::{self, AlignedBuf};

/// How much may wait in the page cache when writes cannot bypass it.
const MAX_DIRTY_BYTES: u64 = 16 << 20; // 16 MiB

/// Zeros written by one request where nothing better works.
const ZERO_BLOCK_BYTES: usize = 1 << 20; // 1 MiB

/// One request to a device that has WRITE ZEROES. Devices split it as they need; the bound keeps
/// a cancelled copy from waiting long.
const FAST_ZERO_STEP_BYTES: u64 = 256 << 20; // 256 MiB

/// One request where the kernel or this program really writes the zeros: a slow disk (60 MB/s)
/// takes about half a second for it, so that a cancelled copy ends in time.
const SLOW_ZERO_STEP_BYTES: u64 = 32 << 20; // 32 MiB

/// The bytes that QEMU locks in its disks' files (block/file-posix.c: RAW_LOCK_PERM_BASE 100 and
/// RAW_LOCK_SHARED_BASE 200, one byte per permission bit).
const QEMU_LOCK_BYTES: Range<u64> = 100..300;

/// Whether no other open file, in whatever process or namespace, leads to this one: for reading or
/// writing, by loop devices and swap as well. None where the file system or the file's owner keeps the
/// kernel from telling. The file must be open for writing.
pub fn is_sole_opener(file: &File) -> io::Result<Option<bool>> {
    match sys::try_write_lease(file) {
        Ok(()) => Ok(Some(true)),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(Some(false)),
            Some(libc::EINVAL | libc::EACCES | libc::EPERM | libc::EOPNOTSUPP | libc::ENOLCK) => {
                Ok(None)
            }
            _ => Err(error),
        },
    }
}

/// What a target holds before the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// Every byte reads as zero: a volume fresh from a thin pool, a sparse file.
    KnownZero,
    /// Anything, such as the last owner's data.
    Unknown,
}

/// The size a target file has after the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileSize {
    /// Exactly the image's virtual size.
    OfImage,
    /// This many bytes, at least the image's virtual size: a volume with a size of its own.
    Bytes(u64),
}

/// How a range was made to read as zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ZeroMethod {
    /// The file's blocks were freed.
    Hole,
    /// The device's own WRITE ZEROES command, without moving data.
    WriteZeroes,
    /// The kernel wrote zeros, as the device has no command for it.
    KernelZeros,
    /// This program wrote zeros, as neither file system nor kernel do it.
    Written,
}

impl ZeroMethod {
    /// All methods, cheapest first.
    pub const ALL: [Self; 4] = [
        Self::Hole,
        Self::WriteZeroes,
        Self::KernelZeros,
        Self::Written,
    ];

    /// A name for logs and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hole => "hole",
            Self::WriteZeroes => "write-zeroes",
            Self::KernelZeros => "kernel-zeros",
            Self::Written => "written-zeros",
        }
    }

    /// Whether the method costs the device as much as writing the same bytes.
    pub(crate) fn moves_data(self) -> bool {
        matches!(self, Self::KernelZeros | Self::Written)
    }

    /// The next thing to try where this method is not supported.
    fn fallback(self) -> Option<Self> {
        match self {
            Self::WriteZeroes => Some(Self::KernelZeros),
            Self::Hole | Self::KernelZeros => Some(Self::Written),
            Self::Written => None,
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for ZeroMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A block device's number, as LVM and sysfs name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceNumber {
    /// The driver.
    pub major: u32,
    /// The device of that driver.
    pub minor: u32,
}

impl DeviceNumber {
    fn new(rdev: u64) -> Self {
        Self {
            major: libc::major(rdev),
            minor: libc::minor(rdev),
        }
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block { number: DeviceNumber, size: u64 },
    File { size: FileSize },
}

/// An open block device or regular file that an image is written to.
#[derive(Debug)]
pub struct Target {
    file: File,
    name: PathBuf,
    kind: Kind,
    content: Content,
    /// The unit of requests that bypass the page cache.
    block_bytes: u64,
    fast_zeroes: bool,
    /// Whether a file's bytes beyond the disk were left as they are.
    has_old_tail: bool,
    direct: AtomicBool,
    /// Index into [`ZeroMethod::ALL`] of the best method that was not refused yet.
    zero_method: AtomicUsize,
    zeros: OnceLock<AlignedBuf>,
    dirty_bytes: AtomicU64,
}

impl Target {
    /// Opens a block device for this process alone.
    ///
    /// Refuses anything that is no block device ([`ErrorKind::BadTarget`]), and a device that is
    /// mounted or in use by another driver ([`ErrorKind::DeviceBusy`]).
    pub fn open_block(path: &Path, content: Content) -> Result<Self> {
        // O_EXCL without O_CREAT is the kernel's exclusive claim on a block device (open(2)).
        // O_NONBLOCK keeps a FIFO at this path from blocking before its type is known.
        let claim = || {
            let opened = OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_EXCL | libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(path);
            grace::unless_busy(opened)
        };
        let file = grace::take(claim)
            .and_then(|file| file.ok_or_else(|| io::Error::from_raw_os_error(libc::EBUSY)))
            .map_err(|source| open_error(path, source))?;
        Self::from_block_device(file, path, content)
    }

    /// Takes a block device that is open for writing; `name` is for messages. The
    /// exclusive claim (`O_EXCL`) is the caller's affair.
    pub fn from_block_device(file: File, name: &Path, content: Content) -> Result<Self> {
        let describe = |source| describe_error(name, source);
        let metadata = file.metadata().map_err(describe)?;
        if !metadata.file_type().is_block_device() {
            return Err(Error::new(
                ErrorKind::BadTarget,
                format!("{} is not a block device", name.display()),
            ));
        }
        let number = DeviceNumber::new(metadata.rdev());
        let size = sys::block_device_size(&file).map_err(describe)?;
        let block_bytes = sys::logical_block_size(&file).map_err(describe)?;
        let fast_zeroes = has_write_zeroes(number);
        let method = if fast_zeroes {
            ZeroMethod::WriteZeroes
        } else {
            ZeroMethod::KernelZeros
        };
        Ok(Self {
            file,
            name: name.to_owned(),
            kind: Kind::Block { number, size },
            content,
            block_bytes,
            fast_zeroes,
            has_old_tail: false,
            direct: AtomicBool::new(false),
            zero_method: AtomicUsize::new(method.index()),
            zeros: OnceLock::new(),
            dirty_bytes: AtomicU64::new(0),
        })
    }

    /// Opens a regular file, or creates it with access for its owner only. What it held is gone
    /// once a copy starts. A symbolic link is not followed.
    ///
    /// Refuses anything that is no regular file ([`ErrorKind::BadTarget`]), and a file that a
    /// running QEMU has open ([`ErrorKind::DeviceBusy`]).
    pub fn open_file(path: &Path, size: FileSize) -> Result<Self> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags)
            .open(path)
            .map_err(|source| open_error(path, source))?;
        Self::from_file(file, path, size)
    }

    /// Takes a regular file that is open for writing; `name` is for messages.
    pub fn from_file(file: File, name: &Path, size: FileSize) -> Result<Self> {
        let metadata = file.metadata().map_err(|e| describe_error(name, e))?;
        if !metadata.is_file() {
            return Err(Error::new(
                ErrorKind::BadTarget,
                format!("{} is not a regular file", name.display()),
            ));
        }
        // File systems without locks (ENOLCK, EINVAL on some network file systems) cannot tell;
        // QEMU does not lock there either.
        if let Ok(false) = grace::lock_range(&file, &QEMU_LOCK_BYTES) {
            return Err(Error::new(
                ErrorKind::DeviceBusy,
                format!(
                    "{} is in use: a running virtual machine or qemu-img holds a lock on it; \
                     stop it first",
                    name.display()
                ),
            ));
        }
        let block_bytes = match sys::direct_io_alignment(&file) {
            Some((memory, offset)) if memory > 0 && offset > 0 => memory.max(offset),
            // Told, and it says that this file takes no direct I/O.
            Some(_) => u64::MAX,
            // Not told (a kernel before 6.1): a page suits every file system.
            None => sys::PAGE_BYTES as u64,
        };
        let content = if metadata.blocks() == 0 {
            Content::KnownZero
        } else {
            Content::Unknown
        };
        Ok(Self {
            file,
            name: name.to_owned(),
            kind: Kind::File { size },
            content,
            block_bytes,
            fast_zeroes: true,
            has_old_tail: false,
            direct: AtomicBool::new(false),
            zero_method: AtomicUsize::new(ZeroMethod::Hole.index()),
            zeros: OnceLock::new(),
            dirty_bytes: AtomicU64::new(0),
        })
    }

    /// The path it was opened by.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// The open file, for callers that ask it for more (its mode, its owner).
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The number of a block device, to be compared with what LVM reports of the volume that was
    /// meant; None for a file.
    pub fn device_number(&self) -> Option<DeviceNumber> {
        match self.kind {
            Kind::Block { number, .. } => Some(number),
            Kind::File { .. } => None,
        }
    }

    /// How many bytes it holds; None for a file that takes the image's size.
    pub fn capacity(&self) -> Option<u64> {
        match self.kind {
            Kind::Block { size, .. } => Some(size),
            Kind::File { size } => match size {
                FileSize::Bytes(bytes) => Some(bytes),
                FileSize::OfImage => None,
            },
        }
    }

    /// What it held when it was opened; a file is emptied, and so known to be zero, when a copy
    /// starts.
    pub fn content(&self) -> Content {
        self.content
    }

    /// Whether the bytes beyond the disk are known to be zero.
    pub(crate) fn has_zero_tail(&self) -> bool {
        self.content == Content::KnownZero && !self.has_old_tail
    }

    /// Whether large ranges can be zeroed without moving their bytes: decides what a careful
    /// owner does with a volume's tail.
    pub fn zeroes_fast(&self) -> bool {
        self.fast_zeroes
    }

    /// Whether writes bypass the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct.load(Ordering::Relaxed)
    }

    /// The unit in which the device stores data, where it is a block device.
    pub fn physical_block_size(&self) -> Option<u64> {
        self.device_number()?;
        sys::physical_block_size(&self.file).ok()
    }

    /// The unit of writes: their offset, length and memory are multiples of it. 1 when writes go
    /// through the page cache.
    pub(crate) fn write_unit(&self) -> u64 {
        if self.is_direct() {
            self.block_bytes
        } else {
            1
        }
    }

    /// Makes the target ready for a disk of `virtual_size` bytes (None: not known yet) whose data
    /// comes in multiples of `alignment`. With `keep_tail`, bytes beyond the disk's end stay.
    ///
    /// A file is emptied here, so that it reads as zero everywhere.
    pub(crate) fn prepare(
        &mut self,
        virtual_size: Option<u64>,
        alignment: u64,
        keep_tail: bool,
    ) -> Result<()> {
        if let Some(virtual_size) = virtual_size {
            self.check_fits(virtual_size)?;
        }
        if let Kind::File { size } = self.kind {
            self.empty_file(size, virtual_size, keep_tail)?;
        }
        // Refused (EINVAL) by file systems without direct I/O: then the page cache is used.
        let fits = self.block_bytes <= alignment && alignment.is_multiple_of(self.block_bytes);
        let direct = fits && sys::set_direct(&self.file, true).is_ok();
        self.direct.store(direct, Ordering::Relaxed);
        Ok(())
    }

    /// Fails unless a disk of `virtual_size` bytes fits.
    pub fn check_fits(&self, virtual_size: u64) -> Result<()> {
        match self.capacity() {
            Some(capacity) if virtual_size > capacity => Err(Error::new(
                ErrorKind::TooSmall,
                format!(
                    "The image's disk has {virtual_size} bytes, and {} holds {capacity}: make it \
                     at least as large as the disk",
                    self.name.display()
                ),
            )),
            _ => Ok(()),
        }
    }

    fn empty_file(
        &mut self,
        size: FileSize,
        virtual_size: Option<u64>,
        keep_tail: bool,
    ) -> Result<()> {
        let resize = |bytes| {
            self.file
                .set_len(bytes)
                .map_err(|source| self.write_error("Resizing", &(0..bytes), source))
        };
        match (size, virtual_size) {
            (FileSize::Bytes(bytes), Some(virtual_size))
                if keep_tail && self.content == Content::Unknown =>
            {
                resize(bytes)?;
                self.has_old_tail = true;
                let cleared = sys::punch_hole(&self.file, &(0..virtual_size));
                self.content = match cleared {
                    Ok(()) => Content::KnownZero,
                    Err(_) => Content::Unknown,
                };
                return Ok(());
            }
            (FileSize::Bytes(bytes), _) => {
                // Never shorter in between: a crash there would leave a volume without its size.
                resize(bytes)?;
                if bytes > 0 && sys::punch_hole(&self.file, &(0..bytes)).is_err() {
                    self.has_old_tail = true;
                    self.content = Content::Unknown;
                    return Ok(());
                }
            }
            (FileSize::OfImage, virtual_size) => {
                resize(0)?;
                resize(virtual_size.unwrap_or(0))?;
            }
        }
        self.content = Content::KnownZero;
        Ok(())
    }

    /// Gives a file the size it was promised; the last, padded write may have made it longer, and
    /// a disk whose size was not known beforehand may have made it shorter.
    pub(crate) fn settle_size(&self, virtual_size: u64) -> Result<()> {
        let bytes = match self.kind {
            Kind::Block { .. } => return Ok(()),
            Kind::File { size } => match size {
                FileSize::Bytes(bytes) => bytes,
                FileSize::OfImage => virtual_size,
            },
        };
        self.file
            .set_len(bytes)
            .map_err(|source| self.write_error("Resizing", &(0..bytes), source))
    }

    /// Writes all of `bytes` at `offset`.
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let range = offset..offset + bytes.len() as u64;
        let result = match self.file.write_all_at(bytes, offset) {
            // The file system took O_DIRECT but not this request: go on through the page cache.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && self.is_direct() => {
                sys::set_direct(&self.file, false)
                    .map(|()| self.direct.store(false, Ordering::Relaxed))
                    .and_then(|()| self.file.write_all_at(bytes, offset))
            }
            result => result,
        };
        result.map_err(|source| self.write_error("Writing", &range, source))?;
        if !self.is_direct() {
            self.bound_page_cache(bytes.len() as u64)?;
        }
        Ok(())
    }

    /// Flushes and drops what this target has in the page cache once it is more than a little.
    fn bound_page_cache(&self, written: u64) -> Result<()> {
        if self.dirty_bytes.fetch_add(written, Ordering::Relaxed) + written < MAX_DIRTY_BYTES {
            return Ok(());
        }
        self.dirty_bytes.store(0, Ordering::Relaxed);
        self.sync()
    }

    /// How much of a range one call of [`Target::zero_range`] should clear, so that a caller who
    /// checks for cancellation between calls does so often enough.
    pub(crate) fn zero_step_bytes(&self) -> u64 {
        if self.zeroing_moves_data() {
            SLOW_ZERO_STEP_BYTES
        } else {
            FAST_ZERO_STEP_BYTES
        }
    }

    /// Whether zeroing a range costs as much as writing it.
    pub(crate) fn zeroing_moves_data(&self) -> bool {
        self.zero_method().moves_data()
    }

    fn zero_method(&self) -> ZeroMethod {
        ZeroMethod::ALL
            .get(self.zero_method.load(Ordering::Relaxed))
            .copied()
            .unwrap_or(ZeroMethod::Written)
    }

    /// Makes a range read as zero and tells how. Parts that are no whole blocks of the device are
    /// written.
    pub(crate) fn zero_range(&self, range: Range<u64>) -> Result<ZeroMethod> {
        let method = self.zero_method();
        if method == ZeroMethod::Written {
            self.write_zeros(range)?;
            return Ok(method);
        }
        let (cleared, result) = match self.kind {
            Kind::File { .. } => (range.clone(), sys::punch_hole(&self.file, &range)),
            Kind::Block { .. } => {
                let start = range.start.next_multiple_of(self.block_bytes);
                let whole = start..range.end - range.end % self.block_bytes;
                if whole.is_empty() {
                    self.write_zeros(range)?;
                    return Ok(ZeroMethod::Written);
                }
                let result = if method == ZeroMethod::WriteZeroes {
                    // For a block device this is WRITE ZEROES and fails where there is none
                    // (block/fops.c: BLKDEV_ZERO_NOFALLBACK). Unlike BLKZEROOUT it lets the device
                    // free the space, as long as it reads as zero.
                    sys::punch_hole(&self.file, &whole)
                } else {
                    sys::block_zero_out(&self.file, &whole)
                };
                (whole, result)
            }
        };
        match result {
            Ok(()) => {
                self.write_zeros(range.start..cleared.start)?;
                self.write_zeros(cleared.end..range.end)?;
                Ok(method)
            }
            Err(error) if is_unsupported(&error) => {
                let next = method.fallback().unwrap_or(ZeroMethod::Written);
                self.zero_method.store(next.index(), Ordering::Relaxed);
                self.zero_range(range)
            }
            Err(source) => Err(self.write_error("Zeroing", &range, source)),
        }
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let zeros = match self.zeros.get() {
            Some(zeros) => zeros,
            None => {
                let fresh = AlignedBuf::new(ZERO_BLOCK_BYTES)
                    .map_err(|source| self.write_error("Zeroing", &range, source))?;
                self.zeros.get_or_init(|| fresh)
            }
        };
        let mut offset = range.start;
        while offset < range.end {
            let len = (range.end - offset).min(zeros.len() as u64);
            let len = usize::try_from(len).unwrap_or(zeros.len());
            self.write_all_at(&zeros[..len], offset)?;
            offset += len as u64;
        }
        Ok(())
    }

    /// Waits until the file's data, size and times are on stable storage.
    pub(crate) fn sync_all(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.sync_error(e))
    }

    /// Waits until everything written is on stable storage.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| self.sync_error(e))?;
        if !self.is_direct() {
            // Only a hint: a file system that ignores it keeps its pages.
            sys::drop_cached(&self.file, 0, 0).ok();
        }
        Ok(())
    }

    fn sync_error(&self, source: io::Error) -> Error {
        let context = format!("Flushing {} to stable storage failed", self.name.display());
        Error::io(write_kind(&source), context, source)
    }

    fn write_error(&self, doing: &str, range: &Range<u64>, source: io::Error) -> Error {
        let context = format!(
            "{doing} {} failed at bytes {:#x}..{:#x}",
            self.name.display(),
            range.start,
            range.end
        );
        Error::io(write_kind(&source), context, source)
    }
}

fn write_kind(error: &io::Error) -> ErrorKind {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => ErrorKind::NoSpace,
        _ => ErrorKind::Write,
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS | libc::EINVAL)
    )
}

fn open_error(path: &Path, source: io::Error) -> Error {
    let path = path.display();
    let (kind, context) = match source.raw_os_error() {
        Some(libc::EBUSY) => (
            ErrorKind::DeviceBusy,
            format!("{path} is in use: it is mounted, or another driver or program holds it"),
        ),
        Some(libc::EISDIR) => (ErrorKind::BadTarget, format!("{path} is a directory")),
        Some(libc::ELOOP) => (ErrorKind::BadTarget, format!("{path} is a symbolic link")),
        Some(libc::ENXIO | libc::ENODEV) => {
            (ErrorKind::BadTarget, format!("No device is behind {path}"))
        }
        _ => (
            ErrorKind::Write,
            format!("Opening {path} for writing failed"),
        ),
    };
    Error::io(kind, context, source)
}

fn describe_error(path: &Path, source: io::Error) -> Error {
    let context = format!("Asking {} for its properties failed", path.display());
    Error::io(ErrorKind::Write, context, source)
}

/// Whether the device has a WRITE ZEROES command (Documentation/ABI/stable/sysfs-block).
fn has_write_zeroes(number: DeviceNumber) -> bool {
    // A partition has no queue of its own: its disk's is one level up.
    ["queue", "../queue"].iter().any(|queue| {
        let limit = format!("/sys/dev/block/{number}/{queue}/write_zeroes_max_bytes");
        std::fs::read_to_string(limit)
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
            .is_some_and(|bytes| bytes > 0)
    })
}
