//! The steps of a job that verifies a volume. It changes nothing, so a repeat after a crash reads it again.

use std::fs::File;
use std::io;
use std::sync::Arc;

use lvp_api::{Lane, Stage, VolumeName};
use lvp_image::format::Format;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::Steps;
use super::image::{Opening, cached};
use crate::cache::Pin;
use crate::golden::content::{self, Watch};
use crate::golden::{Basis, Disk, Needed};
use crate::job::error::JobError;
use crate::job::work::ImageRequest;
use crate::jobs::Services;
use crate::jobs::live::Live;
use crate::source::url::RequestedUrl;
use crate::threads::blocking;
use crate::volume::Content;

/// Reads the volume, and records what was found.
pub(super) async fn run(
    services: &Services,
    live: &Live,
    volume: &VolumeName,
) -> Result<(), JobError> {
    let meter = &live.meter;
    let disk = match services.golden.basis(volume).await? {
        Basis::Known => None,
        Basis::Image(needed) => Some(disk_of(services, live, volume, &needed).await?),
    };
    let watch = Watch {
        stop: live.stop.flag(),
        counters: meter.new_copy(),
        ..Default::default()
    };
    let expect_bytes = |bytes| {
        meter.expect_disk(bytes, 0);
        meter.enter(Stage::Verifying);
    };
    let found = services.volumes.lookup(volume).await?;
    let _ours = found.and_then(|found| services.guests.reads(&found.path));
    let verified = services.golden.verify(volume, disk, &watch, expect_bytes);
    let verified = tokio::select! {
        biased;
        reason = live.stop.stopped() => return Err(JobError::stopped(reason)),
        verified = verified => verified?,
    };
    tracing::info!(
        component = "golden", job_id = %live.id, volume = %volume, matches = verified.matches,
        "Verified a volume"
    );
    if !verified.matches {
        live.note("The volume differs from what was written to it");
    }
    live.update(|job| job.verification = Some(verified));
    Ok(())
}

/// The disk of the image that a volume was written from, by the image in the cache. Its digest is recorded, so that the
/// next verification of a volume with it does without the image.
async fn disk_of(
    services: &Services,
    live: &Live,
    volume: &VolumeName,
    needed: &Needed,
) -> Result<Disk, JobError> {
    let Some((pin, row)) = services.cache.pin(needed.image.digest).await? else {
        return Err(needed.is_missing(volume).into());
    };
    let image = ImageRequest {
        url: RequestedUrl::new(&row.image_url),
        image_type: needed.image.image_type,
        checksum: None,
    };
    let steps = Steps::new(services, live, &image);
    let disk = steps.disk(&Arc::new(pin)).await?;
    services.golden.learned(needed.image, disk.content).await?;
    Ok(disk)
}

/// A file that may have been written by direct I/O, to be read through the page cache, from any buffer.
fn buffered(file: File) -> io::Result<File> {
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags - OFlags::DIRECT)?;
    Ok(file)
}

impl Steps<'_> {
    /// The disk of a cached image: the image itself, its unpacked copy, or a file that disappears after its use.
    async fn disk(&self, pin: &Arc<Pin>) -> Result<Disk, JobError> {
        let cache = &self.services.cache;
        let unpacked = cache.unpacked(pin, self.image.image_type).await?;
        let unpacked = unpacked.map(Arc::new);
        let meter = &self.live.meter;
        meter.enter(Stage::Converting);
        let file = match &unpacked {
            Some(disk) => disk.file().try_clone(),
            None => match self.open_cached(pin).await? {
                Opening::Plain(planner) if planner.info().format == Format::Raw => {
                    pin.file().try_clone()
                }
                opening => {
                    meter.trail.begin(Lane::Converting);
                    let planner = self.opened(opening).await?;
                    let info = planner.info();
                    // A stream's disk is as large as it turns out to be.
                    let bytes = match info.virtual_size {
                        Some(_) => info.allocated_bytes,
                        None => pin.size_bytes(),
                    };
                    let (file, most) = cache.scratch(bytes).await?;
                    let name = cache.dir().join("(unnamed)");
                    let written = self.write_disk(pin, planner, (file, name), most).await;
                    meter.trail.end(Lane::Converting);
                    buffered(written?)
                }
            },
        };
        let unreadable = |error| cached(pin, "cannot be read").because(error);
        let file = file.map_err(unreadable)?;
        let again = file.try_clone().map_err(unreadable)?;
        let watch = Watch {
            stop: self.live.stop.flag(),
            ..Default::default()
        };
        let read = blocking(move || {
            let size_bytes = again.metadata()?.len();
            let digest = content::digest(&again, size_bytes, &watch)?;
            Ok::<_, io::Error>(digest.map(|digest| Content { size_bytes, digest }))
        });
        let content = self.until_stopped(read).await??.map_err(unreadable)?;
        self.expect_source_unchanged(pin, unpacked.as_ref()).await?;
        match content {
            Some(content) => Ok(Disk { file, content }),
            None => Err(JobError::stopped(self.live.stop.stopped().await)),
        }
    }
}
