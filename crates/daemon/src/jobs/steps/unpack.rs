//! Images inside streams and archives: unpacked beside the cached file, and copied from there.

use lvp_image::format::ImageType;
use lvp_image::plan::Planner;
use lvp_image::source::{FileSource, ReadAt as _};
use lvp_image::unpack::{self, UnpackOptions};

use lvp_api::{Cause, Lane};

use super::Steps;
use crate::job::error::JobError;
use crate::threads::blocking;

impl Steps<'_> {
    /// Unpacks a cached image to a file beside it that has no name, and so disappears after the copy.
    pub(super) async fn unpack(
        &self,
        source: FileSource,
        declared: ImageType,
    ) -> Result<Planner<FileSource>, JobError> {
        let services = self.services;
        let (file, max_bytes) = services.cache.scratch(source.len()).await?;
        let options = UnpackOptions {
            engine: self.engine.clone(),
            max_bytes,
            cancel: self.live.stop.flag(),
        };
        let unpacking = move || unpack::open(source, declared, || Ok(file), &options);
        self.charge(Cause::Cpu);
        self.live.meter.trail.begin(Lane::Converting);
        let opened = blocking(unpacking).await;
        self.charge(Cause::Device);
        self.live.meter.trail.end(Lane::Converting);
        let (planner, unpacked) = opened??;
        if let Some(unpacked) = unpacked {
            let name = unpacked.name.map(|name| format!("{name:?} "));
            self.live.note(format!(
                "Unpacked {}from {} to {} bytes in the cache, and copied from there",
                name.unwrap_or_default(),
                unpacked.package,
                unpacked.bytes
            ));
            if let Some(manifest) = unpacked.manifest {
                self.live.note(manifest.to_string());
            }
            self.note_ignored(unpacked.ignored_bytes);
        }
        Ok(planner)
    }

    /// Notes that bytes after the image's compressed stream were ignored.
    pub(super) fn note_ignored(&self, bytes: u64) {
        if bytes > 0 {
            self.live.note(format!(
                "{bytes} bytes after the compressed stream were ignored, as its own tool does"
            ));
        }
    }
}
