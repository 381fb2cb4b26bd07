//! Converts a local image to a raw file or onto a block device: what `image convert` does.
//!
//! The design follows from what a failure leaves behind:
//!
//! - A **file** is created beside its final place and moved there only when it is complete and on
//!   stable storage. If an image is refused, however late, a new file does not appear and an existing
//!   one stays as it was. The incomplete file has no name until then, so that not even SIGKILL leaves
//!   it behind.
//! - A **block device** has no other place. So every reason for a refusal is found before the first
//!   byte is written: the tables are checked when the image is opened, and every compressed cluster
//!   is decoded once first, unless the caller prefers speed.

mod staged;

use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::copy::{Copier, CopyOptions, Summary};
use crate::device::{Content, FileSize, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Format, ImageType};
use crate::plan::Planner;
use crate::source::FileSource;
use crate::unpack::{self, UnpackOptions, Unpacked};
use staged::{Staged, directory_of, target_error};

pub use staged::new_unnamed;

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

/// Free space on a directory's file system, or the maximum if that is not known.
pub fn free_bytes(directory: &Path) -> u64 {
    rustix::fs::statvfs(directory).map_or(u64::MAX, |free| free.f_bavail * free.f_frsize)
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
        let decoders = options.copy.engine.decoders();
        planner = Planner::open_with(planner.into_source(), declared, decoders)?;
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
