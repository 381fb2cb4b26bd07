//! Why a pass ended early.

use std::io;
use std::path::PathBuf;

use tokio::task::JoinError;

use crate::cache::CacheError;
use crate::files::is_full;
use crate::job::stop::StopReason;
use crate::source::{SourceError, SourceErrorKind};
use crate::store::StoreError;

/// Why a pass over an image ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The job was told to stop.
    #[error("The transfer was stopped")]
    Stopped(StopReason),
    /// The object cannot be read, or is not the one that was planned for.
    #[error("The image cannot be fetched")]
    Source(#[from] SourceError),
    /// The image cannot be decoded, or the volume cannot be written.
    #[error("The image cannot be copied")]
    Image(#[from] lvp_image::Error),
    /// The partial file cannot be opened.
    #[error("The image cannot be cached")]
    Cache(#[from] CacheError),
    /// The durable bytes cannot be recorded.
    #[error("The download cannot be recorded")]
    Store(#[from] StoreError),
    /// The partial file cannot be read or written.
    #[error("Cannot write the cache file {}", path.display())]
    CacheFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The source ended too early, without an error.
    #[error("The transfer ended after {received_bytes} of {size_bytes} bytes")]
    Incomplete {
        /// How many bytes arrived.
        received_bytes: u64,
        /// How many were announced.
        size_bytes: u64,
    },
    /// There is no memory for the pieces.
    #[error("Out of memory")]
    Memory(#[source] io::Error),
    /// A task panicked: a bug in the daemon.
    #[error("The transfer crashed; see the log")]
    Task(#[from] JoinError),
    /// A thread panicked: a bug in the daemon.
    #[error("A transfer thread crashed; see the log")]
    Crashed,
}

impl TransferError {
    /// Whether the cache's disk is full.
    pub fn is_cache_full(&self) -> bool {
        match self {
            Self::Cache(error) => error.is_full(),
            Self::CacheFile { source, .. } => is_full(source),
            _ => false,
        }
    }

    /// Whether what was downloaded is of no further use: it takes the last free bytes of a disk that
    /// others need, or the object has been replaced.
    pub fn discards_partial(&self) -> bool {
        match self {
            Self::Source(error) => error.kind() == SourceErrorKind::ObjectChanged,
            _ => self.is_cache_full(),
        }
    }
}
