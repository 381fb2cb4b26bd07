//! The paths of files, records and their unfinished versions, and how they are changed durably.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use lvp_api::VolumeName;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::super::clones::{GoldenKey, waiting_job};
use super::super::{Volume, VolumeError, VolumeErrorKind};
use super::files::{Files, identity_of};
use super::identity::{self, FileIdentity};
use super::record::{self, Record};

/// The directory for records, inside the volume directory.
pub(super) const RECORDS: &str = ".lvp";

/// The directory for golden files, waiting clones and their records, inside [`RECORDS`].
pub(super) const SHARED: &str = "golden";

impl Files {
    /// The record that is valid for this file.
    pub(super) fn record(&self, volume: &Volume) -> Result<Option<Record>, VolumeError> {
        Ok(self.record_of(&volume.name, identity_of(volume)?, &volume.path))
    }

    pub(super) fn record_of(
        &self,
        name: &VolumeName,
        file: FileIdentity,
        path: &Path,
    ) -> Option<Record> {
        // While a file replaces another, there is a record for each.
        ["json", "next"].into_iter().find_map(|suffix| {
            let (record, written) = record::read(&self.record_path(name, suffix))?;
            identity::is_about(&record, written, file, path).then_some(record)
        })
    }

    pub(super) fn write_record(
        &self,
        name: &VolumeName,
        record: &Record,
    ) -> Result<(), VolumeError> {
        self.write_record_as("json", name, record)?;
        // A record that was waiting to become this one is outdated.
        remove_if_there(&self.record_path(name, "next"))
    }

    /// Writes the record with this suffix.
    pub(super) fn write_record_as(
        &self,
        suffix: &str,
        name: &VolumeName,
        record: &Record,
    ) -> Result<(), VolumeError> {
        self.make_records_directory(name)?;
        let (path, staged) = (
            self.record_path(name, suffix),
            self.record_path(name, "tmp"),
        );
        record::write(record, &path, &staged)
            .map_err(|error| VolumeError::io("Writing", &path, error))?;
        sync_directory(&self.records(name))
    }

    fn make_records_directory(&self, name: &VolumeName) -> Result<(), VolumeError> {
        make_directory(&self.directory.join(RECORDS), &self.directory)?;
        match is_apart(name) {
            true => make_directory(&self.records(name), &self.directory.join(RECORDS)),
            false => Ok(()),
        }
    }

    /// Where a new volume's file is until it is recorded.
    pub(super) fn staged(&self, name: &VolumeName) -> Result<PathBuf, VolumeError> {
        self.make_records_directory(name)?;
        Ok(self.record_path(name, "new"))
    }

    /// `NAME.json`, `NAME.next`, `NAME.tmp` and `NAME.new` cannot collide with another volume's: each has one
    /// suffix more than its volume's name, whatever that name ends in.
    pub(super) fn record_path(&self, name: &VolumeName, suffix: &str) -> PathBuf {
        self.records(name).join(format!("{name}.{suffix}"))
    }

    /// The directory of a volume's records.
    pub(super) fn records(&self, name: &VolumeName) -> PathBuf {
        let records = self.directory.join(RECORDS);
        match is_apart(name) {
            true => records.join(SHARED),
            false => records,
        }
    }

    /// The directory of a volume's file.
    pub(super) fn home(&self, name: &VolumeName) -> PathBuf {
        match is_apart(name) {
            true => self.records(name),
            false => self.directory.clone(),
        }
    }

    pub(super) fn path(&self, name: &VolumeName) -> Result<PathBuf, VolumeError> {
        if name.as_str() == RECORDS {
            let message = format!(
                "The name {RECORDS:?} is reserved for the daemon's records: choose another name"
            );
            return Err(VolumeError::new(VolumeErrorKind::NotOurs, message));
        }
        Ok(self.home(name).join(name.as_str()))
    }
}

/// Whether a volume's file is kept in the directory [`SHARED`], and not beside the requested volumes.
pub(super) fn is_apart(name: &VolumeName) -> bool {
    GoldenKey::of_name(name).is_some() || waiting_job(name).is_some()
}

fn make_directory(directory: &Path, above: &Path) -> Result<(), VolumeError> {
    match fs::create_dir(directory) {
        Ok(()) => sync_directory(above),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(VolumeError::io("Creating", directory, error)),
    }
}

/// Gives a new file its name, if the name is free.
pub(super) fn publish(staged: &Path, path: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, staged, CWD, path, RenameFlags::NOREPLACE) {
        // The file system does not support RENAME_NOREPLACE. A hard link fails too if the name is taken, but
        // leaves the file with two names for a moment.
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
