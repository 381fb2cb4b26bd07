//! The last look before a device is written: is it the one that LVM means, and does nobody else
//! have it?
//!
//! Names in `/dev` are links that udev or anybody may have changed, so nothing is believed of the
//! path: the open descriptor's own number, size and device-mapper name must be LVM's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lvp_image::grace;
use rustix::fs::{OFlags, major, minor};

use super::super::{VolumeError, VolumeErrorKind};
use super::report::LvRow;
use crate::backoff::Backoff;

/// How long an activated volume's link in `/dev` may take. LVM itself waits for udev; where it is
/// set not to, udev makes the link a moment later.
const LINK_WAIT: Duration = Duration::from_secs(10);

/// What a device is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To see whether it could be written. Read-only, as udev probes a device again whenever one
    /// that was open for writing is closed.
    Check,
    /// To write it.
    Write,
}

/// Why a device could not be claimed.
pub(super) enum Refused {
    /// Somebody has it, who may let go in a moment (udev does).
    Busy(String),
    /// Anything else.
    Error(VolumeError),
}

/// Opens the device of an active volume for this process alone. Blocks.
pub(super) fn claim(row: &LvRow, purpose: Purpose) -> Result<File, Refused> {
    let path = Path::new(&row.lv_path);
    let device = row.device().ok_or_else(|| {
        wrong(
            path,
            "LVM reports no device number for it, so it is not active",
        )
    })?;
    // Asked first: it also sees those who opened the device without a claim, as QEMU does. The
    // claim below keeps others with a claim away (mounts, other device-mapper tables).
    if !row.lv_device_open.is_empty() {
        return Err(Refused::Busy("another process".to_owned()));
    }
    wait_for_link(path)?;
    let flags = OFlags::EXCL | OFlags::NONBLOCK | OFlags::NOCTTY;
    let claim = || {
        let opened = OpenOptions::new()
            .read(true)
            .write(purpose == Purpose::Write)
            .custom_flags(flags.bits().cast_signed())
            .open(path);
        grace::unless_busy(opened)
    };
    let mut file = grace::take(claim)
        .map_err(|error| Refused::Error(VolumeError::io("Opening", path, error)))?
        .ok_or_else(|| Refused::Busy("a mount or another device".to_owned()))?;
    let failed = |error| Refused::Error(VolumeError::io("Examining", path, error));
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.file_type().is_block_device() {
        return Err(wrong(path, "it is no block device"));
    }
    let opened = (major(metadata.rdev()), minor(metadata.rdev()));
    if opened != device {
        let reason = format!(
            "it leads to device {}:{}, and LVM's volume is {}:{}",
            opened.0, opened.1, device.0, device.1
        );
        return Err(wrong(path, &reason));
    }
    let sysfs = PathBuf::from(format!("/sys/dev/block/{}:{}", device.0, device.1));
    let dm_uuid = fs::read_to_string(sysfs.join("dm/uuid")).map_err(failed)?;
    if dm_uuid.trim_end() != row.dm_uuid() {
        return Err(wrong(
            path,
            "the kernel has another volume under that device number",
        ));
    }
    if let Some(holder) = first_entry(&sysfs.join("holders")).map_err(failed)? {
        return Err(Refused::Busy(format!("the device {holder}")));
    }
    let size_bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
    file.rewind().map_err(failed)?;
    if size_bytes != row.lv_size {
        let reason = format!(
            "it has {size_bytes} bytes, and LVM's volume {}",
            row.lv_size
        );
        return Err(wrong(path, &reason));
    }
    Ok(file)
}

/// Opens the device of an active volume to read it, beside others who do. Blocks.
pub(super) fn open_to_read(row: &LvRow) -> Result<File, VolumeError> {
    let path = Path::new(&row.lv_path);
    let of = |refused| match refused {
        Refused::Error(error) => error,
        Refused::Busy(user) => VolumeError::in_use(path, &user),
    };
    wait_for_link(path).map_err(of)?;
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
    let (metadata, file) = opened.map_err(|error| VolumeError::io("Opening", path, error))?;
    let number = metadata.rdev();
    match row.device() == Some((major(number), minor(number))) {
        true => Ok(file),
        false => Err(of(wrong(path, "it leads to another device"))),
    }
}

/// Polls, as udev does not announce that it has made a link.
fn wait_for_link(path: &Path) -> Result<(), Refused> {
    let deadline = Instant::now() + LINK_WAIT;
    let mut pauses = Backoff::doubling(Duration::from_millis(5), Duration::from_millis(200));
    while !path.exists() {
        if Instant::now() >= deadline {
            let message = format!(
                "{} has not appeared within {LINK_WAIT:?} after the volume was activated: check \
                 that udev runs",
                path.display()
            );
            let error = VolumeError::new(VolumeErrorKind::Timeout, message);
            return Err(Refused::Error(error));
        }
        std::thread::sleep(pauses.failed(None).unwrap_or_default());
    }
    Ok(())
}

fn first_entry(directory: &Path) -> io::Result<Option<String>> {
    let first = fs::read_dir(directory)?.next().transpose()?;
    Ok(first.map(|entry| entry.file_name().to_string_lossy().into_owned()))
}

fn wrong(path: &Path, reason: &str) -> Refused {
    let message = format!(
        "{} is not the volume that it should be: {reason}; nothing was written, check the links \
         in /dev and 'lvs -o +lv_kernel_major,lv_kernel_minor'",
        path.display()
    );
    Refused::Error(VolumeError::new(VolumeErrorKind::WrongDevice, message))
}
