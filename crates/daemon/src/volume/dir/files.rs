//! The blocking work of the file back end: one function for each of the trait's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lvp_api::{JobId, VolumeKind, VolumeName};
use rustix::fs::{Access, FallocateFlags, FlockOperation};
use rustix::io::Errno;

use super::super::{
    Capacity, Identity, Made, OpenVolume, Removed, Unmarked, Volume, VolumeError, VolumeErrorKind,
    VolumeState, how_to_adopt,
};
use super::claim::lock_against_qemu;
use super::identity::{self, FileIdentity};
use super::place::{is_apart, remove_if_there, sync_directory};
use super::record::{self, Record, RecordState};
use super::shared::Sharing;

/// Disks consist of sectors, and QEMU rounds a raw file's size to them.
pub(super) const SECTOR_BYTES: u64 = 512;

/// The directory.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) directory: PathBuf,
    /// Held from the check that a file is unmarked until its record is written.
    marking: Arc<Mutex<()>>,
    /// Whether files in this directory can share extents, once that was tried.
    pub(super) sharing: Arc<Mutex<Option<Sharing>>>,
}

impl Files {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            marking: Arc::default(),
            sharing: Arc::default(),
        }
    }

    pub(super) fn probe(&self) -> Result<Capacity, VolumeError> {
        let down = |doing: &str, error: Errno| {
            let directory = self.directory.display();
            let message = format!(
                "{doing} the volume directory {directory} failed: check that it is mounted and \
                 that the daemon may write to it"
            );
            VolumeError::new(VolumeErrorKind::DependencyDown, message)
                .caused_by(io::Error::from(error))
        };
        let stat = rustix::fs::statvfs(&self.directory).map_err(|e| down("Examining", e))?;
        rustix::fs::access(&self.directory, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|e| down("Writing to", e))?;
        Ok(Capacity {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            unit_bytes: SECTOR_BYTES,
            is_sparse: true,
        })
    }

    pub(super) fn lookup(&self, name: &VolumeName) -> Result<Option<Volume>, VolumeError> {
        let path = self.path(name)?;
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // If the directory is missing, every volume would appear to be absent.
                return self.probe().map(|_| None);
            }
            Err(error) => return Err(VolumeError::io("Examining", &path, error)),
        };
        if !metadata.is_file() {
            return Err(not_a_file(&path));
        }
        self.volume(name, &metadata).map(Some)
    }

    pub(super) fn list(&self) -> Result<Vec<Volume>, VolumeError> {
        self.probe()?;
        let failed = |error| VolumeError::io("Listing", &self.directory, error);
        let mut volumes = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().into_string().ok();
            let Some(name) = name.and_then(|name| name.parse().ok()) else {
                continue;
            };
            // Golden files and waiting clones have a directory of their own; this is somebody else's file.
            if is_apart(&name) {
                continue;
            }
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => volumes.push(self.volume(&name, &metadata)?),
                // Directories and links are not volumes, and neither is a file that was just removed.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(VolumeError::io("Examining", &entry.path(), error)),
            }
        }
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    pub(super) fn check_writable(
        &self,
        volume: &Volume,
        unmarked: Unmarked,
    ) -> Result<(), VolumeError> {
        let current = self.reread(volume)?;
        if current.state == VolumeState::Untagged && unmarked == Unmarked::Refuse {
            let (path, how) = (volume.path.display(), how_to_adopt(volume.name.as_str()));
            let message = format!("The file {path} was not written: {how}");
            return Err(VolumeError::new(VolumeErrorKind::NotOurs, message));
        }
        Ok(())
    }

    pub(super) fn adopt(&self, name: &VolumeName) -> Result<Volume, VolumeError> {
        let _held = self.marking.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(volume) = self.lookup(name)? else {
            let place = self.directory.display().to_string();
            return Err(VolumeError::no_such_volume(name, &place));
        };
        if volume.state != VolumeState::Untagged {
            return Ok(volume);
        }
        // Without a word in the file's attributes: a virtual machine may have the file open, so the file is not
        // touched.
        let record = Record::new(identity_of(&volume)?, None, None, RecordState::Adopted);
        self.write_record(name, &record)?;
        self.reread(&volume)
    }

    pub(super) fn mark_populating(
        &self,
        volume: &Volume,
        job: JobId,
        unmarked: Unmarked,
    ) -> Result<Volume, VolumeError> {
        self.check_writable(volume, unmarked)?;
        let file = self.open_unused(volume)?;
        let _held = self.marking.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.reread(volume)?;
        match current.state {
            VolumeState::Populating { job: by, .. } if by == job => return Ok(current),
            VolumeState::Untagged => {
                let path = volume.path.display();
                tracing::warn!(%path, %job, "Taking over a file that this program did not create");
            }
            VolumeState::Adopted | VolumeState::Populating { .. } | VolumeState::Ready { .. } => {}
        }
        let state = RecordState::Populating { created: false };
        // Reuses the word of the current record, which is valid until this one replaces it.
        let known = self.record(volume)?;
        let word = known.as_ref().and_then(|record| record.word.clone());
        let word = word.or_else(|| identity::mark(&file));
        let mut record = Record::new(identity_of(&current)?, word, Some(job), state);
        // Still true until the first byte changes, and if none does.
        if let Some(known) = known {
            (record.content, record.modified_ns) = (known.content, known.modified_ns);
            (record.expanded, record.signer) = (known.expanded, known.signer);
        }
        self.write_record(&volume.name, &record)?;
        drop(file);
        self.reread(volume)
    }

    pub(super) fn leave(&self, before: &Volume, job: JobId) -> Result<(), VolumeError> {
        let current = self.reread(before)?;
        let is_mine = matches!(current.state, VolumeState::Populating { job: by, .. } if by == job);
        let is_ready = matches!(current.state, VolumeState::Ready { .. });
        let is_ready_still = is_ready && current.state == before.state;
        if !(is_mine || is_ready_still) {
            return Ok(());
        }
        let record = self.record(&current)?;
        match record.and_then(|record| record.saying(before.state)) {
            Some(mut record) => {
                let is_ready = matches!(before.state, VolumeState::Ready { .. });
                record.ended = is_ready.then_some(job);
                self.write_record(&before.name, &record)
            }
            None => {
                remove_if_there(&self.record_path(&before.name, "json"))?;
                sync_directory(&self.records(&before.name))
            }
        }
    }

    pub(super) fn mark_ready(
        &self,
        volume: &Volume,
        job: JobId,
        made: Made,
    ) -> Result<(), VolumeError> {
        let current = self.reread(volume)?;
        let done = VolumeState::Ready {
            job: Some(job),
            digest: made.digest,
        };
        match current.state {
            // The daemon may have been killed before this was durable, or while the file replaced another.
            state if state == done => {
                let record = self.record(&current)?.ok_or_else(|| gone(&volume.path))?;
                match self.record_path(&volume.name, "next").exists() {
                    true => self.write_record(&volume.name, &record),
                    false => sync_directory(&self.records(&volume.name)),
                }
            }
            VolumeState::Populating { job: by, .. } if by == job => {
                let record = self.record(&current)?;
                let record = record.and_then(|record| record.saying(done));
                let mut record = record.ok_or_else(|| gone(&volume.path))?;
                record.modified_ns = modified_ns(&volume.path)?;
                (record.expanded, record.signer) = (made.expanded, made.signer);
                self.write_record(&volume.name, &record)
            }
            _ => Err(VolumeError::not_populating(&current)),
        }
    }

    pub(super) fn open(&self, volume: &Volume) -> Result<OpenVolume, VolumeError> {
        let file = self.open_unused(volume)?;
        let current = self.reread(volume)?;
        if !matches!(current.state, VolumeState::Populating { .. }) || current.state != volume.state
        {
            return Err(VolumeError::not_populating(&current));
        }
        // Punching one hole over the whole file frees every block, so that it reads as zeros. The file keeps
        // its size at every instant: if it were truncated and extended again, a kill in between would leave it
        // empty, and too small for every later job. QEMU is locked out meanwhile; `open_unused` only checked
        // for its locks.
        let path = &volume.path;
        if let Some(mut record) = self.record(&current)?
            && (record.content.is_some() || record.expanded || record.signer.is_some())
        {
            (record.content, record.modified_ns) = (None, None);
            (record.expanded, record.signer) = (false, None);
            self.write_record(&volume.name, &record)?;
        }
        let locked = lock_against_qemu(&file, path)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let emptied = match rustix::fs::fallocate(&file, flags, 0, volume.size_bytes) {
            Ok(()) => Ok(true),
            // Then the copier writes the zeros.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(error) => Err(VolumeError::io("Emptying", path, error.into())),
        };
        if locked {
            rustix::fs::fcntl_lock(&file, FlockOperation::Unlock)
                .map_err(|error| VolumeError::io("Unlocking", path, error.into()))?;
        }
        let known_zero = emptied?;
        Ok(OpenVolume {
            path: path.clone(),
            file,
            known_zero,
            size_bytes: volume.size_bytes,
            is_block_device: false,
        })
    }

    pub(super) fn remove_created(
        &self,
        name: &VolumeName,
        job: JobId,
    ) -> Result<Removed, VolumeError> {
        let Some(volume) = self.lookup(name)? else {
            // The daemon was killed before the file had its name.
            remove_if_there(&self.staged(name)?)?;
            let record = self.record_path(name, "json");
            if record::read(&record).is_some_and(|(record, _)| record.job == Some(job)) {
                remove_if_there(&record)?;
            }
            return Ok(Removed::Absent);
        };
        if volume.state != (VolumeState::Populating { job, created: true }) {
            return Ok(Removed::Kept);
        }
        let file = self.open_unused(&volume)?;
        remove_if_there(&volume.path)?;
        sync_directory(&self.home(name))?;
        // Last: a record without its file is harmless, but a file without its record would never be removed.
        remove_if_there(&self.record_path(name, "json"))?;
        drop(file);
        Ok(Removed::Removed)
    }

    /// The volume as it is now, if it is still the same file.
    pub(super) fn reread(&self, volume: &Volume) -> Result<Volume, VolumeError> {
        match self.lookup(&volume.name)? {
            Some(current) if current.identity == volume.identity => Ok(current),
            _ => Err(gone(&volume.path)),
        }
    }

    pub(super) fn volume(
        &self,
        name: &VolumeName,
        metadata: &fs::Metadata,
    ) -> Result<Volume, VolumeError> {
        let identity = FileIdentity::of(metadata);
        let path = self.path(name)?;
        let record = self.record_of(name, identity, &path);
        Ok(Volume {
            name: name.clone(),
            path,
            size_bytes: metadata.len(),
            state: record
                .as_ref()
                .map_or(VolumeState::Untagged, Record::volume_state),
            last_ended: record.as_ref().and_then(|record| record.ended),
            kind: Some(match record.as_ref().is_some_and(Record::is_of_clone) {
                true => VolumeKind::Clone,
                false => VolumeKind::File,
            }),
            content: record.as_ref().and_then(Record::known_content),
            expanded: record.as_ref().is_some_and(|record| record.expanded),
            signer: record.and_then(|record| record.signer),
            identity: Identity::File(identity),
        })
    }
}

pub(super) fn identity_of(volume: &Volume) -> Result<FileIdentity, VolumeError> {
    match volume.identity {
        Identity::File(file) => Ok(file),
        // Another back end's volume is not a file.
        Identity::Lvm { .. } | Identity::Name => Err(gone(&volume.path)),
    }
}

/// When a file was last modified. None if the time is out of range.
fn modified_ns(path: &Path) -> Result<Option<i64>, VolumeError> {
    let metadata = fs::symlink_metadata(path);
    let metadata = metadata.map_err(|error| VolumeError::io("Examining", path, error))?;
    Ok(identity::modified_ns(&metadata))
}

pub(super) fn not_a_file(path: &Path) -> VolumeError {
    let message = format!(
        "{} is not a regular file (links are not followed), so it was not written: remove it or \
         choose another name",
        path.display()
    );
    VolumeError::new(VolumeErrorKind::NotOurs, message)
}

pub(super) fn gone(path: &Path) -> VolumeError {
    let message = format!(
        "{} was removed, replaced or resized by somebody else: send the request again",
        path.display()
    );
    VolumeError::new(VolumeErrorKind::NotFound, message)
}
