//! Room in a pool that volumes share: reserved before anything is written, until the job has ended.

use std::sync::PoisonError;

use lvp_api::{VolumeKind, VolumeName};
use lvp_image::plan::ImageInfo;

use super::Steps;
use crate::job::error::JobError;
use crate::volume::{Need, Volume};

/// What a copy writes besides the image's data: the head, the end of the disk and the end of the device, 1 MiB
/// each, with a reserve.
const BESIDE_BYTES: u64 = 4 << 20; // 4 MiB

impl Steps<'_> {
    /// Reserves room for an image's data on a new or existing volume. A volume with extents of its own needs no
    /// more room.
    pub(super) async fn reserve_disk(
        &self,
        name: &VolumeName,
        found: Option<&Volume>,
        info: &ImageInfo,
        size_bytes: u64,
    ) -> Result<(), JobError> {
        if found.is_some_and(|found| found.kind == Some(VolumeKind::Linear)) {
            return Ok(());
        }
        let size_bytes = found.map_or(size_bytes, |found| found.size_bytes);
        // The data of a compressed stream is known only at its end.
        let bytes = info
            .virtual_size
            .map_or(size_bytes, |_| info.allocated_bytes);
        let bytes = bytes.saturating_add(BESIDE_BYTES);
        self.reserve(name, Need::Disk { bytes, size_bytes }).await
    }

    /// Reserves room, and removes unused golden volumes if that is necessary.
    pub(super) async fn reserve(&self, name: &VolumeName, need: Need) -> Result<(), JobError> {
        // Releases what an earlier attempt of this job reserved for the volume.
        let other = |kept: &(VolumeName, _)| kept.0 != *name;
        self.room().retain(other);
        let reserve = || self.services.volumes.reserve(name, need);
        let kept = self.services.golden.with_room(reserve).await?;
        self.room().push((name.clone(), kept));
        Ok(())
    }

    fn room(&self) -> std::sync::MutexGuard<'_, Vec<(VolumeName, crate::volume::Reservation)>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
