//! Finds the running domains that use a device or a file.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use virt::connect::Connect;
use virt::error::ErrorNumber;
use virt::sys;

use super::failure::wrap;
use super::{Disk, DiskSource, LibvirtError, LibvirtErrorKind, disks_of};

/// A running domain with one of the paths.
pub(super) struct User {
    pub(super) domain: String,
    pub(super) disk: Disk,
}

/// The running domains' disks that use any of the paths.
pub(super) fn users(connection: &Connect, paths: &[PathBuf]) -> Result<Vec<User>, LibvirtError> {
    let domains = connection
        .list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        .map_err(|error| wrap("Listing the running domains", &error))?;
    let wanted: Vec<_> = paths.iter().map(|path| Place::of(path)).collect();
    let mut users = Vec::new();
    for domain in domains {
        let xml = match domain.xml_desc(0) {
            Ok(xml) => xml,
            // It stopped after it was listed.
            Err(error) if error.code() == ErrorNumber::NoDomain.into() => continue,
            Err(error) => return Err(wrap("Describing a running domain", &error)),
        };
        let name = domain
            .name()
            .map_err(|error| wrap("Reading a domain's name", &error))?;
        let disks = disks_of(&xml).map_err(|error| {
            LibvirtError::new(
                LibvirtErrorKind::Failed,
                format!("The XML of domain {name} cannot be parsed: {error}"),
            )
        })?;
        for disk in disks {
            let mut places = disk.sources.iter().filter_map(|source| match source {
                DiskSource::Path(path) => Some(Place::of(Path::new(path))),
                // The path of a volume that no longer exists matches nothing.
                DiskSource::Volume { pool, volume } => {
                    let pool = connection.lookup_storage_pool_by_name(pool).ok()?;
                    let volume = pool.lookup_storage_vol_by_name(volume).ok()?;
                    Some(Place::of(Path::new(&volume.path().ok()?)))
                }
            });
            if places.any(|place| wanted.iter().any(|wanted| wanted.is(&place))) {
                users.push(User {
                    domain: name.clone(),
                    disk,
                });
            }
        }
    }
    Ok(users)
}

/// What a path leads to: two names of one device or file have the same place.
struct Place {
    path: PathBuf,
    /// A device's number, or a file's device and inode.
    object: Option<(bool, u64, u64)>,
}

impl Place {
    fn of(path: &Path) -> Self {
        let object = fs::metadata(path).ok().map(|found| {
            if found.file_type().is_block_device() {
                (true, found.rdev(), 0)
            } else {
                (false, found.dev(), found.ino())
            }
        });
        Self {
            path: path.to_owned(),
            object,
        }
    }

    fn is(&self, other: &Self) -> bool {
        self.path == other.path || (self.object.is_some() && self.object == other.object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_names_of_one_file_are_one_place() {
        let directory = tempfile::tempdir().expect("there is room");
        let (file, link) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&file, "x").expect("it is written");
        std::os::unix::fs::symlink(&file, &link).expect("it is linked");
        let other = directory.path().join("c");
        fs::write(&other, "x").expect("it is written");
        assert!(Place::of(&file).is(&Place::of(&link)));
        assert!(!Place::of(&file).is(&Place::of(&other)));
        let missing = Path::new("/nonexistent/a");
        assert!(Place::of(missing).is(&Place::of(missing)));
        assert!(!Place::of(missing).is(&Place::of(Path::new("/nonexistent/b"))));
    }
}
