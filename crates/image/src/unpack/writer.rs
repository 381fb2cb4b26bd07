//! Writes an unpacked image, leaving out its zeros.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::error::{Error, ErrorKind, Result};
use crate::source::FileSource;

/// The granule in which zeros are left out.
const BLOCK_BYTES: usize = 64 << 10;

/// Writes the unpacked image.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    len: u64,
    max_bytes: u64,
}

impl Writer {
    pub(super) fn new(file: File, max_bytes: u64) -> Self {
        Self {
            file,
            len: 0,
            max_bytes,
        }
    }

    /// The length of the image so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Writes the next bytes.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(self.len, bytes)
    }

    /// Writes at an offset; bytes that are left out read as zero.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.extend(offset + bytes.len() as u64)?;
        let mut offset = offset;
        for block in bytes.chunks(BLOCK_BYTES) {
            if block.iter().any(|byte| *byte != 0) {
                self.file.write_all_at(block, offset).map_err(failed)?;
            }
            offset += block.len() as u64;
        }
        Ok(())
    }

    /// The image has at least this length.
    pub(super) fn extend(&mut self, len: u64) -> Result<()> {
        if len > self.max_bytes {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "The image has more than {} bytes when it is unpacked, which is all that there is \
                     room for",
                    self.max_bytes
                ),
            ));
        }
        self.len = self.len.max(len);
        Ok(())
    }

    /// The file, with its length.
    pub(super) fn whole(&self) -> Result<&File> {
        self.file.set_len(self.len).map_err(failed)?;
        Ok(&self.file)
    }

    pub(super) fn finish(self) -> Result<FileSource> {
        self.whole()?;
        FileSource::new(self.file).map_err(failed)
    }
}

fn failed(source: io::Error) -> Error {
    let kind = ErrorKind::of_write(&source);
    Error::io(kind, "Writing the unpacked image failed", source)
}
