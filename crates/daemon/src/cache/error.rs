//! The errors of the cache.

use std::io;
use std::path::{Path, PathBuf};

use lvp_api::Sha256Digest;

use crate::files::is_full;
use crate::lock::LockError;
use crate::store::StoreError;

/// An error of the cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// A file operation failed.
    #[error("Cannot {action} {}", path.display())]
    File {
        /// What was to be done.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The directory is missing, or is not the cache.
    #[error(
        "The cache directory {} {why}: restore it, or restart the daemon to start with what is \
         there now",
        dir.display()
    )]
    Lost {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another process uses the cache, or its lock cannot be taken.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// The image does not fit.
    #[error(
        "The image needs {needed} bytes, and the cache in {} can provide {available} (after \
         eviction, without cache.min_free_bytes and what running jobs have reserved): free space \
         there or raise the limits",
        dir.display()
    )]
    NoRoom {
        /// The cache's directory.
        dir: PathBuf,
        /// What it can provide.
        available: u64,
        /// What is needed.
        needed: u64,
    },
    /// The image is being used.
    #[error("Image {0} is in use by a job: wait for it, then delete the image again")]
    InUse(Sha256Digest),
    /// The index does not answer.
    #[error("The cache's index does not answer")]
    Index(#[from] StoreError),
}

impl CacheError {
    pub(super) fn file(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the disk was full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::File { source, .. } => is_full(source),
            Self::Index(error) => error.is_full(),
            Self::InUse(_) | Self::Lost { .. } | Self::Locked(_) => false,
        }
    }

    /// Whether the error may be temporary, so that the same operation can succeed later without a restart.
    pub fn is_recoverable(&self) -> bool {
        match self {
            Self::Lost { .. } | Self::Locked(_) => true,
            Self::Index(error) => error.is_recoverable(),
            _ => false,
        }
    }
}
