//! The log's file, in addition to the stream: reopened after it was moved away.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use tracing::Level;

use super::behind::Destination;
use crate::files::append;

/// Whether lines could be appended to the file. Does not create it.
pub fn look(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        return LogFile::open(path).map(drop);
    }
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if directory.is_some_and(|directory| !directory.is_dir()) {
        let missing = io::Error::new(io::ErrorKind::NotFound, "There is no such directory");
        return Err(missing).with_context(|| cannot_open(path));
    }
    Ok(())
}

/// A file to which lines are appended. Clones share it.
#[derive(Debug, Clone)]
pub struct LogFile {
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

impl LogFile {
    /// Opens the file for appending, and creates it if it does not exist.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = append(path).with_context(|| cannot_open(path))?;
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(Mutex::new(file)),
        })
    }

    /// Opens the file of the same name again. If that fails, lines still go to the old one.
    pub fn reopen(&self) -> io::Result<()> {
        let file = append(&self.path)?;
        *self.lock() = file;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, File> {
        // A file handle that a panic cannot leave half-changed.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Destination for LogFile {
    fn write(&mut self, _: Level, line: &[u8]) -> io::Result<()> {
        self.lock().write_all(line)
    }
}

fn cannot_open(path: &Path) -> String {
    format!("Cannot open the log {} (logging.file)", path.display())
}
