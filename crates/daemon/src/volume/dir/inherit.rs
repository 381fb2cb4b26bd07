//! What a file that takes another's place has to have of it beside its name.
//!
//! A volume that is written in place keeps its owner, its mode, its access control list and its labels; one that is
//! replaced by a clone must not lose them, or a guest whose files libvirt does not relabel
//! (`dynamic_ownership = 0` in qemu.conf) can no longer open its disk.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::super::VolumeError;
use super::identity;

/// The longest list of names, and the longest value, of extended attributes (`XATTR_LIST_MAX` and `XATTR_SIZE_MAX`
/// in `linux/limits.h`).
const XATTR_MAX: usize = 64 << 10; // 64 KiB

/// Gives `to` the owner, the mode and the extended attributes of `from`.
pub(super) fn inherit(from: &File, to: &File, path: &Path) -> Result<(), VolumeError> {
    let failed = |error| VolumeError::io("Keeping the owner and the permissions of", path, error);
    let (old, new) = from
        .metadata()
        .and_then(|old| Ok((old, to.metadata()?)))
        .map_err(failed)?;
    take_owner(&old, &new, to)
        .and_then(|()| to.set_permissions(Permissions::from_mode(old.mode() & 0o7777)))
        // After the mode, which changes the mask of an access control list.
        .and_then(|()| copy_attributes(from, to))
        .map_err(failed)
}

fn take_owner(old: &Metadata, new: &Metadata, to: &File) -> io::Result<()> {
    if (old.uid(), old.gid()) == (new.uid(), new.gid()) {
        return Ok(());
    }
    std::os::unix::fs::fchown(to, Some(old.uid()), Some(old.gid()))
}

fn copy_attributes(from: &File, to: &File) -> io::Result<()> {
    let mut names = vec![0; XATTR_MAX];
    let length = match rustix::fs::flistxattr(from, &mut names[..]) {
        Ok(length) => length,
        // The file system has none.
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    names.truncate(length);
    let mut value = vec![0; XATTR_MAX];
    for name in names.split(|byte| *byte == 0) {
        // Which file it is, is said of one file only.
        if name.is_empty() || name == identity::ATTRIBUTE.as_bytes() {
            continue;
        }
        let length = rustix::fs::fgetxattr(from, name, &mut value[..])?;
        // SELinux gives every file a label, and most often this one is the same.
        let mut present = vec![0; length];
        if rustix::fs::fgetxattr(to, name, &mut present[..]) == Ok(length)
            && present == value[..length]
        {
            continue;
        }
        rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}
