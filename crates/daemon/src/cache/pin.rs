//! A published image that is in use.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use lvp_api::Sha256Digest;

use crate::seats::Seat;
use crate::stamp::FileStamp;

/// A published image, which is not removed while this lives: its open file, as it was verified.
pub struct Pin {
    seat: Seat<Sha256Digest>,
    path: PathBuf,
    file: File,
    pub(super) stamp: FileStamp,
}

impl Pin {
    pub(super) fn new(
        seat: Seat<Sha256Digest>,
        path: PathBuf,
        file: File,
        stamp: FileStamp,
    ) -> Self {
        Self {
            seat,
            path,
            file,
            stamp,
        }
    }

    /// The path of the image's file, for display; read [`Pin::file`] instead, as another file may have this
    /// path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open image. Its file offset is shared, so it is read by position only.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The image's digest.
    pub fn digest(&self) -> Sha256Digest {
        *self.seat.of()
    }

    /// The file's length.
    pub fn size_bytes(&self) -> u64 {
        self.stamp.size_bytes
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pin").field(&self.digest()).finish()
    }
}
