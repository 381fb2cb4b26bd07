//! The source of an image's bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::sys;

/// Random access to the bytes of one image.
///
/// This is the only way in which this crate reads an image. Implementations may be remote and slow;
/// callers batch their reads.
pub trait ReadAt: Send + Sync {
    /// Length of the source in bytes; does not change while the image is read.
    fn len(&self) -> u64;

    /// Whether the source holds no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset`. A read that would extend past the end of the source is an
    /// [`io::ErrorKind::UnexpectedEof`].
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// The first offset from `offset` on that may hold anything but zero bytes.
    ///
    /// A sparse file knows without reading; implementations that do not know return `offset`.
    fn next_data(&self, offset: u64) -> u64 {
        offset
    }
}

/// A local file as an image source.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    len: u64,
}

impl FileSource {
    /// Takes an open file (or block device); its length is read once, here.
    pub fn new(mut file: File) -> io::Result<Self> {
        // Seeking also works for block devices, whose metadata gives a length of zero.
        let len = io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        Ok(Self { file, len })
    }

    /// The file itself, for readers that bypass the page cache.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl ReadAt for FileSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn next_data(&self, offset: u64) -> u64 {
        match sys::seek_data(&self.file, offset) {
            Ok(data) => data.unwrap_or(self.len),
            // Not every file system and device can tell.
            Err(_) => offset,
        }
    }
}

impl ReadAt for [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..)?.get(..buf.len()))
            .map(|bytes| buf.copy_from_slice(bytes))
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buf, offset)
    }

    fn next_data(&self, offset: u64) -> u64 {
        (**self).next_data(offset)
    }
}
