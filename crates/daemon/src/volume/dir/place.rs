//! Where files, their records and what is not finished of either are, and how they change durably.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use lvp_api::VolumeName;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::super::{Volume, VolumeError, VolumeErrorKind};
use super::files::{Files, identity_of};
use super::identity::{self, FileIdentity};
use super::record::{self, Record};

/// The directory inside the volumes' that has their records.
pub(super) const RECORDS: &str = ".lvp";

impl Files {
    /// The record that is about this very file.
    pub(super) fn record(&self, volume: &Volume) -> Result<Option<Record>, VolumeError> {
        Ok(self.record_of(&volume.name, identity_of(volume)?, &volume.path))
    }

    pub(super) fn record_of(
        &self,
        name: &VolumeName,
        file: FileIdentity,
        path: &Path,
    ) -> Option<Record> {
        let (record, written) = record::read(&self.record_path(name, "json"))?;
        identity::is_about(&record, written, file, path).then_some(record)
    }

    pub(super) fn write_record(
        &self,
        name: &VolumeName,
        record: &Record,
    ) -> Result<(), VolumeError> {
        self.make_records_directory()?;
        let (path, staged) = (
            self.record_path(name, "json"),
            self.record_path(name, "tmp"),
        );
        record::write(record, &path, &staged)
            .map_err(|error| VolumeError::io("Writing", &path, error))?;
        sync_directory(&self.directory.join(RECORDS))
    }

    fn make_records_directory(&self) -> Result<(), VolumeError> {
        let directory = self.directory.join(RECORDS);
        match fs::create_dir(&directory) {
            Ok(()) => sync_directory(&self.directory),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(VolumeError::io("Creating", &directory, error)),
        }
    }

    /// Where a new volume's file is until it is recorded.
    pub(super) fn staged(&self, name: &VolumeName) -> Result<PathBuf, VolumeError> {
        self.make_records_directory()?;
        Ok(self.record_path(name, "new"))
    }

    /// `NAME.json`, `NAME.tmp` and `NAME.new` cannot be another volume's: each has one suffix more
    /// than its volume's name, whatever that name ends in.
    pub(super) fn record_path(&self, name: &VolumeName, suffix: &str) -> PathBuf {
        self.directory
            .join(RECORDS)
            .join(format!("{name}.{suffix}"))
    }

    pub(super) fn path(&self, name: &VolumeName) -> Result<PathBuf, VolumeError> {
        if name.as_str() == RECORDS {
            let message = format!(
                "The name {RECORDS:?} is reserved: the daemon keeps its records there; choose \
                 another"
            );
            return Err(VolumeError::new(VolumeErrorKind::NotOurs, message));
        }
        Ok(self.directory.join(name.as_str()))
    }
}

/// Gives a new file its name, if that is free.
pub(super) fn publish(staged: &Path, path: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, staged, CWD, path, RenameFlags::NOREPLACE) {
        // A file system that cannot tell whether the name is free. A link tells; it leaves the file
        // with two names for a moment.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            fs::hard_link(staged, path)?;
            fs::remove_file(staged)
        }
        renamed => Ok(renamed?),
    }
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), VolumeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(VolumeError::io("Removing", path, error))
        }
        _ => Ok(()),
    }
}

pub(super) fn sync_directory(path: &Path) -> Result<(), VolumeError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| VolumeError::io("Syncing", path, error))
}
