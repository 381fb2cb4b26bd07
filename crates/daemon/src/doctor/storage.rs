//! Directories, free space on their file systems, and the database.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, OFlags, access, statvfs};

use super::{Finding, size};
use crate::error::chain;
use crate::store;

/// With less free space than this, the database will soon be unable to grow, which stops
/// everything.
const DATABASE_ROOM_BYTES: u64 = 64 << 20; // 64 MiB

/// SQLite checkpoints its WAL at 1000 pages (4 MB). A far larger WAL means that something prevents
/// that.
const WAL_BYTES: u64 = 64 << 20; // 64 MiB

/// With less free space than this, there is no room for an image.
const IMAGE_ROOM_BYTES: u64 = 1 << 30; // 1 GiB

/// Checks a directory that the daemon writes large files to, leaving `keep_free_bytes` free.
pub(super) fn directory(check: &'static str, path: &Path, keep_free_bytes: u64) -> Finding {
    let shown = path.display();
    let there = match existing(path) {
        Ok(there) => there,
        Err(finding) => {
            return Finding::fail(check, finding, format!("Replace {shown} by a directory"));
        }
    };
    if there != path && check == "volumes.dir" {
        let message = format!("There is no directory {shown}");
        return Finding::fail(
            check,
            message,
            "Create it, or mount the file system that should be there",
        );
    }
    if let Err(error) = access(&there, Access::WRITE_OK | Access::EXEC_OK) {
        let message = format!("{} is not writable: {error}", there.display());
        return Finding::fail(
            check,
            message,
            "Make it writable for the daemon's user; check whether it is mounted read-only",
        );
    }
    let free = match free_bytes(&there) {
        Ok(free) => free,
        Err(error) => {
            let message = format!("The free space in {shown} cannot be determined: {error}");
            return Finding::fail(check, message, "Check its file system");
        }
    };
    let usable = free.saturating_sub(keep_free_bytes);
    let room = match keep_free_bytes {
        0 => format!("{} free", size(free)),
        keep => format!("{} free, of which {} are kept free", size(free), size(keep)),
    };
    if usable == 0 {
        let message = format!("{shown} is full: {room}");
        return Finding::fail(
            check,
            message,
            "Free space there, or use a larger file system",
        );
    }
    if there != path {
        let message = format!("{shown} does not exist yet and will be created; {room}");
        return Finding::ok(check, message);
    }
    if let Err(error) = direct_io(path) {
        return Finding::warn(
            check,
            format!(
                "{shown} does not support direct I/O ({error}): images will go through the page cache"
            ),
            "Use a file system that supports O_DIRECT, such as ext4 or xfs",
        );
    }
    if usable < IMAGE_ROOM_BYTES {
        let message = format!("{shown} is nearly full: {room}");
        return Finding::warn(
            check,
            message,
            "Free space there, or use a larger file system",
        );
    }
    Finding::ok(check, format!("{shown} supports direct I/O; {room}"))
}

/// Checks the database, if it exists.
pub(super) fn database(path: &Path) -> Finding {
    database_with(path, WAL_BYTES)
}

fn database_with(path: &Path, wal_limit_bytes: u64) -> Finding {
    const CHECK: &str = "database";
    let shown = path.display();
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let there = match existing(parent) {
        Ok(there) => there,
        Err(finding) => {
            return Finding::fail(CHECK, finding, "Set server.db_path to the path of a file");
        }
    };
    if let Err(error) = access(&there, Access::WRITE_OK | Access::EXEC_OK) {
        let message = format!("{} is not writable: {error}", there.display());
        return Finding::fail(
            CHECK,
            message,
            "Make it writable for the daemon's user; check whether it is mounted read-only",
        );
    }
    match free_bytes(&there) {
        Ok(free) if free < DATABASE_ROOM_BYTES => {
            let message = format!("Only {} are free under {shown}", size(free));
            return Finding::fail(
                CHECK,
                message,
                "Free space there: no job is accepted without it",
            );
        }
        Ok(_) => {}
        Err(error) => {
            let message = format!("The free space under {shown} cannot be determined: {error}");
            return Finding::fail(CHECK, message, "Check its file system");
        }
    }
    if !path.exists() {
        return Finding::ok(
            CHECK,
            format!("{shown} does not exist yet and will be created"),
        );
    }
    let health = match store::check(path) {
        Ok(health) => health,
        Err(error) => {
            let remedy = "See 'Backups' in docs/operations.md for how to restore one";
            return Finding::fail(CHECK, chain(&error), remedy);
        }
    };
    let wal = PathBuf::from(format!("{shown}-wal"));
    let wal_bytes = fs::metadata(wal).map_or(0, |found| found.len());
    if wal_bytes > wal_limit_bytes {
        return Finding::warn(
            CHECK,
            format!(
                "{shown} is sound, but its WAL has grown to {}",
                size(wal_bytes)
            ),
            "Restart the daemon; check whether another program keeps the database open",
        );
    }
    let message = format!(
        "{shown} is sound: {} jobs, {} cached images",
        health.jobs, health.images
    );
    Finding::ok(CHECK, message)
}

/// A file's permissions; None if it does not exist.
pub(super) fn mode(path: &Path) -> Option<u32> {
    Some(fs::metadata(path).ok()?.permissions().mode())
}

/// The directory itself, or its nearest parent that exists.
fn existing(path: &Path) -> Result<PathBuf, String> {
    for ancestor in path.ancestors() {
        let ancestor = match ancestor.as_os_str().is_empty() {
            true => Path::new("."),
            false => ancestor,
        };
        match fs::metadata(ancestor) {
            Ok(found) if found.is_dir() => return Ok(ancestor.to_owned()),
            Ok(_) => return Err(format!("{} is not a directory", ancestor.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", ancestor.display())),
        }
    }
    Err(format!("{} does not exist", path.display()))
}

fn free_bytes(path: &Path) -> rustix::io::Result<u64> {
    let stat = statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Tries direct I/O on a file that is removed afterwards.
fn direct_io(directory: &Path) -> std::io::Result<()> {
    let file = tempfile::Builder::new()
        .prefix(".lvp-doctor-")
        .tempfile_in(directory)?;
    let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(std::io::Error::other)?;
    OpenOptions::new()
        .write(true)
        .custom_flags(flags)
        .open(file.path())
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn a_directory_is_there_or_can_be_made_or_is_refused() {
        let home = tempfile::tempdir().expect("there is room");
        let check = |path: &Path| directory("cache.dir", path, 0).status;
        assert_ne!(check(home.path()), Status::Fail);
        let left = fs::read_dir(home.path()).expect("it is there").count();
        assert_eq!(left, 0, "the check leaves nothing behind");
        let absent = directory("cache.dir", &home.path().join("a/b"), 0);
        assert_eq!(absent.status, Status::Ok);
        assert!(absent.message.contains("will be created"), "{absent:?}");
        assert!(!home.path().join("a").exists());
        let volumes = directory("volumes.dir", &home.path().join("a"), 0);
        assert_eq!(volumes.status, Status::Fail, "{volumes:?}");
        let file = home.path().join("file");
        fs::write(&file, "x").expect("it is written");
        assert_eq!(check(&file), Status::Fail);
        assert_eq!(check(&file.join("below")), Status::Fail);
        let full = directory("cache.dir", home.path(), u64::MAX);
        assert_eq!(full.status, Status::Fail, "{full:?}");
        assert!(full.message.contains("is full"), "{full:?}");
    }

    #[test]
    fn a_file_system_without_direct_io_is_reported() {
        // No file can be created in procfs, so none can be opened with O_DIRECT.
        let found = directory("cache.dir", Path::new("/proc/self/fdinfo"), 0);
        assert_ne!(found.status, Status::Ok, "{found:?}");
        assert!(direct_io(Path::new("/proc")).is_err());
    }

    #[test]
    fn a_database_is_absent_sound_or_damaged() {
        let home = tempfile::tempdir().expect("there is room");
        let path = home.path().join("jobs.db");
        let absent = database(&path);
        assert_eq!(absent.status, Status::Ok, "{absent:?}");
        assert!(!path.exists());
        struct Nobody;
        impl store::Observer for Nobody {
            fn operation(&self, _: &'static str, _: Option<&'static str>) {}
        }
        let store = store::Store::open(&path, std::sync::Arc::new(Nobody)).expect("it is made");
        let sound = database(&path);
        assert_eq!(sound.status, Status::Ok, "{sound:?}");
        assert!(sound.message.contains("0 jobs"), "{sound:?}");
        let grown = database_with(&path, 0);
        assert_eq!(grown.status, Status::Warn, "{grown:?}");
        drop(store);
        let path = home.path().join("other.db");
        fs::write(&path, vec![0x55; 8192]).expect("it is written");
        let damaged = database(&path);
        assert_eq!(damaged.status, Status::Fail, "{damaged:?}");
        assert!(damaged.message.contains("damaged"), "{damaged:?}");
    }
}
