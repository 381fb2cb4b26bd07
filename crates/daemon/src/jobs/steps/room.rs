//! Room in a pool that volumes share: kept before anything is written to it, until the job has ended.

use std::sync::PoisonError;

use lvp_api::{VolumeKind, VolumeName};
use lvp_image::plan::ImageInfo;

use super::Steps;
use crate::job::error::JobError;
use crate::volume::{Need, Volume};

/// What a copy writes beside the image's data: the head, the end of the disk and that of the device, each of a MiB.
const BESIDE_BYTES: u64 = 4 << 20; // 4 MiB

impl Steps<'_> {
    /// Keeps room for an image's data on a volume that is made, or is there. A volume with extents of its own takes
    /// nothing more.
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
        // Of a compressed stream nobody knows before its end.
        let bytes = info
            .virtual_size
            .map_or(size_bytes, |_| info.allocated_bytes);
        let bytes = bytes.saturating_add(BESIDE_BYTES);
        self.reserve(name, Need::Disk { bytes, size_bytes }).await
    }

    /// Keeps room, for which golden volumes that nobody uses have to go.
    pub(super) async fn reserve(&self, name: &VolumeName, need: Need) -> Result<(), JobError> {
        // What an earlier attempt of this job kept for the volume is kept no longer.
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
