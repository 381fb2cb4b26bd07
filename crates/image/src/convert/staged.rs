//! Files that get their name only when they are complete.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, ErrorKind, Result};
use crate::sys;

/// A file that is being written, in the directory where it will get its name.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) file: File,
    pub(super) directory: PathBuf,
    destination: PathBuf,
    /// Its temporary name; `None` if it has none. Removed on drop.
    temporary: Option<Temporary>,
}

impl Staged {
    pub(super) fn create(destination: &Path) -> Result<Self> {
        let ends_with_slash = destination.as_os_str().as_bytes().ends_with(b"/");
        if destination.file_name().is_none() || ends_with_slash {
            return Err(Error::new(
                ErrorKind::BadTarget,
                format!("{} is not the name of a file", destination.display()),
            ));
        }
        let directory = directory_of(destination);
        match open_unnamed(&directory) {
            Ok(file) => Ok(Self {
                file,
                directory,
                destination: destination.to_owned(),
                temporary: None,
            }),
            // The file system does not support unnamed files (for example NFS).
            Err(error) if is_without_unnamed_files(&error) => {
                Self::create_named(destination, directory)
            }
            Err(error) => Err(target_error(destination, error)),
        }
    }

    fn create_named(destination: &Path, directory: PathBuf) -> Result<Self> {
        let temporary = Temporary::beside(destination);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary.0)
            .map_err(|e| target_error(destination, e))?;
        Ok(Self {
            file,
            directory,
            destination: destination.to_owned(),
            temporary: Some(temporary),
        })
    }

    /// Copies the owner and the permissions of the file that is to be replaced.
    pub(super) fn take_over(&self, existing: &Metadata) -> Result<()> {
        let mine = self.file.metadata().map_err(|e| self.error(e))?;
        if (mine.uid(), mine.gid()) != (existing.uid(), existing.gid()) {
            let (owner, group) = (existing.uid(), existing.gid());
            std::os::unix::fs::fchown(&self.file, Some(owner), Some(group))
                .map_err(|e| self.error(e))?;
        }
        // After the owner, because changing the owner clears permission bits.
        self.file
            .set_permissions(existing.permissions())
            .map_err(|e| self.error(e))
    }

    /// Gives the file its name, and atomically replaces a file that had it before.
    pub(super) fn publish(mut self, replace: bool) -> Result<()> {
        if self.temporary.is_none() {
            if replace {
                let temporary = Temporary::beside(&self.destination);
                sys::link_unnamed(&self.file, &temporary.0).map_err(|e| self.error(e))?;
                self.temporary = Some(temporary);
            } else {
                sys::link_unnamed(&self.file, &self.destination).map_err(|e| self.error(e))?;
            }
        }
        if let Some(temporary) = self.temporary.take() {
            fs::rename(&temporary.0, &self.destination).map_err(|e| self.error(e))?;
            temporary.keep();
        }
        // The name is on stable storage once the directory is.
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|e| self.error(e))
    }

    pub(super) fn error(&self, source: io::Error) -> Error {
        target_error(&self.destination, source)
    }
}

/// A readable and writable file without a name, for temporary data.
pub fn new_unnamed(directory: &Path) -> io::Result<File> {
    let unnamed = OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_TMPFILE)
        .open(directory);
    match unnamed {
        Err(error) if is_without_unnamed_files(&error) => {
            let temporary = Temporary::beside(&directory.join("unpacked"));
            // The name is removed at once.
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary.0)
        }
        opened => opened,
    }
}

pub(super) fn directory_of(destination: &Path) -> PathBuf {
    match destination.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

pub(super) fn target_error(path: &Path, source: io::Error) -> Error {
    let context = format!("Creating {} failed", path.display());
    Error::io(ErrorKind::Write, context, source)
}

fn open_unnamed(directory: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .mode(0o666)
        .custom_flags(libc::O_TMPFILE)
        .open(directory)
}

/// Errors of open(2) with O_TMPFILE: EOPNOTSUPP from the file system, EISDIR from kernels that do
/// not know it.
fn is_without_unnamed_files(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)
    )
}

/// A temporary name, removed on drop.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Temporary {
    fn beside(destination: &Path) -> Self {
        let mut name = std::ffi::OsString::from(".");
        name.push(destination.file_name().unwrap_or_default());
        // If another process takes the same name at the same time, one of the two gets EEXIST.
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        name.push(format!(".{}-{}.part", std::process::id(), now.as_nanos()));
        Self(destination.with_file_name(name))
    }

    /// Keeps the name: it is not removed on drop any more.
    fn keep(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // If this fails, nothing more can be done; the failure that led here is reported.
            fs::remove_file(&self.0).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_unnamed_files_a_temporary_name_is_used_and_never_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let destination = directory.path().join("disk");
        let names = || fs::read_dir(directory.path()).unwrap().count();
        let create = || Staged::create_named(&destination, directory.path().to_owned()).unwrap();
        let given_up = create();
        assert_eq!(names(), 1);
        drop(given_up);
        assert_eq!(names(), 0);
        for replace in [false, true] {
            create().publish(replace).unwrap();
            assert_eq!(names(), 1);
            assert!(destination.exists());
        }
    }

    #[test]
    fn a_new_name_that_somebody_else_took_meanwhile_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let destination = directory.path().join("disk");
        let staged = Staged::create(&destination).unwrap();
        fs::write(&destination, b"somebody else's").unwrap();
        let error = staged.publish(false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Write);
        assert_eq!(fs::read(&destination).unwrap(), b"somebody else's");
    }
}
