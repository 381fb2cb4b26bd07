//! A back end whose only volume is one block device, which exists before every job.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use lvp_api::{JobId, VolumeName};
use provisioner::volume::{
    Capacity, Made, Need, OpenVolume, Removed, Reservation, Unmarked, Volume, VolumeError,
    VolumeErrorKind, VolumeState, Volumes,
};

/// `O_EXCL` on a block device: the kernel's exclusive claim (open(2)).
pub(crate) const O_EXCL: i32 = 0o200;

/// The device.
#[derive(Debug)]
pub(crate) struct OneDevice {
    path: PathBuf,
    size_bytes: u64,
    state: Mutex<VolumeState>,
    /// Whether nothing can be reserved.
    pub(crate) is_full: AtomicBool,
}

impl OneDevice {
    pub(crate) fn new(path: PathBuf, size_bytes: u64) -> Self {
        Self {
            path,
            size_bytes,
            state: Mutex::new(VolumeState::Untagged),
            is_full: AtomicBool::new(false),
        }
    }

    fn volume(&self, name: &VolumeName) -> Volume {
        let state = *self.state.lock().expect("no test panics here");
        Volume::new(name.clone(), self.path.clone(), self.size_bytes, state)
    }
}

#[async_trait]
impl Volumes for OneDevice {
    fn backend(&self) -> &'static str {
        "block"
    }

    async fn probe(&self) -> Result<Capacity, VolumeError> {
        Ok(Capacity {
            total_bytes: self.size_bytes,
            free_bytes: 0,
            unit_bytes: 512,
            is_sparse: false,
        })
    }

    async fn lookup(&self, name: &VolumeName) -> Result<Option<Volume>, VolumeError> {
        Ok(Some(self.volume(name)))
    }

    async fn list(&self) -> Result<Vec<Volume>, VolumeError> {
        Ok(Vec::new())
    }

    async fn create(&self, name: &VolumeName, _: u64, _: JobId) -> Result<Volume, VolumeError> {
        Err(VolumeError::new(
            VolumeErrorKind::AlreadyExists,
            name.to_string(),
        ))
    }

    async fn check_writable(&self, _: &Volume, _: Unmarked) -> Result<(), VolumeError> {
        Ok(())
    }

    async fn adopt(&self, name: &VolumeName) -> Result<Volume, VolumeError> {
        Ok(self.volume(name))
    }

    async fn leave(&self, before: &Volume, _: JobId) -> Result<(), VolumeError> {
        *self.state.lock().expect("no test panics here") = before.state;
        Ok(())
    }

    async fn mark_populating(
        &self,
        volume: &Volume,
        job: JobId,
        _: Unmarked,
    ) -> Result<Volume, VolumeError> {
        *self.state.lock().expect("no test panics here") = VolumeState::Populating {
            job,
            created: false,
        };
        Ok(self.volume(&volume.name))
    }

    async fn mark_ready(&self, _: &Volume, job: JobId, made: &Made) -> Result<(), VolumeError> {
        *self.state.lock().expect("no test panics here") = VolumeState::Ready {
            job: Some(job),
            digest: made.digest,
        };
        Ok(())
    }

    async fn open(&self, volume: &Volume) -> Result<OpenVolume, VolumeError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(O_EXCL)
            .open(&self.path);
        let file = file.map_err(|error| {
            VolumeError::new(VolumeErrorKind::InUse, "It is open elsewhere").caused_by(error)
        })?;
        Ok(OpenVolume {
            path: volume.path.clone(),
            file,
            known_zero: false,
            size_bytes: self.size_bytes,
            is_block_device: true,
        })
    }

    async fn open_to_read(&self, _: &Volume) -> Result<File, VolumeError> {
        File::open(&self.path)
            .map_err(|error| VolumeError::new(VolumeErrorKind::Io, error.to_string()))
    }

    async fn reserve(&self, _: &VolumeName, _: Need) -> Result<Reservation, VolumeError> {
        match self.is_full.load(Ordering::Acquire) {
            true => Err(VolumeError::new(VolumeErrorKind::PoolFull, "It is full")),
            false => Ok(Reservation::default()),
        }
    }

    async fn remove_created(&self, _: &VolumeName, _: JobId) -> Result<Removed, VolumeError> {
        Ok(Removed::Kept)
    }
}
