//! What a file volume says of itself, as JSON in a file of its own.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use lvp_api::{JobId, Sha256Digest};
use serde::{Deserialize, Serialize};

/// Version of the form below; a record of another one is not understood.
const VERSION: u32 = 1;

/// A record has about 250 bytes. What is longer is not ours and not read.
const LIMIT_BYTES: u64 = 4096;

/// The record of one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// The file it is about.
    pub(super) inode: u64,
    /// The job that wrote the record.
    pub(super) job: JobId,
    #[serde(flatten)]
    pub(super) state: RecordState,
}

/// The state that a record holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(super) enum RecordState {
    /// The job is writing it.
    Populating {
        /// The job also created it.
        created: bool,
    },
    /// It holds an image.
    Ready {
        /// The image's digest.
        image: Sha256Digest,
    },
}

impl Record {
    pub(super) fn new(inode: u64, job: JobId, state: RecordState) -> Self {
        Self {
            version: VERSION,
            inode,
            job,
            state,
        }
    }
}

/// The record at `path`; None when there is none that can be understood.
pub(super) fn read(path: &Path) -> Option<Record> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LIMIT_BYTES).read_to_end(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read a volume's record");
            return None;
        }
    }
    match serde_json::from_slice::<Record>(&text) {
        Ok(record) if record.version == VERSION => Some(record),
        Ok(record) => {
            let version = record.version;
            tracing::warn!(path = %path.display(), version, "a volume's record is of another version");
            None
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a volume's record is broken");
            None
        }
    }
}

/// Replaces the record at `path`, complete or not at all; the caller syncs the directory.
pub(super) fn write(record: &Record, path: &Path, staged: &Path) -> io::Result<()> {
    let mut file = File::create(staged)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    drop(file);
    fs::rename(staged, path)
}
