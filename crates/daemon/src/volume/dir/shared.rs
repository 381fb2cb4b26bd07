//! Files that share their extents with a golden one (`ioctl_ficlone(2)`).
//!
//! A golden file is `DIR/.lvp/golden/NAME`, created like any volume's file, and read-only once it is sealed. A
//! clone is created like any new file: filled under a temporary name, recorded, and only then renamed to its
//! name. One that replaces a volume waits beside the golden files (`replace`).

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::PoisonError;

use lvp_api::{JobId, VolumeName};
use rustix::fs::{Mode, OFlags, ioctl_ficlone};
use rustix::io::Errno;

use super::super::clones::{GoldenKey, waiting_name};
use super::super::{
    Capacity, Content, Golden, Identity, Removed, Volume, VolumeError, VolumeState, round_up,
};
use super::files::{Files, SECTOR_BYTES, gone};
use super::identity::{self, FileIdentity};
use super::place::{RECORDS, SHARED, remove_if_there, sync_directory};
use super::record::{ContentRecord, Record};
use crate::stamp::{FileStamp, Times};

/// The mode of a golden file.
const READ_ONLY: u32 = 0o444;

/// The result of trying to share extents, and the file system on which that was tried.
#[derive(Debug, Clone)]
pub(super) struct Sharing {
    device: u64,
    result: Result<(), String>,
}

impl Files {
    /// Fails, with the reason, if files in this directory cannot share extents. Tried once for each file system
    /// that is mounted there.
    pub(super) fn check_sharing(&self) -> Result<(), String> {
        let directory = self.directory.display();
        let device = fs::metadata(&self.directory)
            .map_err(|error| format!("{directory} cannot be accessed: {error}"))?
            .dev();
        let mut known = self.sharing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref().filter(|known| known.device == device) {
            return known.result.clone();
        }
        let result = match self.try_to_share() {
            Ok(()) => Ok(()),
            // The errors for a file system that does not support it (`ioctl_ficlone(2)`).
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL | Errno::XDEV) => {
                Err(format!(
                    "the file system of {directory} cannot share extents between files: XFS, btrfs and \
                     bcachefs can"
                ))
            }
            // Other errors may be temporary, and are not remembered.
            Err(error) => return Err(format!("sharing extents in {directory} failed: {error}")),
        };
        *known = Some(Sharing {
            device,
            result: result.clone(),
        });
        result
    }

    /// Clones a block between two unnamed temporary files.
    fn try_to_share(&self) -> Result<(), Errno> {
        let records = self.directory.join(RECORDS);
        match fs::create_dir(&records) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(errno(&error));
            }
            _ => {}
        }
        let unnamed = || {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            rustix::fs::open(&records, flags, Mode::RUSR | Mode::WUSR).map(File::from)
        };
        let (from, to) = (unnamed()?, unnamed()?);
        from.write_all_at(&[1; 4096], 0)
            .map_err(|error| errno(&error))?;
        ioctl_ficlone(&to, &from)
    }

    pub(super) fn golden(&self) -> Result<Vec<Golden>, VolumeError> {
        let mut found = Vec::new();
        for name in self.apart()? {
            if let Some(key) = GoldenKey::of_name(&name)
                && let Some(golden) = self.find_golden(&key)?
            {
                found.push(golden);
            }
        }
        Ok(found)
    }

    /// The names in the directory [`SHARED`], sorted.
    pub(super) fn apart(&self) -> Result<Vec<VolumeName>, VolumeError> {
        self.probe()?;
        let directory = self.directory.join(RECORDS).join(SHARED);
        let failed = |error| VolumeError::io("Listing", &directory, error);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name().into_string().ok();
            names.extend(name.and_then(|name| name.parse().ok()));
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn find_golden(&self, key: &GoldenKey) -> Result<Option<Golden>, VolumeError> {
        let name = key.volume_name();
        let path = self.path(&name)?;
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.probe().map(|Capacity { .. }| None);
            }
            Err(error) => return Err(VolumeError::io("Examining", &path, error)),
        };
        let volume = self.volume(&name, &metadata)?;
        let record = self.record_of(&name, FileIdentity::of(&metadata), &path);
        let flaw = flaw(key, &volume, &metadata, record.as_ref());
        Ok(Some(Golden {
            key: *key,
            content: volume.content,
            own_bytes: Some(metadata.blocks().saturating_mul(512)),
            volume,
            flaw,
        }))
    }

    pub(super) fn seal(
        &self,
        volume: &Volume,
        key: &GoldenKey,
        job: JobId,
        content: &Content,
    ) -> Result<Golden, VolumeError> {
        let current = self.reread(volume)?;
        let done = VolumeState::Ready {
            job: Some(job),
            digest: key.digest,
        };
        if current.state != done {
            let VolumeState::Populating { job: by, .. } = current.state else {
                return Err(VolumeError::not_populating(&current));
            };
            if by != job {
                return Err(VolumeError::not_populating(&current));
            }
            self.seal_now(&current, done, content)?;
        }
        let golden = self.find_golden(key)?;
        golden.ok_or_else(|| gone(&volume.path))
    }

    fn seal_now(
        &self,
        volume: &Volume,
        done: VolumeState,
        content: &Content,
    ) -> Result<(), VolumeError> {
        let path = &volume.path;
        let file = self.open_unused(volume)?;
        let failed = |error| VolumeError::io("Sealing", path, error);
        // A file that was created before its image's size was known may be longer.
        if let Some(size_bytes) = round_up(content.size_bytes, SECTOR_BYTES)
            && size_bytes < volume.size_bytes
        {
            file.set_len(size_bytes).map_err(failed)?;
        }
        file.set_permissions(Permissions::from_mode(READ_ONLY))
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        let stamp = FileStamp::settled(&file, Times::Coarse).map_err(failed)?;
        let record = self.record(volume)?.and_then(|known| known.saying(done));
        let mut record = record.ok_or_else(|| gone(path))?;
        record.content = Some(ContentRecord::from(content));
        record.modified_ns = Some(stamp.mtime_ns);
        self.write_record(&volume.name, &record)
    }

    /// Opens the file that `volume` describes, and no other, for reading.
    pub(super) fn read_only(&self, volume: &Volume) -> Result<File, VolumeError> {
        let path = &volume.path;
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path);
        let file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => gone(path),
            _ => VolumeError::io("Opening", path, error),
        })?;
        let metadata = file.metadata();
        let metadata = metadata.map_err(|error| VolumeError::io("Examining", path, error))?;
        match Identity::File(FileIdentity::of(&metadata)) == volume.identity {
            true => Ok(file),
            false => Err(gone(path)),
        }
    }

    pub(super) fn clone_golden(
        &self,
        golden: &Golden,
        name: &VolumeName,
        size_bytes: u64,
        job: JobId,
    ) -> Result<Volume, VolumeError> {
        let source = self.read_only(&golden.volume)?;
        let found = self.find_golden(&golden.key)?;
        let Some(Golden {
            flaw: None,
            content: Some(content),
            volume,
            ..
        }) = found.filter(|found| found.volume.identity == golden.volume.identity)
        else {
            return Err(gone(&golden.volume.path));
        };
        let free_bytes = self.probe()?.free_bytes;
        let no_space = |want_bytes| {
            let place = self.directory.display().to_string();
            VolumeError::no_space(&place, free_bytes, want_bytes)
        };
        let size_bytes = round_up(size_bytes, SECTOR_BYTES).ok_or_else(|| no_space(size_bytes))?;
        // The shared extents take no space.
        let Some(own_bytes) = size_bytes.checked_sub(volume.size_bytes) else {
            let needed = volume.size_bytes;
            return Err(VolumeError::too_small(
                size_bytes,
                needed,
                ("the image's disk", ""),
            ));
        };
        if own_bytes > free_bytes {
            return Err(no_space(own_bytes));
        }
        self.remove_created(name, job)?;
        self.remove_waiting(job)?;
        let name = match self.lookup(name)? {
            Some(_) => waiting_name(job),
            None => name.clone(),
        };
        self.make(&name, job, Some(&content), |file, staged| {
            ioctl_ficlone(file, &source)
                .map_err(io::Error::from)
                .and_then(|()| file.set_len(size_bytes))
                .map_err(|error| VolumeError::io("Cloning the golden file to", staged, error))
        })
    }

    /// Opens a clone that `job` is making, with what it holds.
    pub(super) fn open_clone(&self, clone: &Volume, job: JobId) -> Result<File, VolumeError> {
        let file = self.open_unused(clone)?;
        let current = self.reread(clone)?;
        let making = VolumeState::Populating { job, created: true };
        match current.state == making {
            true => Ok(file),
            false => Err(VolumeError::not_populating(&current)),
        }
    }

    /// Fails if somebody has the volume's file open.
    pub(super) fn check_unused(&self, volume: &Volume) -> Result<(), VolumeError> {
        self.open_unused(volume).map(drop)
    }

    pub(super) fn remove_golden(&self, golden: &Golden) -> Result<Removed, VolumeError> {
        let volume = &golden.volume;
        let found = self.find_golden(&golden.key)?;
        match found {
            None => return Ok(Removed::Absent),
            Some(found) if found.volume.identity != volume.identity => {
                return Err(gone(&volume.path));
            }
            Some(_) => {}
        }
        // Readers of the file keep it until they close it, without a name.
        let unread = self.open_unused(volume).ok();
        for path in [
            volume.path.clone(),
            self.record_path(&volume.name, "new"),
            self.record_path(&volume.name, "tmp"),
            self.record_path(&volume.name, "json"),
        ] {
            remove_if_there(&path)?;
        }
        sync_directory(&self.records(&volume.name))?;
        if let Some(file) = unread {
            give_back(&file, &volume.path)?;
        }
        Ok(Removed::Removed)
    }
}

/// Frees the extents of a file that no longer has a name. XFS frees those of a removed file some time later
/// (`inodegc` in fs/xfs/xfs_icache.c), and until then a volume that needs the space would be refused.
fn give_back(file: &File, path: &Path) -> Result<(), VolumeError> {
    let emptied = file.metadata().and_then(|found| match found.nlink() {
        0 => file.set_len(0),
        _ => Ok(()),
    });
    emptied.map_err(|error| VolumeError::io("Emptying", path, error))
}

/// Why nothing may be cloned from a file that should be golden.
fn flaw(
    key: &GoldenKey,
    volume: &Volume,
    metadata: &fs::Metadata,
    record: Option<&Record>,
) -> Option<String> {
    let content = volume.content;
    match (volume.state, content) {
        _ if !metadata.is_file() => Some("is not a regular file".to_owned()),
        (VolumeState::Populating { .. }, _) => Some("is not finished".to_owned()),
        (VolumeState::Ready { digest, .. }, _) if digest != key.digest => {
            Some("is marked as holding another image".to_owned())
        }
        (VolumeState::Ready { .. }, Some(content)) => {
            if metadata.mode() & 0o222 != 0 {
                Some("is writable".to_owned())
            } else if round_up(content.size_bytes, SECTOR_BYTES) != Some(metadata.len()) {
                Some("has another size than its image".to_owned())
            } else if metadata.nlink() != 1 {
                Some("has another hard link".to_owned())
            } else if record.and_then(|record| record.modified_ns)
                != identity::modified_ns(metadata)
            {
                Some("was written to since it was made".to_owned())
            } else {
                None
            }
        }
        _ => Some("has no record".to_owned()),
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
