//! Fields in either byte order, and reads of the source with the right error if the file is too short.

use std::io;

use crate::error::{Error, ErrorKind, Result};
use crate::source::ReadAt;

pub(in crate::formats) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(field(bytes, at))
}

pub(in crate::formats) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(field(bytes, at))
}

pub(in crate::formats) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(field(bytes, at))
}

pub(in crate::formats) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

pub(in crate::formats) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

pub(in crate::formats) fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..]
        .first_chunk()
        .expect("fields are read from buffers of the structure's own size")
}

/// Reads exactly `buf.len()` bytes of `what`.
pub(in crate::formats) fn read<S: ReadAt>(
    source: &S,
    what: &str,
    offset: u64,
    buf: &mut [u8],
) -> Result<()> {
    source.read_exact_at(buf, offset).map_err(|error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Error::new(
                ErrorKind::Truncated,
                format!(
                    "The image file ends inside {what}, which has {} bytes at {offset:#x}; \
                     fetch the image again",
                    buf.len()
                ),
            )
        } else {
            Error::io(
                ErrorKind::Read,
                format!("Reading {what} at {offset:#x} of the image"),
                error,
            )
        }
    })
}

/// Reads a table of `len` bytes; the caller has compared `len` with a limit.
pub(in crate::formats) fn read_table(
    source: &dyn ReadAt,
    what: &str,
    offset: u64,
    len: usize,
) -> Result<Vec<u8>> {
    // Checked before memory is allocated.
    let end = offset.checked_add(len as u64);
    if end.is_none_or(|end| end > source.len()) {
        return Err(Error::new(
            ErrorKind::Truncated,
            format!(
                "The image file ends inside {what}, which has {len} bytes at {offset:#x}; fetch the \
                 image again"
            ),
        ));
    }
    let mut table = vec![0; len];
    read(&source, what, offset, &mut table)?;
    Ok(table)
}

/// Reads a table of variable-size records front to back through a small window.
pub(in crate::formats) struct Cursor<'a, S> {
    source: &'a S,
    what: &'static str,
    /// Offset in the source of `window`'s first byte.
    window_offset: u64,
    window: Vec<u8>,
    position: u64,
    end: u64,
}

/// The longest record that a [`Cursor`] is asked for is 64 KiB less one byte.
const CURSOR_WINDOW_BYTES: usize = 128 << 10;

impl<'a, S: ReadAt> Cursor<'a, S> {
    /// A cursor over `what`, from `offset` to at most `end`.
    pub(in crate::formats) fn new(
        source: &'a S,
        what: &'static str,
        offset: u64,
        end: u64,
    ) -> Self {
        Self {
            source,
            what,
            window_offset: offset,
            window: Vec::new(),
            position: offset,
            end: end.min(source.len()),
        }
    }

    /// Offset in the source of the next byte.
    pub(in crate::formats) fn position(&self) -> u64 {
        self.position
    }

    /// Skips `len` bytes, which have to be inside the file.
    pub(in crate::formats) fn skip(&mut self, len: u64) -> Result<()> {
        if len > self.end.saturating_sub(self.position) {
            return Err(self.ended());
        }
        self.position += len;
        Ok(())
    }

    /// The next `len` bytes.
    pub(in crate::formats) fn take(&mut self, len: usize) -> Result<&[u8]> {
        let available = self.end.saturating_sub(self.position);
        if len as u64 > available {
            return Err(self.ended());
        }
        let mut start = usize::try_from(self.position - self.window_offset).unwrap_or(usize::MAX);
        if start > self.window.len() || len > self.window.len() - start {
            let window_len = usize::try_from(available)
                .unwrap_or(usize::MAX)
                .min(CURSOR_WINDOW_BYTES.max(len));
            self.window.resize(window_len, 0);
            read(self.source, self.what, self.position, &mut self.window)?;
            self.window_offset = self.position;
            start = 0;
        }
        self.position += len as u64;
        Ok(&self.window[start..start + len])
    }

    fn ended(&self) -> Error {
        Error::new(
            ErrorKind::Truncated,
            format!(
                "{} ends at {:#x}, before its last record does",
                self.what, self.end
            ),
        )
    }
}
