//! Opening a volume's file exclusively.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use lvp_api::VolumeName;
use lvp_image::grace;
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use super::super::{Identity, Volume, VolumeError};
use super::files::{Files, gone, not_a_file};
use super::identity::FileIdentity;
use super::place::remove_if_there;
use super::users;

impl Files {
    /// Opens the file that `volume` describes, and no other, exclusively for this program.
    pub(super) fn open_unused(&self, volume: &Volume) -> Result<File, VolumeError> {
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
        let identity = Identity::File(FileIdentity::of(&metadata));
        if identity != volume.identity || metadata.len() != volume.size_bytes {
            return Err(gone(path));
        }
        if metadata.nlink() > 1 && !self.remove_second_name(&volume.name, &metadata)? {
            let users = "whatever uses it under another name (it has hard links)";
            return Err(VolumeError::in_use(path, users));
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
        match users::user_of(&file, path) {
            Ok(None) => Ok(file),
            Ok(Some(user)) => Err(VolumeError::in_use(path, &user)),
            Err(error) => Err(VolumeError::io("Examining", path, error)),
        }
    }

    /// Removes a new file's temporary name, if a kill left it with both names. Returns whether it has one name
    /// now.
    fn remove_second_name(
        &self,
        name: &VolumeName,
        metadata: &fs::Metadata,
    ) -> Result<bool, VolumeError> {
        let staged = self.staged(name)?;
        let is_the_same = fs::symlink_metadata(&staged)
            .is_ok_and(|other| (other.dev(), other.ino()) == (metadata.dev(), metadata.ino()));
        if is_the_same {
            remove_if_there(&staged)?;
        }
        Ok(is_the_same && metadata.nlink() == 2)
    }
}

/// Takes a record lock on the whole file, so that no QEMU has or gets the file. False if the file system has no
/// locks; QEMU works without them there too.
///
/// This lock conflicts with QEMU's open-file-description locks (`fcntl(2)`). The caller releases it at once: it
/// belongs to the process, and closing any other descriptor of the file would silently release it. The image
/// crate takes QEMU's own kind of lock when it gets the file.
pub(super) fn lock_against_qemu(file: &File, path: &Path) -> Result<bool, VolumeError> {
    let lock = || match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(true)),
        // A child process may still hold the image crate's lock of the previous job.
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(None),
        Err(Errno::NOLCK | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Some(false)),
        Err(error) => Err(VolumeError::io("Locking", path, error.into())),
    };
    grace::take(lock)?.ok_or_else(|| VolumeError::in_use(path, "a virtual machine or qemu-img"))
}
