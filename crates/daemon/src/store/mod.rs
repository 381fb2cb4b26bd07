//! The database: requests and results of jobs, the cache's index, measurements.
//!
//! This is the only module with SQL. One thread owns the only writing connection, so that writes are serialised
//! and a decision that reads and then writes cannot race; a second thread reads. Both receive closures through
//! channels, so that no async thread waits for the disk.
//!
//! A write has happened when its future returns: the journal is in WAL mode with
//! `synchronous=FULL`, so a commit is on the disk.

mod backup;
mod contents;
mod courses;
mod error;
mod events;
mod files;
mod fleet;
mod golden;
mod history;
mod images;
mod jobs;
mod literal;
mod measurements;
mod offline;
mod places;
mod rows;
mod schema;
mod seal;
mod unpacked;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

pub use backup::{Health, backup, backup_name, check, prune as prune_backups};
pub use error::StoreError;
pub use events::{EVENTS_MAX, NewEvent, WaitingEvent};
pub use fleet::{FLEET_ORDERS_KEPT, FleetRow};
pub use golden::GoldenRow;
pub use images::{ImageRow, ObjectRow, PartialRow};
pub use jobs::JobFilter;
pub use measurements::Measurement;
pub use offline::{cancel_unfinished, volumes_of_go_program};
pub use unpacked::UnpackedRow;

use crate::threads::blocking;
use error::Trouble;
use files::Files;
use schema::{BUSY_TIMEOUT, prepare, stamp};
use seal::Seal;

/// Requests that may wait for one of the two threads.
const QUEUE: usize = 256;

/// Every operation, by the name that it is counted under.
pub const OPERATIONS: [&str; 52] = [
    "create_job",
    "update_job",
    "end_job",
    "get_job",
    "list_jobs",
    "unfinished_jobs",
    "completed_volumes",
    "job_before",
    "volume_holder",
    "completed_after",
    "forget_jobs",
    "history",
    "keep_course",
    "get_course",
    "publish_image",
    "refresh_image",
    "get_image",
    "get_object",
    "kept_objects",
    "list_images",
    "touch_image",
    "forget_image",
    "save_partial",
    "get_partial",
    "forget_partials",
    "forget_partial",
    "save_unpacked",
    "get_unpacked",
    "list_unpacked",
    "forget_unpacked",
    "count_copy",
    "save_golden",
    "golden_cloned",
    "get_golden",
    "list_golden",
    "forget_golden",
    "save_content",
    "get_content",
    "stage_rate",
    "waiting_events",
    "forget_event",
    "forget_receivers",
    "use_place",
    "forget_place",
    "get_fleet_order",
    "save_fleet_order",
    "end_fleet_order",
    "fleet_order_published",
    "list_fleet_orders",
    "unfinished_by_key",
    "jobs_by_key",
    "probe",
];

/// Every word of [`StoreError::error_type`].
pub const ERROR_TYPES: [&str; 8] = [
    "disk_full",
    "busy",
    "corrupt",
    "constraint",
    "io",
    "lost",
    "unavailable",
    "other",
];

/// Is informed of every operation and how it ended; the metrics implement it.
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

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database, creating it and its directory if absent, checks it, and brings its schema up to
    /// date. Blocks; call it before serving.
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
            // Last before the commit, so that what is committed is where the next start looks for it.
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
            // The caller may have gone; the work is done anyway.
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
        let renewed = blocking(move || files.renew_lock());
        renewed.await.map_err(|_| StoreError::Closed)??;
        // Writing the header's application id is the smallest write that goes all the way to the disk.
        self.write("probe", |transaction| stamp(transaction)).await
    }
}

fn spawn(name: &str, mut connection: Connection, files: Arc<Files>) -> mpsc::Sender<Work> {
    let (sender, mut receiver) = mpsc::channel::<Work>(QUEUE);
    let run = move || {
        while let Some(work) = receiver.blocking_recv() {
            work(&mut connection);
        }
        drop(connection);
        // Only now: closing its descriptor drops SQLite's locks too.
        drop(files);
    };
    // A process that cannot start two threads cannot do anything else either.
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .expect("the process can start its database threads");
    sender
}

#[cfg(test)]
mod tests;
