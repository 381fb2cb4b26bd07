//! Opens a target, and determines its properties.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::number::{DeviceNumber, has_write_zeroes};
use super::zero_method::ZeroMethod;
use crate::error::{Error, ErrorKind, Result};
use crate::grace;
use crate::sys::{self, AlignedBuf};

/// The bytes that QEMU locks in the files of its disks (block/file-posix.c: RAW_LOCK_PERM_BASE 100
/// and RAW_LOCK_SHARED_BASE 200, one byte per permission bit).
const QEMU_LOCK_BYTES: Range<u64> = 100..300;

/// Whether no other open file, in any process or namespace, refers to this file, for reading or
/// writing, including loop devices and swap. None if the file system or the file's owner prevents the
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
    /// Anything, such as a previous owner's data.
    Unknown,
}

/// The size a target file has after the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileSize {
    /// Exactly the virtual size of the image.
    OfImage,
    /// This many bytes, at least the virtual size of the image: a volume with a size of its own.
    Bytes(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Block { size: u64 },
    File { size: FileSize },
}

/// An open block device or regular file to which an image is written.
#[derive(Debug)]
pub struct Target {
    pub(super) file: File,
    pub(super) name: PathBuf,
    pub(super) kind: Kind,
    pub(super) content: Content,
    /// The unit of direct I/O.
    pub(super) block_bytes: u64,
    pub(super) fast_zeroes: bool,
    /// Whether a file's bytes after the disk were kept.
    pub(super) has_old_tail: bool,
    /// The largest disk that is allowed.
    pub(super) limit: Option<u64>,
    pub(super) direct: AtomicBool,
    /// Index in [`ZeroMethod::ALL`] of the best method that was not refused yet.
    pub(super) zero_method: AtomicUsize,
    pub(super) zeros: OnceLock<AlignedBuf>,
    pub(super) dirty_bytes: AtomicU64,
}

impl Target {
    /// Opens a block device exclusively.
    ///
    /// Refuses anything that is not a block device ([`ErrorKind::BadTarget`]), and a device that is
    /// mounted or in use by another driver ([`ErrorKind::DeviceBusy`]).
    pub fn open_block(path: &Path, content: Content) -> Result<Self> {
        // O_EXCL without O_CREAT is the kernel's exclusive claim on a block device (open(2)).
        // O_NONBLOCK prevents a FIFO at this path from blocking before its type is known.
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

    /// Takes a block device that is open for writing; `name` is for messages. The caller is
    /// responsible for the exclusive claim (`O_EXCL`).
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
            kind: Kind::Block { size },
            content,
            block_bytes,
            fast_zeroes,
            has_old_tail: false,
            limit: None,
            direct: AtomicBool::new(false),
            zero_method: AtomicUsize::new(method.index()),
            zeros: OnceLock::new(),
            dirty_bytes: AtomicU64::new(0),
        })
    }

    /// Opens a regular file, or creates it with access for its owner only. Its content is lost once
    /// a copy starts. A symbolic link is not followed.
    ///
    /// Refuses anything that is not a regular file ([`ErrorKind::BadTarget`]), and a file that a
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
            // Reported, and it says that this file does not support direct I/O.
            Some(_) => u64::MAX,
            // Not reported (a kernel before 6.1): a page suits every file system.
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
            limit: None,
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

    /// The open file, for callers that need more of its properties (its mode, its owner).
    pub fn file(&self) -> &File {
        &self.file
    }

    /// How many bytes it holds; None for a file that gets the size of the image.
    pub fn capacity(&self) -> Option<u64> {
        match self.kind {
            Kind::Block { size } => Some(size),
            Kind::File { size } => match size {
                FileSize::Bytes(bytes) => Some(bytes),
                FileSize::OfImage => None,
            },
        }
    }

    /// What it held when it was opened. A file is emptied when a copy starts, and so known to be
    /// zero.
    pub fn content(&self) -> Content {
        self.content
    }

    /// Whether the bytes after the disk are known to be zero.
    pub(crate) fn has_zero_tail(&self) -> bool {
        self.content == Content::KnownZero && !self.has_old_tail
    }

    /// Whether large ranges can be zeroed without transferring their bytes. This decides what a
    /// careful owner does with a volume's tail.
    pub fn zeroes_fast(&self) -> bool {
        self.fast_zeroes
    }

    /// Whether writes bypass the page cache.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct.load(Ordering::Relaxed)
    }

    /// The unit of writes: their offset, length and memory are multiples of it. 1 if writes go
    /// through the page cache.
    pub(crate) fn write_unit(&self) -> u64 {
        if self.is_direct() {
            self.block_bytes
        } else {
            1
        }
    }
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
        Some(libc::ENXIO | libc::ENODEV) => (
            ErrorKind::BadTarget,
            format!("There is no device behind {path}"),
        ),
        _ => (
            ErrorKind::Write,
            format!("Opening {path} for writing failed"),
        ),
    };
    Error::io(kind, context, source)
}

fn describe_error(path: &Path, source: io::Error) -> Error {
    let context = format!("Reading the properties of {} failed", path.display());
    Error::io(ErrorKind::Write, context, source)
}
