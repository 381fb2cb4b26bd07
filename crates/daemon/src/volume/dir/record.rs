//! The record of a file volume: its state, as JSON in a separate file.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::SystemTime;

use lvp_api::{JobId, Sha256Digest, Signer};
use serde::{Deserialize, Serialize};

use super::super::{Content, VolumeState};
use super::identity::FileIdentity;

/// Version of the format below; a record of another version is ignored.
const VERSION: u32 = 1;

/// A record has about 500 bytes. A longer one was not written by this program, and is not read.
const LIMIT_BYTES: u64 = 4096;

/// The record of one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// The file that it is about (`identity`). Releases before 1.1 wrote only the inode number; such a record
    /// stays valid, and the next job's record is complete.
    pub(super) inode: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) born_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) word: Option<String>,
    /// The job that wrote the record; None for a file that was handed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) job: Option<JobId>,
    /// The job that ended last on a ready volume without writing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ended: Option<JobId>,
    /// The content when the file became ready, for golden files and their clones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<ContentRecord>,
    /// When the file was last modified before it became ready, in nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) modified_ns: Option<i64>,
    /// Whether the guest's backup GPT was moved to the end of the file when it became ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) expanded: bool,
    /// Whose signature the image had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) signer: Option<Signer>,
    #[serde(flatten)]
    pub(super) state: RecordState,
}

/// The content of a file when it became ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ContentRecord {
    /// The size of the image's disk.
    pub(super) size_bytes: u64,
    /// The disk's digest (`golden::content`).
    pub(super) sha256: Sha256Digest,
}

impl From<&Content> for ContentRecord {
    fn from(content: &Content) -> Self {
        Self {
            size_bytes: content.size_bytes,
            sha256: content.digest,
        }
    }
}

impl From<&ContentRecord> for Content {
    fn from(record: &ContentRecord) -> Self {
        Self {
            size_bytes: record.size_bytes,
            digest: record.sha256,
        }
    }
}

/// The state in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(super) enum RecordState {
    /// It was handed over to this program.
    Adopted,
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
    pub(super) fn new(
        file: FileIdentity,
        word: Option<String>,
        job: Option<JobId>,
        state: RecordState,
    ) -> Self {
        Self {
            version: VERSION,
            inode: file.inode,
            born_ns: file.born_ns,
            word,
            job,
            ended: None,
            content: None,
            modified_ns: None,
            expanded: false,
            signer: None,
            state,
        }
    }

    /// The volume's state according to this record.
    pub(super) fn volume_state(&self) -> VolumeState {
        match (&self.state, self.job) {
            (RecordState::Adopted, _) => VolumeState::Adopted,
            (RecordState::Populating { created }, Some(job)) => VolumeState::Populating {
                job,
                created: *created,
            },
            // This program never writes such a record.
            (RecordState::Populating { .. }, None) => VolumeState::Untagged,
            (RecordState::Ready { image }, job) => VolumeState::Ready {
                job,
                digest: *image,
            },
        }
    }

    /// Whether the file shares extents with a golden one.
    pub(super) fn is_of_clone(&self) -> bool {
        self.content.is_some()
    }

    /// The content when the file became ready, if it is ready.
    pub(super) fn known_content(&self) -> Option<Content> {
        let is_ready = matches!(self.state, RecordState::Ready { .. });
        let content = self.content.as_ref().filter(|_| is_ready);
        content.map(Content::from)
    }

    /// The record of the same file in another state; None for the untagged state, which has no record.
    pub(super) fn saying(&self, state: VolumeState) -> Option<Self> {
        let (job, state) = match state {
            VolumeState::Untagged => return None,
            VolumeState::Adopted => (None, RecordState::Adopted),
            VolumeState::Populating { job, created } => {
                (Some(job), RecordState::Populating { created })
            }
            VolumeState::Ready { job, digest } => (job, RecordState::Ready { image: digest }),
        };
        Some(Self {
            job,
            state,
            ended: None,
            ..self.clone()
        })
    }
}

/// A record, and when it was written.
pub(super) type Written = (Record, Option<SystemTime>);

/// Reads the record at `path`; None if there is none or it cannot be understood.
pub(super) fn read(path: &Path) -> Option<Written> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| {
        let written = file.metadata()?.modified().ok();
        file.take(LIMIT_BYTES).read_to_end(&mut text)?;
        Ok(written)
    });
    let written = match read {
        Ok(written) => written,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "A volume's record cannot be read; the \
                volume counts as untagged");
            return None;
        }
    };
    match serde_json::from_slice::<Record>(&text) {
        Ok(record) if record.version == VERSION => Some((record, written)),
        Ok(record) => {
            let version = record.version;
            tracing::warn!(path = %path.display(), version, "A volume's record has an unknown \
                version; the volume counts as untagged");
            None
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "A volume's record is damaged; the \
                volume counts as untagged");
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
