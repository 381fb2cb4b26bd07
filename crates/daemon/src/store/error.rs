//! The errors of the database.

use std::path::PathBuf;

use super::files::Lost;
use super::schema::VERSION;
use crate::lock::LockError;

/// An error of the database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file cannot be opened or created.
    #[error("Cannot open the database {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file's directory cannot be created.
    #[error("Cannot create the database's directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// One of the database's files cannot be created or inspected, or its mode cannot be set.
    #[error("Cannot use the database's file {}", path.display())]
    Files {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process uses the database, or its lock cannot be taken.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// One of the open files is no longer at its path: the next start would not find what is written.
    #[error(
        "{} was {} while the daemon was running, so nothing is written: put the same file back, \
         or restart the daemon to continue with what is there now",
        path.display(),
        if *replaced { "replaced" } else { "removed" }
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// Whether there is another one in its place.
        replaced: bool,
    },
    /// The file is damaged.
    #[error(
        "The database {} is damaged ({finding}): stop the daemon, move the file away and restore a \
         backup, or start without one (volumes and cached images are kept; the history of jobs is lost)",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite's check says.
        finding: String,
    },
    /// A newer release wrote the file.
    #[error(
        "The database {} has version {found}, and this release knows versions up to {VERSION}: \
         use the release that wrote it, or a newer one",
        path.display()
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i32,
    },
    /// Another process has the file open.
    #[error("The database {} is in use: stop the daemon first", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A backup cannot be made.
    #[error("Cannot make the backup {}", path.display())]
    Backup {
        /// The copy.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A statement failed.
    #[error("The database operation {operation} failed")]
    Statement {
        /// Which operation.
        operation: &'static str,
        /// Why.
        source: rusqlite::Error,
    },
    /// The database's thread is gone: the daemon is stopping.
    #[error("The database is closed")]
    Closed,
}

impl StoreError {
    /// Whether the database's file system was full.
    pub fn is_full(&self) -> bool {
        self.error_type() == "disk_full"
    }

    /// Whether the error may be temporary, so that the same operation can succeed later without a restart.
    pub fn is_recoverable(&self) -> bool {
        use rusqlite::ErrorCode as Code;
        match self {
            Self::Lost { .. } | Self::Locked(_) => true,
            Self::Statement { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(
                    Code::DiskFull
                        | Code::SystemIoFailure
                        | Code::DatabaseBusy
                        | Code::DatabaseLocked
                        | Code::CannotOpen
                        | Code::ReadOnly
                )
            ),
            _ => false,
        }
    }

    /// A word from a fixed list, for metrics.
    pub fn error_type(&self) -> &'static str {
        let source = match self {
            Self::Statement { source, .. } => source,
            Self::Lost { .. } => return "lost",
            _ => return "unavailable",
        };
        match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => "disk_full",
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => "busy",
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                "corrupt"
            }
            Some(rusqlite::ErrorCode::ConstraintViolation) => "constraint",
            Some(rusqlite::ErrorCode::SystemIoFailure) => "io",
            _ => "other",
        }
    }
}

/// Why work on the database's threads failed.
pub(super) enum Trouble {
    Statement(rusqlite::Error),
    Lost(Lost),
}

impl From<rusqlite::Error> for Trouble {
    fn from(source: rusqlite::Error) -> Self {
        Self::Statement(source)
    }
}

impl Trouble {
    pub(super) fn of(self, operation: &'static str) -> StoreError {
        match self {
            Self::Statement(source) => StoreError::Statement { operation, source },
            Self::Lost(Lost::Removed(path)) => StoreError::Lost {
                path,
                replaced: false,
            },
            Self::Lost(Lost::Replaced(path)) => StoreError::Lost {
                path,
                replaced: true,
            },
        }
    }
}
