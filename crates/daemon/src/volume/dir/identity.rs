//! Which file a record is about.
//!
//! A file system gives the number of a removed file to the next one, so the number alone means
//! nothing. Beside it a record has the file's time of birth, which nobody can set (ext4, XFS, Btrfs,
//! tmpfs), and a word that is in the file's extended attributes as well. Both get lost when a file is
//! replaced, restored or copied: then it is another file, and untagged. On a file system that has
//! neither, the number has to do.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use lvp_api::JobId;
use rustix::fs::XattrFlags;

use super::record::Record;

/// The extended attribute with the word; `user.` is what every process that may write has.
pub(super) const ATTRIBUTE: &str = "user.lvp.file";

/// The word is a UUID. What is longer is not ours.
const WORD_BYTES: usize = 36;

/// A file as far as looking at it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    pub(super) inode: u64,
    /// Nanoseconds since 1970; none where the file system does not keep it.
    pub(super) born_ns: Option<u64>,
}

impl FileIdentity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            born_ns: metadata.created().ok().and_then(nanoseconds),
        }
    }
}

/// Whether `record`, last written at `written`, is about the file at `path`.
pub(super) fn is_about(
    record: &Record,
    written: Option<SystemTime>,
    file: FileIdentity,
    path: &Path,
) -> bool {
    let born = match (record.born_ns, file.born_ns) {
        (Some(recorded), Some(born)) => recorded == born,
        (Some(_), None) => false,
        // Written by a release that did not keep it: the file was there before its record.
        (None, Some(born)) => written.and_then(nanoseconds).is_some_and(|at| born <= at),
        (None, None) => true,
    };
    let word = match &record.word {
        Some(word) => read_word(path).as_ref() == Some(word),
        None => true,
    };
    record.inode == file.inode && born && word
}

/// Gives the file a new word; None where the file system has no room for it.
pub(super) fn mark(file: &File) -> Option<String> {
    let word = JobId::random().to_string();
    match rustix::fs::fsetxattr(file, ATTRIBUTE, word.as_bytes(), XattrFlags::empty()) {
        Ok(()) => Some(word),
        Err(error) => {
            tracing::debug!(%error, "the file system keeps no extended attributes");
            None
        }
    }
}

fn read_word(path: &Path) -> Option<String> {
    let mut word = [0; WORD_BYTES];
    let length = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut word[..]).ok()?;
    String::from_utf8(word.get(..length)?.to_vec()).ok()
}

/// When a file was last modified, in nanoseconds since 1970.
pub(super) fn modified_ns(metadata: &Metadata) -> Option<i64> {
    let seconds = metadata.mtime().checked_mul(1_000_000_000)?;
    seconds.checked_add(metadata.mtime_nsec())
}

fn nanoseconds(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos()).ok()
}
