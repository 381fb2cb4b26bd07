//! Reads spans of a local image file, without filling the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use bytes::{Bytes, BytesMut};

use crate::buffer::AlignedBuf;
use crate::error::{Error, ErrorKind, Result};
use crate::source::{FileSource, ReadAt};
use crate::sys;

/// How much of a compressed file is read at a time: as much as decodes in a moment.
const STREAM_READ_BYTES: usize = 1 << 20; // 1 MiB

/// Alignment of direct reads if the file system does not report one: enough for all.
const DEFAULT_ALIGN: u64 = sys::PAGE_BYTES as u64;

/// A local image, opened twice: for reads through the page cache, and for direct reads.
///
/// Data that is in the page cache is read from there, at the cost of a memory copy. The rest is
/// read directly from the disk, so that a copy does not change the page cache.
#[derive(Debug)]
pub(crate) struct LocalSource {
    cached: File,
    /// `None` if the file system does not support direct I/O.
    direct: Option<File>,
    align: u64,
    len: u64,
}

impl LocalSource {
    pub(crate) fn new(source: &FileSource) -> Result<Self> {
        let file = source.file();
        let cached = file
            .try_clone()
            .map_err(|e| Error::io(ErrorKind::Read, "Opening the image again failed", e))?;
        // O_DIRECT belongs to an open file, so a second one is needed. It is the same file, even if
        // another file has taken its name since.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let direct = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(path)
            .ok();
        let align = sys::direct_io_alignment(file)
            .map_or(DEFAULT_ALIGN, |(memory, offset)| memory.max(offset))
            .max(512);
        // An alignment of 0 means that there is no direct I/O; a huge one does not fit the buffers.
        let direct = direct.filter(|_| align.is_power_of_two() && align <= 64 << 10);
        Ok(Self {
            cached,
            direct,
            align,
            len: source.len(),
        })
    }

    /// Reads the host bytes of `range` into `buffer`, and returns their place in it.
    pub(crate) fn read(&self, range: &Range<u64>, buffer: &mut [u8]) -> Result<Range<usize>> {
        if range.is_empty() {
            return Ok(0..0);
        }
        let result = match &self.direct {
            Some(direct) if !sys::is_cached(&self.cached, range).unwrap_or(false) => {
                self.read_direct(direct, range, buffer)
            }
            _ => self.read_cached(range, buffer),
        };
        result.map_err(|source| {
            let context = format!(
                "Reading the image failed at bytes {:#x}..{:#x}",
                range.start, range.end
            );
            Error::io(ErrorKind::Read, context, source)
        })
    }

    /// Offset of the first data at or after `from`, if the file system keeps track of holes.
    pub(crate) fn next_data(&self, from: u64) -> u64 {
        match sys::seek_data(&self.cached, from) {
            Ok(Some(offset)) => offset,
            Ok(None) => self.len,
            Err(_) => from,
        }
    }

    /// Offset of the first hole at or after `from`.
    pub(crate) fn next_hole(&self, from: u64) -> u64 {
        match sys::seek_hole(&self.cached, from) {
            Ok(Some(offset)) => offset,
            Ok(None) | Err(_) => self.len,
        }
    }

    fn read_direct(
        &self,
        direct: &File,
        range: &Range<u64>,
        buffer: &mut [u8],
    ) -> io::Result<Range<usize>> {
        let start = range.start - range.start % self.align;
        let end = range.end.next_multiple_of(self.align);
        let inside = index(range.start - start)?..index(range.end - start)?;
        let room = buffer
            .get_mut(..index(end - start)?)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let mut filled = 0;
        // Past the end of the file there are fewer bytes than were requested.
        while filled < inside.end {
            match direct.read_at(&mut room[filled..], start + filled as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) if ((filled + read) as u64).is_multiple_of(self.align) => filled += read,
                // Only at the end of the file; the missing bytes were not requested.
                Ok(read) if filled + read >= inside.end => filled += read,
                Ok(_) => return self.read_cached(range, buffer),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The file system accepted O_DIRECT and then refused the read.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    return self.read_cached(range, buffer);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(inside)
    }

    fn read_cached(&self, range: &Range<u64>, buffer: &mut [u8]) -> io::Result<Range<usize>> {
        let inside = 0..index(range.end - range.start)?;
        let room = buffer
            .get_mut(inside.clone())
            .ok_or(io::ErrorKind::InvalidInput)?;
        // Without direct I/O every read fills the page cache; pages that were there before stay.
        let keep = self.direct.is_some() || sys::is_cached(&self.cached, range).unwrap_or(true);
        self.cached.read_exact_at(room, range.start)?;
        if !keep {
            sys::drop_cached(&self.cached, range.start, range.end - range.start).ok();
        }
        Ok(inside)
    }
}

/// Reads a file front to back, in chunks.
pub(crate) fn feed_file(
    source: &FileSource,
    mut feed: impl FnMut(Bytes) -> Result<()>,
) -> Result<()> {
    let local = LocalSource::new(source)?;
    let mut buffer = AlignedBuf::new(2 * STREAM_READ_BYTES)
        .map_err(|e| Error::io(ErrorKind::Read, "Allocating a buffer failed", e))?;
    let mut chunk = BytesMut::new();
    let mut offset = 0;
    while offset < source.len() {
        let end = source.len().min(offset + STREAM_READ_BYTES as u64);
        let inside = local.read(&(offset..end), &mut buffer)?;
        chunk.extend_from_slice(&buffer[inside]);
        feed(chunk.split().freeze())?;
        offset = end;
    }
    Ok(())
}

fn index(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}
