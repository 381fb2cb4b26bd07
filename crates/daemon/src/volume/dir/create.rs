//! New files: filled, recorded, and only then renamed to their names.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use lvp_api::{JobId, VolumeName};

use super::super::{Content, Volume, VolumeError, VolumeErrorKind, VolumeState, round_up};
use super::files::{Files, SECTOR_BYTES};
use super::identity::{self, FileIdentity};
use super::place::{publish, remove_if_there, sync_directory};
use super::record::{ContentRecord, Record, RecordState};

impl Files {
    pub(super) fn create(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        job: JobId,
    ) -> Result<Volume, VolumeError> {
        let path = self.path(name)?;
        let free_bytes = self.probe()?.free_bytes;
        let no_space = |want_bytes| {
            VolumeError::no_space(
                &self.directory.display().to_string(),
                free_bytes,
                want_bytes,
            )
        };
        let size_bytes = round_up(size_bytes, SECTOR_BYTES).ok_or_else(|| no_space(size_bytes))?;
        if let Some(existing) = self.lookup(name)? {
            let same = VolumeState::Populating { job, created: true };
            if existing.state == same && existing.size_bytes == size_bytes {
                return Ok(existing);
            }
            return Err(already_exists(&path));
        }
        // A sparse file takes no space yet, but a guest that fills its disk must not fill the host's file
        // system.
        if size_bytes > free_bytes {
            return Err(no_space(size_bytes));
        }
        self.make(name, job, None, |file, staged| {
            file.set_len(size_bytes)
                .map_err(|error| VolumeError::io("Sizing", staged, error))
        })
    }

    /// Creates a file, which gets its name once it is filled and recorded.
    pub(super) fn make(
        &self,
        name: &VolumeName,
        job: JobId,
        content: Option<&Content>,
        fill: impl FnOnce(&File, &Path) -> Result<(), VolumeError>,
    ) -> Result<Volume, VolumeError> {
        let path = self.path(name)?;
        let staged = self.staged(name)?;
        remove_if_there(&staged)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&staged)
            .map_err(|error| VolumeError::io("Creating", &staged, error))?;
        if let Err(error) = fill(&file, &staged) {
            remove_if_there(&staged)?;
            return Err(error);
        }
        // Before the sync: a record with a word that the file has lost would be about no file.
        let word = identity::mark(&file);
        let metadata = file
            .sync_all()
            .and_then(|()| file.metadata())
            .map_err(|error| VolumeError::io("Syncing", &staged, error))?;
        let state = RecordState::Populating { created: true };
        let identity = FileIdentity::of(&metadata);
        let mut record = Record::new(identity, word, Some(job), state);
        record.content = content.map(ContentRecord::from);
        self.write_record(name, &record)?;
        if let Err(error) = publish(&staged, &path) {
            // The file that has the name now may be somebody else's, so no record of it is left.
            remove_if_there(&staged)?;
            remove_if_there(&self.record_path(name, "json"))?;
            return Err(match error.kind() {
                io::ErrorKind::AlreadyExists => already_exists(&path),
                _ => VolumeError::io("Creating", &path, error),
            });
        }
        sync_directory(&self.home(name))?;
        self.volume(name, &metadata)
    }
}

fn already_exists(path: &Path) -> VolumeError {
    let message = format!("{} already exists", path.display());
    VolumeError::new(VolumeErrorKind::AlreadyExists, message)
}
