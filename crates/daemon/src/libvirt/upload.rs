//! Writes a storage volume's content through a libvirt stream.

use bytes::Bytes;
use virt::connect::Connect;
use virt::storage_vol::StorageVol;
use virt::stream::Stream;

use super::failure::wrap;
use super::users::users;
use super::{LibvirtError, LibvirtErrorKind, Upload};

/// Writes the content. On failure the stream is aborted, so that libvirt does not take the upload
/// for complete. Blocks for as long as the content takes to arrive.
pub(super) fn write(connection: &Connect, mut upload: Upload) -> Result<(), LibvirtError> {
    let volume = find(connection, &upload)?;
    check_size(&volume, &upload)?;
    check_unused(connection, &volume, &upload)?;
    let stream = Stream::new(connection, 0).map_err(|error| wrap("Opening a stream", &error))?;
    volume
        .upload(&stream, 0, upload.size_bytes, 0)
        .map_err(|error| wrap("Starting the upload", &error))?;
    match feed(&stream, &mut upload) {
        Ok(()) => stream
            .finish()
            .map_err(|error| wrap("Finishing the upload", &error)),
        Err(error) => {
            if let Err(abort) = stream.abort() {
                let error = abort.message();
                tracing::warn!(component = "libvirt", error, "Cannot abort a stream");
            }
            Err(error)
        }
    }
}

fn find(connection: &Connect, upload: &Upload) -> Result<StorageVol, LibvirtError> {
    let pool = connection
        .lookup_storage_pool_by_name(&upload.pool)
        .map_err(|error| wrap(&format!("Looking up the pool {}", upload.pool), &error))?;
    let name = &upload.volume;
    pool.lookup_storage_vol_by_name(name).map_err(|error| {
        let doing = format!("Looking up the volume {name} in the pool {}", upload.pool);
        wrap(&doing, &error)
    })
}

fn check_size(volume: &StorageVol, upload: &Upload) -> Result<(), LibvirtError> {
    let info = volume
        .info()
        .map_err(|error| wrap("Reading the volume's size", &error))?;
    if upload.size_bytes > info.capacity {
        return Err(LibvirtError::new(
            LibvirtErrorKind::TooLarge,
            format!(
                "The content has {} bytes, but the volume {} has only {}: enlarge the volume",
                upload.size_bytes, upload.volume, info.capacity
            ),
        ));
    }
    Ok(())
}

/// A running domain may have the volume in its CD-ROM or floppy drive: such a medium is expected to
/// change. If it is any other disk of a running domain, it is not written.
fn check_unused(
    connection: &Connect,
    volume: &StorageVol,
    upload: &Upload,
) -> Result<(), LibvirtError> {
    let path = volume
        .path()
        .map_err(|error| wrap("Reading the volume's path", &error))?;
    let users = users(connection, &[path.into()])?;
    match users.iter().find(|user| !user.disk.is_removable) {
        None => Ok(()),
        Some(user) => Err(LibvirtError::new(
            LibvirtErrorKind::InUse,
            format!(
                "The volume {} is a disk of the running domain {}: stop the domain first",
                upload.volume, user.domain
            ),
        )),
    }
}

fn feed(stream: &Stream, upload: &mut Upload) -> Result<(), LibvirtError> {
    let incomplete = |left| {
        LibvirtError::new(
            LibvirtErrorKind::Incomplete,
            format!(
                "The content ended {left} bytes early, so the volume is incomplete: send it again"
            ),
        )
    };
    let mut left = upload.size_bytes;
    while left > 0 {
        let Some(chunk) = upload.content.blocking_recv() else {
            return Err(incomplete(left));
        };
        send(stream, &chunk)?;
        left = left.saturating_sub(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
    }
    Ok(())
}

fn send(stream: &Stream, chunk: &Bytes) -> Result<(), LibvirtError> {
    let mut rest: &[u8] = chunk;
    while !rest.is_empty() {
        let sent = stream
            .send(rest)
            .map_err(|error| wrap("Writing to the volume", &error))?;
        match usize::try_from(sent) {
            Ok(sent @ 1..) => rest = rest.get(sent..).unwrap_or_default(),
            _ => {
                return Err(LibvirtError::new(
                    LibvirtErrorKind::Failed,
                    "libvirt does not accept the rest of the content: check its log",
                ));
            }
        }
    }
    Ok(())
}
