//! Prepares a target, writes to it, and makes the writes durable.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use super::target::{Content, FileSize, Kind, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::sys;

/// How much may be dirty in the page cache if writes cannot bypass it.
const MAX_DIRTY_BYTES: u64 = 16 << 20; // 16 MiB

impl Target {
    /// Prepares the target for a disk of `virtual_size` bytes (None: not known yet) whose data
    /// comes in multiples of `alignment`. With `keep_tail`, bytes after the end of the disk are
    /// kept.
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
        // File systems without direct I/O refuse this (EINVAL): then the page cache is used.
        let fits = self.block_bytes <= alignment && alignment.is_multiple_of(self.block_bytes);
        let direct = fits && sys::set_direct(&self.file, true).is_ok();
        self.direct.store(direct, Ordering::Relaxed);
        Ok(())
    }

    /// Allows no disk larger than this, even if it would fit.
    pub fn limit(&mut self, bytes: Option<u64>) {
        self.limit = bytes;
    }

    /// Fails unless a disk of `virtual_size` bytes fits.
    pub(crate) fn check_fits(&self, virtual_size: u64) -> Result<()> {
        if let Some(limit) = self.limit.filter(|limit| virtual_size > *limit) {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "The image's disk has {virtual_size} bytes or more, and no more than {limit} are \
                     permitted or free for {}",
                    self.name.display()
                ),
            ));
        }
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
                // Never shorter meanwhile: after a crash, a volume would have lost its size.
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

    /// Gives a file its intended size. The last, padded write may have made it longer, and a disk
    /// of unknown size may have made it shorter.
    pub(crate) fn set_final_size(&self, virtual_size: u64) -> Result<()> {
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
            // The file system accepted O_DIRECT but not this request: continue through the page
            // cache.
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

    /// Flushes and drops what this target has in the page cache if it is more than a little.
    fn bound_page_cache(&self, written: u64) -> Result<()> {
        if self.dirty_bytes.fetch_add(written, Ordering::Relaxed) + written < MAX_DIRTY_BYTES {
            return Ok(());
        }
        self.dirty_bytes.store(0, Ordering::Relaxed);
        self.sync()
    }

    /// Waits until the file's data and metadata are on stable storage.
    pub(crate) fn sync_all(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.sync_error(e))
    }

    /// Waits until everything that was written is on stable storage.
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
        Error::io(ErrorKind::of_write(&source), context, source)
    }

    pub(super) fn write_error(&self, doing: &str, range: &Range<u64>, source: io::Error) -> Error {
        let context = format!(
            "{doing} {} failed at bytes {:#x}..{:#x}",
            self.name.display(),
            range.start,
            range.end
        );
        Error::io(ErrorKind::of_write(&source), context, source)
    }
}
