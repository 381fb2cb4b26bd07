//! The blocking work of the file back end: files, their records and their locks.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lvp_api::{JobId, Sha256Digest, VolumeName};
use lvp_image::grace;
use rustix::fs::{Access, FallocateFlags, FlockOperation, OFlags};
use rustix::io::Errno;

use super::super::{
    Capacity, Identity, OpenVolume, Removed, Volume, VolumeError, VolumeErrorKind, VolumeState,
    round_up,
};
use super::record::{self, Record, RecordState};

/// The directory inside the volumes' that has their records.
pub(super) const RECORDS: &str = ".lvp";

/// Disks are made of sectors, and QEMU rounds a raw file's size to them.
const SECTOR_BYTES: u64 = 512;

/// The directory.
#[derive(Debug, Clone)]
pub(super) struct Files {
    directory: PathBuf,
}

impl Files {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(super) fn probe(&self) -> Result<Capacity, VolumeError> {
        let down = |doing: &str, error: Errno| {
            let directory = self.directory.display();
            let message = format!(
                "{doing} the volumes' directory {directory} failed: check that it is mounted and \
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
        })
    }

    pub(super) fn lookup(&self, name: &VolumeName) -> Result<Option<Volume>, VolumeError> {
        let path = self.path(name)?;
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Without its directory every volume would seem to be absent.
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
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => volumes.push(self.volume(&name, &metadata)?),
                // A directory or a link is no volume; a file that was just removed is none either.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(VolumeError::io("Examining", &entry.path(), error)),
            }
        }
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

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
        // A sparse file takes no room yet; but a guest that fills its disk must not fill the host.
        if size_bytes > free_bytes {
            return Err(no_space(size_bytes));
        }
        let staged = self.staged(name)?;
        remove_if_there(&staged)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&staged)
            .map_err(|error| VolumeError::io("Creating", &staged, error))?;
        let metadata = file
            .set_len(size_bytes)
            .and_then(|()| file.sync_all())
            .and_then(|()| file.metadata())
            .map_err(|error| VolumeError::io("Sizing", &staged, error))?;
        let state = RecordState::Populating { created: true };
        self.write_record(name, &Record::new(metadata.ino(), job, state))?;
        // Unlike a rename, a link does not replace what somebody has put there meanwhile.
        fs::hard_link(&staged, &path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => already_exists(&path),
            _ => VolumeError::io("Creating", &path, error),
        })?;
        remove_if_there(&staged)?;
        sync_directory(&self.directory)?;
        self.volume(name, &metadata)
    }

    pub(super) fn mark_populating(
        &self,
        volume: &Volume,
        job: JobId,
    ) -> Result<Volume, VolumeError> {
        let file = self.open_unused(volume)?;
        let current = self.reread(volume)?;
        let created = match current.state {
            VolumeState::Populating { job: by, .. } if by == job => return Ok(current),
            VolumeState::Untagged => {
                let path = volume.path.display();
                tracing::warn!(%path, %job, "taking over a file that this program did not make");
                false
            }
            VolumeState::Populating { .. } | VolumeState::Ready { .. } => false,
        };
        let state = RecordState::Populating { created };
        self.write_record(&volume.name, &Record::new(inode_of(&current), job, state))?;
        drop(file);
        self.reread(volume)
    }

    pub(super) fn mark_ready(
        &self,
        volume: &Volume,
        job: JobId,
        digest: Sha256Digest,
    ) -> Result<(), VolumeError> {
        let current = self.reread(volume)?;
        let done = VolumeState::Ready {
            job: Some(job),
            digest,
        };
        match current.state {
            state if state == done => Ok(()),
            VolumeState::Populating { job: by, .. } if by == job => {
                let state = RecordState::Ready { image: digest };
                self.write_record(&volume.name, &Record::new(inode_of(&current), job, state))
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
        // One hole over all of it frees every block, so that all of it reads as zero. The file keeps
        // its size at every instant: cut to nothing and made long again, it would be left with no
        // size by a kill in between, and be too small for every later job. QEMU's locks are held
        // off meanwhile, which `open_unused` only looked at.
        let path = &volume.path;
        let locked = lock_against_qemu(&file, path)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let emptied = match rustix::fs::fallocate(&file, flags, 0, volume.size_bytes) {
            Ok(()) => Ok(true),
            // The copier writes the zeros then.
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
            remove_if_there(&self.staged(name)?)?;
            return Ok(Removed::Absent);
        };
        if volume.state != (VolumeState::Populating { job, created: true }) {
            return Ok(Removed::Kept);
        }
        let file = self.open_unused(&volume)?;
        remove_if_there(&volume.path)?;
        sync_directory(&self.directory)?;
        // Last: without its file a record means nothing, without its record the file would stay.
        remove_if_there(&self.record_path(name, "json"))?;
        drop(file);
        Ok(Removed::Removed)
    }

    /// Opens the file that `volume` describes, and no other, for this program alone.
    fn open_unused(&self, volume: &Volume) -> Result<File, VolumeError> {
        let path = &volume.path;
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
            .map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => not_a_file(path),
                Some(Errno::NOENT) => gone(path),
                _ => VolumeError::io("Opening", path, error),
            })?;
        let metadata = file
            .metadata()
            .map_err(|error| VolumeError::io("Examining", path, error))?;
        if !metadata.is_file() {
            return Err(not_a_file(path));
        }
        if metadata.ino() != inode_of(volume) || metadata.len() != volume.size_bytes {
            return Err(gone(path));
        }
        let lock = || match file.try_lock() {
            Ok(()) => Ok(Some(())),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(VolumeError::io("Locking", path, error)),
        };
        if grace::take(lock)?.is_none() {
            return Err(VolumeError::in_use(path, "another process"));
        }
        if lock_against_qemu(&file, path)? {
            rustix::fs::fcntl_lock(&file, FlockOperation::Unlock)
                .map_err(|error| VolumeError::io("Unlocking", path, error.into()))?;
        }
        Ok(file)
    }

    /// The volume as it is now, if it is still the same file.
    fn reread(&self, volume: &Volume) -> Result<Volume, VolumeError> {
        match self.lookup(&volume.name)? {
            Some(current) if current.identity == volume.identity => Ok(current),
            _ => Err(gone(&volume.path)),
        }
    }

    fn volume(&self, name: &VolumeName, metadata: &fs::Metadata) -> Result<Volume, VolumeError> {
        let inode = metadata.ino();
        let record = record::read(&self.record_path(name, "json"));
        let state = match record {
            Some(record) if record.inode == inode => match record.state {
                RecordState::Populating { created } => VolumeState::Populating {
                    job: record.job,
                    created,
                },
                RecordState::Ready { image } => VolumeState::Ready {
                    job: Some(record.job),
                    digest: image,
                },
            },
            _ => VolumeState::Untagged,
        };
        Ok(Volume {
            name: name.clone(),
            path: self.path(name)?,
            size_bytes: metadata.len(),
            state,
            identity: Identity::File { inode },
        })
    }

    fn write_record(&self, name: &VolumeName, record: &Record) -> Result<(), VolumeError> {
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
    fn staged(&self, name: &VolumeName) -> Result<PathBuf, VolumeError> {
        self.make_records_directory()?;
        Ok(self.record_path(name, "new"))
    }

    /// `NAME.json`, `NAME.tmp` and `NAME.new` cannot be another volume's: each has one suffix more
    /// than its volume's name, whatever that name ends in.
    fn record_path(&self, name: &VolumeName, suffix: &str) -> PathBuf {
        self.directory
            .join(RECORDS)
            .join(format!("{name}.{suffix}"))
    }

    fn path(&self, name: &VolumeName) -> Result<PathBuf, VolumeError> {
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

/// Takes a record lock on the whole file, so that no QEMU has or gets the file. False where the
/// file system has no locks; QEMU does without them there as well.
///
/// The kernel lets this lock conflict with QEMU's open-file-description locks (`fcntl(2)`). It is
/// given back at once: it belongs to the process, and closing any other descriptor of the file
/// would drop it unnoticed. The image crate takes QEMU's own kind of lock when it gets the file.
fn lock_against_qemu(file: &File, path: &Path) -> Result<bool, VolumeError> {
    let lock = || match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(true)),
        // The image crate's own lock of the last job may be among those that a child still has.
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(None),
        Err(Errno::NOLCK | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Some(false)),
        Err(error) => Err(VolumeError::io("Locking", path, error.into())),
    };
    grace::take(lock)?.ok_or_else(|| VolumeError::in_use(path, "a virtual machine or qemu-img"))
}

fn inode_of(volume: &Volume) -> u64 {
    match volume.identity {
        Identity::File { inode } => inode,
        // No inode has this number, so another back end's volume matches no file.
        Identity::Lvm { .. } | Identity::Name => 0,
    }
}

fn remove_if_there(path: &Path) -> Result<(), VolumeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(VolumeError::io("Removing", path, error))
        }
        _ => Ok(()),
    }
}

fn sync_directory(path: &Path) -> Result<(), VolumeError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| VolumeError::io("Syncing", path, error))
}

fn not_a_file(path: &Path) -> VolumeError {
    let message = format!(
        "{} is no regular file (links are not followed), so it is not written: remove it or \
         choose another name",
        path.display()
    );
    VolumeError::new(VolumeErrorKind::NotOurs, message)
}

fn already_exists(path: &Path) -> VolumeError {
    let message = format!("{} exists already", path.display());
    VolumeError::new(VolumeErrorKind::AlreadyExists, message)
}

fn gone(path: &Path) -> VolumeError {
    let message = format!(
        "{} was removed, replaced or resized by somebody else: repeat the request",
        path.display()
    );
    VolumeError::new(VolumeErrorKind::NotFound, message)
}
