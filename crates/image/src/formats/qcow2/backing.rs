//! Whether an image has a backing file, by QEMU's rules.

use crate::error::{Error, ErrorKind, Result};
use crate::formats::bytes::{be32, be64, read};
use crate::source::ReadAt;

/// Longest name of a backing file (`docs/interop/qcow2`, `backing_file_size`).
const MAX_NAME_LEN: u32 = 1023;

/// Where the header puts the backing file's name.
#[derive(Debug, Clone, Copy)]
pub(super) struct BackingName {
    offset: u64,
    len: u32,
}

impl BackingName {
    /// The two header fields, which both versions have.
    pub(super) fn new(header: &[u8]) -> Self {
        Self {
            offset: be64(header, 8),
            len: be32(header, 16),
        }
    }

    /// Header extensions end where the name begins, even if the name is empty.
    pub(super) fn extensions_end(self, cluster_size: u32) -> u64 {
        match self.offset {
            0 => u64::from(cluster_size),
            offset => offset,
        }
    }

    /// Refuses an image that has a backing file.
    ///
    /// An image has no backing file if the offset is zero (its length has no meaning then), or if
    /// the name is empty: of length zero, or beginning with a zero byte, where QEMU's string ends.
    pub(super) fn refuse<S: ReadAt>(self, source: &S, cluster_size: u32) -> Result<()> {
        let Self { offset, len } = self;
        if offset == 0 {
            return Ok(());
        }
        let room = u64::from(cluster_size).checked_sub(offset);
        match (room, len) {
            (Some(_), 0) => Ok(()),
            (None, 0) => Err(Error::new(
                ErrorKind::BadHeader,
                format!(
                    "The header puts the backing file's name at {offset:#x}, beyond its cluster \
                     of {cluster_size} bytes"
                ),
            )),
            (Some(room), _) if len <= MAX_NAME_LEN && u64::from(len) <= room => {
                let mut first = [0];
                read(source, "the backing file's name", offset, &mut first)?;
                if first == [0] {
                    Ok(())
                } else {
                    Err(needs_backing_file())
                }
            }
            _ => Err(needs_backing_file()),
        }
    }
}

fn needs_backing_file() -> Error {
    Error::new(
        ErrorKind::BackingFile,
        "The image needs a backing file, which is not supported; flatten it with \
         `qemu-img convert`",
    )
}
