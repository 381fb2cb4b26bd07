//! Converts a local image to a raw file or onto a block device: what `image convert` does.
//!
//! The design follows from what a failure leaves behind:
//!
//! - A **file** is created beside its final place and moved there only when it is complete and on
//! stable storage. If an image is refused, however late, a new file does not appear and an existing
//! one stays as it was. The incomplete file has no name until then, so that not even SIGKILL leaves
//! it behind.
//! - A **block device** has no other place. So every reason for a refusal is found before the first
//! byte is written: the tables are checked when the image is opened, and every compressed cluster
//! is decoded once first, unless the caller prefers speed.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::copy::{Copier, CopyOptions, Summary};
use crate::device::{Content, FileSize, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Format, ImageType};
use crate::plan::Planner;
use crate::source::FileSource;
use crate::sys;
use crate::unpack::{self, UnpackOptions, Unpacked};

/// Symbolic links followed before giving up, as the kernel does (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// How to convert.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// How to copy. The tail policy applies to block devices only.
    pub copy: CopyOptions,
    /// Whether every compressed cluster is decoded once before a block device is written.
    pub verify_first: bool,
    /// Largest size of the disk, and of an image that has to be unpacked first. By default, a disk that
    /// a stream decodes to and an unpacked image may take the free space where they are written.
    pub max_bytes: Option<u64>,
}

/// The result of a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// What was done.
    pub summary: Summary,
    /// How the image was unpacked, if that was necessary.
    pub unpacked: Option<Unpacked>,
}

/// Opens a local image: a regular file or a block device.
pub fn open_source(path: &Path) -> Result<FileSource> {
    let failed = |source| {
        let context = format!("Opening the image {} failed", path.display());
        Error::io(ErrorKind::Read, context, source)
    };
    let file = OpenOptions::new()
        .read(true)
        // Prevents a FIFO at this path from blocking before its type is known.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Error::new(
            ErrorKind::Read,
            format!(
                "{} is neither a regular file nor a block device",
                path.display()
            ),
        ));
    }
    FileSource::new(file).map_err(failed)
}

/// Converts the image at `source` to raw bytes at `destination`.
///
/// The destination is a file, which gets exactly the size of the image's disk, or a block device of
/// at least that size. Every byte that the image does not set reads as zero afterwards.
pub fn convert(
    source: &Path,
    declared: ImageType,
    destination: &Path,
    options: &ConvertOptions,
) -> Result<Converted> {
    let image = open_source(source)?;
    let destination = resolve(destination)?;
    let found = metadata(&destination)?;
    let is_device = match &found {
        Some(found) => {
            refuse_same(&image, source, found, &destination)?;
            found.file_type().is_block_device()
        }
        None => false,
    };
    // Unlike a file, a device has no place beside it to write to first.
    let scratch = match is_device {
        true => std::env::temp_dir(),
        false => directory_of(&destination),
    };
    let unpack_options = UnpackOptions {
        engine: options.copy.engine.clone(),
        max_bytes: match options.max_bytes {
            Some(bytes) => bytes,
            None => free_bytes(&scratch),
        },
        cancel: Arc::clone(&options.copy.cancel),
    };
    let new_scratch = || {
        let file = new_unnamed(&scratch);
        file.map_err(|error| target_error(&scratch.join("(unpacked image)"), error))
    };
    let (planner, unpacked) = unpack::open(image, declared, new_scratch, &unpack_options)?;
    let summary = match found {
        Some(_) if is_device => to_device(planner, declared, &destination, options),
        Some(found) if !found.is_file() => Err(Error::new(
            ErrorKind::BadTarget,
            format!(
                "{} is neither a regular file nor a block device",
                destination.display()
            ),
        )),
        existing => to_file(planner, &destination, existing.as_ref(), options),
    }?;
    Ok(Converted { summary, unpacked })
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

/// Free space on a directory's file system, or the maximum if that is not known.
pub fn free_bytes(directory: &Path) -> u64 {
    rustix::fs::statvfs(directory).map_or(u64::MAX, |free| free.f_bavail * free.f_frsize)
}

fn directory_of(destination: &Path) -> PathBuf {
    match destination.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn to_device(
    mut planner: Planner<FileSource>,
    declared: ImageType,
    destination: &Path,
    options: &ConvertOptions,
) -> Result<Summary> {
    let mut target = Target::open_block(destination, Content::Unknown)?;
    target.limit(options.max_bytes);
    if let Some(virtual_size) = planner.info().virtual_size {
        target.check_fits(virtual_size)?;
    }
    if options.verify_first {
        let decoded = Copier::verify_file(&mut planner, &options.copy)?;
        target.check_fits(decoded)?;
        // The planner's batches are used up.
        planner = Planner::open(planner.into_source(), declared)?;
    }
    Copier::copy_file(planner, target, options.copy.clone())?.commit()
}

fn to_file(
    planner: Planner<FileSource>,
    destination: &Path,
    existing: Option<&Metadata>,
    options: &ConvertOptions,
) -> Result<Summary> {
    // Finds out whether the file may be written and is not the disk of a running machine.
    let _claim = existing
        .map(|_| Target::open_file(destination, FileSize::OfImage))
        .transpose()?;
    let staged = Staged::create(destination)?;
    if let Some(existing) = existing {
        staged.take_over(existing)?;
    }
    let file = staged.file.try_clone().map_err(|e| staged.error(e))?;
    let mut target = Target::from_file(file, destination, FileSize::OfImage)?;
    // A stream's disk size is unknown beforehand; other images take at most the size of their disk,
    // less the holes.
    let is_stream = matches!(planner.info().format, Format::RawStream(_));
    let free = is_stream.then(|| free_bytes(&staged.directory));
    target.limit(options.max_bytes.or(free));
    let summary = Copier::copy_file(planner, target, options.copy.clone())?.commit()?;
    staged.publish(existing.is_some())?;
    Ok(summary)
}

/// Fails if the destination is the image itself, under any name.
fn refuse_same(
    source: &FileSource,
    source_path: &Path,
    found: &Metadata,
    destination: &Path,
) -> Result<()> {
    let image = source.file().metadata().map_err(|e| {
        let context = format!("Reading the properties of {} failed", source_path.display());
        Error::io(ErrorKind::Read, context, e)
    })?;
    let same_file = (image.dev(), image.ino()) == (found.dev(), found.ino());
    let both_devices = image.file_type().is_block_device() && found.file_type().is_block_device();
    if same_file || (both_devices && image.rdev() == found.rdev()) {
        return Err(Error::new(
            ErrorKind::BadTarget,
            format!(
                "{} is the image itself: choose another destination",
                destination.display()
            ),
        ));
    }
    Ok(())
}

/// Follows symbolic links. The last one may point to a file that does not exist yet.
fn resolve(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                let to = fs::read_link(&path).map_err(|e| target_error(&path, e))?;
                path = path.parent().unwrap_or(Path::new("")).join(to);
            }
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(target_error(&path, error)),
        }
    }
    let looped = io::Error::from_raw_os_error(libc::ELOOP);
    Err(target_error(&path, looped))
}

fn metadata(path: &Path) -> Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(target_error(path, error)),
    }
}

fn target_error(path: &Path, source: io::Error) -> Error {
    let context = format!("Creating {} failed", path.display());
    Error::io(ErrorKind::Write, context, source)
}

/// A file that is being written, in the directory where it will get its name.
#[derive(Debug)]
struct Staged {
    file: File,
    directory: PathBuf,
    destination: PathBuf,
    /// Its temporary name; `None` if it has none. Removed on drop.
    temporary: Option<Temporary>,
}

impl Staged {
    fn create(destination: &Path) -> Result<Self> {
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
    fn take_over(&self, existing: &Metadata) -> Result<()> {
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
    fn publish(mut self, replace: bool) -> Result<()> {
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

    fn error(&self, source: io::Error) -> Error {
        target_error(&self.destination, source)
    }
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
