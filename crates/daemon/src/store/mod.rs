//! The database: intent and results of jobs, the cache's index, measurements.
//!
//! The only module with SQL. One thread owns the only writing connection, so that every write is
//! one transaction after the other and a read-then-write decision cannot race; a second
//! thread reads. Both take closures over channels, and nothing async ever waits for the disk
//! on an async thread.
//!
//! A write has happened when its future returns: the journal is in WAL mode with
//! `synchronous=FULL`, so a commit is on the disk.

mod backup;
mod events;
mod files;
mod images;
mod jobs;
mod measurements;
mod offline;
mod places;
mod seal;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

pub use backup::{Health, backup, backup_name, check, prune as prune_backups};
pub use events::{EVENTS_MAX, NewEvent, WaitingEvent};
pub use images::{ImageRow, ObjectRow, PartialRow};
pub use jobs::JobFilter;
pub use offline::{cancel_unfinished, volumes_of_go_program};

use crate::lock::LockError;
use files::{Files, Lost};
use seal::Seal;

/// The schema's version, kept in the file's `user_version`.
const VERSION: i32 = 4;

/// What brings a database from one version to the next.
const STEPS: [(i32, &str); 4] = [
    (1, include_str!("schema.sql")),
    (2, include_str!("schema-2.sql")),
    (3, include_str!("schema-3.sql")),
    (4, include_str!("schema-4.sql")),
];

/// How long a statement waits for another process that holds the database, such as a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests that may wait for one of the two threads.
const QUEUE: usize = 256;

/// What went wrong in the database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file cannot be opened or made.
    #[error("Cannot open the database {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file's directory cannot be made.
    #[error("Cannot make the database's directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// One of the database's files cannot be made, looked at or taken from others' eyes.
    #[error("Cannot use the database's file {}", path.display())]
    Files {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has the database, or its lock cannot be had.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// One of the open files is no longer at its path: nothing that is written would be found again.
    #[error(
        "{} was {} while the daemon runs, so nothing is written: put that very file back, or restart the \
         daemon to go on with what is there",
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
        "The database {} has version {found}, this release knows {VERSION}: use the release that \
         wrote it or newer",
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
    /// A copy cannot be made.
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

    /// Whether it may pass without a restart and without any change to what was asked for.
    pub fn may_heal(&self) -> bool {
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

    /// A bounded word for metrics.
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

/// Told of every operation and how it ended; the metrics listen.
pub trait Observer: Send + Sync {
    /// One operation ended.
    fn operation(&self, operation: &'static str, error_type: Option<&'static str>);
}

type Work = Box<dyn FnOnce(&mut Connection) + Send>;

/// The open database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    writer: mpsc::Sender<Work>,
    reader: mpsc::Sender<Work>,
    observer: Arc<dyn Observer>,
    files: Arc<Files>,
    seal: Arc<Seal>,
}

/// Why work on the database's threads failed.
enum Trouble {
    Statement(rusqlite::Error),
    Lost(Lost),
}

impl From<rusqlite::Error> for Trouble {
    fn from(source: rusqlite::Error) -> Self {
        Self::Statement(source)
    }
}

impl Trouble {
    fn of(self, operation: &'static str) -> StoreError {
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

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database, making it and its directory when absent, checks it, and brings its schema
    /// up to date. Blocks; call it before serving.
    pub fn open(path: &Path, observer: Arc<dyn Observer>) -> Result<Self, StoreError> {
        if let Some(directory) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            std::fs::create_dir_all(directory).map_err(|source| StoreError::Directory {
                path: directory.to_owned(),
                source,
            })?;
        }
        let opened = |source| StoreError::Open {
            path: path.to_owned(),
            source,
        };
        // Before the connections, and dropped after them.
        let files = Arc::new(Files::open(path)?);
        let mut writer = Connection::open(files.path()).map_err(opened)?;
        prepare(path, &mut writer)?;
        stamp(&writer).map_err(opened)?;
        files.remember().map_err(|source| StoreError::Files {
            path: path.to_owned(),
            source,
        })?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(files.path(), flags).map_err(opened)?;
        reader.busy_timeout(BUSY_TIMEOUT).map_err(opened)?;
        Ok(Self {
            writer: spawn("store-writer", writer, Arc::clone(&files)),
            reader: spawn("store-reader", reader, Arc::clone(&files)),
            observer,
            seal: Arc::new(Seal::beside(files.path())),
            files,
        })
    }

    /// The database's file.
    pub fn path(&self) -> &Path {
        self.files.path()
    }

    /// Runs `work` in a transaction of its own on the writing thread. It is committed when `work`
    /// returns `Ok`, and happens whether or not the caller still waits.
    async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let files = Arc::clone(&self.files);
        self.run(&self.writer, operation, move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            // The last thing before: what is committed is where the next start looks for it.
            files.check().map_err(Trouble::Lost)?;
            transaction.commit()?;
            Ok(value)
        })
        .await
    }

    /// Runs `work` on the reading thread.
    async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(&self.reader, operation, move |connection| {
            Ok(work(connection)?)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        thread: &mpsc::Sender<Work>,
        operation: &'static str,
        work: impl FnOnce(&mut Connection) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, result) = oneshot::channel();
        let job: Work = Box::new(move |connection| {
            // The caller may have gone; the work is done all the same.
            drop(answer.send(work(connection)));
        });
        let result = match thread.send(job).await {
            Ok(()) => result.await.map_err(|_| StoreError::Closed),
            Err(_) => Err(StoreError::Closed),
        }
        .and_then(|value| value.map_err(|trouble| trouble.of(operation)));
        self.observer
            .operation(operation, result.as_ref().err().map(StoreError::error_type));
        result
    }

    /// Whether the database can be written now, by this daemon alone.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let files = Arc::clone(&self.files);
        let renewed = tokio::task::spawn_blocking(move || files.renew_lock());
        renewed.await.map_err(|_| StoreError::Closed)??;
        // A write to the header's application id is the least that takes the whole way to the disk.
        self.write("probe", |transaction| stamp(transaction)).await
    }
}

/// Marks the file as this program's (`file(1)` shows it); "LVPv" in ASCII.
const APPLICATION_ID: i32 = 0x4c56_5076;

fn stamp(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "application_id", APPLICATION_ID)
}

fn spawn(name: &str, mut connection: Connection, files: Arc<Files>) -> mpsc::Sender<Work> {
    let (sender, mut receiver) = mpsc::channel::<Work>(QUEUE);
    let run = move || {
        while let Some(work) = receiver.blocking_recv() {
            work(&mut connection);
        }
        drop(connection);
        // Not before: closing its descriptor drops SQLite's locks too.
        drop(files);
    };
    // A process that cannot start two threads at its start can do nothing else either.
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .expect("the process can start its database threads");
    sender
}

/// What a failure before the first use means: a damaged file, or one that cannot be opened.
fn opening_failed(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            StoreError::Corrupt {
                path,
                finding: source.to_string(),
            }
        }
        _ => StoreError::Open { path, source },
    }
}

fn prepare(path: &Path, connection: &mut Connection) -> Result<(), StoreError> {
    let damaged = |finding: String| StoreError::Corrupt {
        path: path.to_owned(),
        finding,
    };
    let failed = |source| opening_failed(path, source);
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .map_err(failed)?;
    connection
        .pragma_update(None, "synchronous", "FULL")
        .map_err(failed)?;
    connection
        .pragma_update(None, "foreign_keys", "ON")
        .map_err(failed)?;
    let finding: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(failed)?;
    if finding != "ok" {
        return Err(damaged(finding));
    }
    let found: i32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(failed)?;
    if found > VERSION {
        return Err(StoreError::TooNew {
            path: path.to_owned(),
            found,
        });
    }
    for (version, step) in STEPS.into_iter().filter(|(version, _)| found < *version) {
        let transaction = connection.transaction().map_err(failed)?;
        transaction.execute_batch(step).map_err(failed)?;
        transaction
            .pragma_update(None, "user_version", version)
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
