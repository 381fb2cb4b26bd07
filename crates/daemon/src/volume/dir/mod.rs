//! Volumes as sparse raw files in one directory: for hosts without LVM, and for the demo.
//!
//! A volume `NAME` is the file `DIR/NAME`. Its state is in `DIR/.lvp/NAME.json` (`record`), which is valid for
//! this one file only (`identity`): a file that somebody put in its place is untagged, whatever its inode
//! number.
//!
//! A new file is created as `DIR/.lvp/NAME.new`, recorded, and only then renamed to its name, so that no volume
//! of this program is ever visible without its record. An untagged file may be somebody's disk, as an untagged
//! logical volume may: it is taken over by the same rules.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use lvp_api::{JobId, VolumeName};

use super::clones::GoldenKey;
use super::{
    Capacity, Clones, Content, Golden, InUse, Made, OpenVolume, Removed, Unmarked, Volume,
    VolumeError, VolumeErrorKind, VolumeState, Volumes,
};
use crate::config::BackendKind;
use crate::threads::blocking;

mod claim;
mod create;
mod files;
mod identity;
mod inherit;
mod place;
mod record;
mod replace;
mod shared;
mod users;

use files::Files;
pub(crate) use identity::FileIdentity;

/// Volumes as files in a directory.
#[derive(Debug)]
pub struct Dir {
    files: Files,
    in_use: Arc<dyn InUse>,
}

impl Dir {
    /// The directory must exist when volumes are accessed. It is not created here, so that a file system that
    /// is not mounted is an error and not an empty back end.
    pub fn new(directory: PathBuf, in_use: Arc<dyn InUse>) -> Self {
        let files = Files::new(directory);
        Self { files, in_use }
    }

    /// Runs disk work on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, VolumeError> {
        let files = self.files.clone();
        let done = blocking(move || work(&files)).await;
        done.unwrap_or_else(|error| {
            let message = "The work on a volume's file crashed; see the log";
            Err(VolumeError::new(VolumeErrorKind::Internal, message).caused_by(error))
        })
    }

    async fn check_no_domain_uses(&self, volume: &Volume) -> Result<(), VolumeError> {
        let user = self
            .in_use
            .user_of(std::slice::from_ref(&volume.path))
            .await?;
        match user {
            None => Ok(()),
            Some(user) => Err(VolumeError::in_use(&volume.path, &user)),
        }
    }
}

#[async_trait]
impl Volumes for Dir {
    fn backend(&self) -> &'static str {
        BackendKind::Dir.as_str()
    }

    async fn probe(&self) -> Result<Capacity, VolumeError> {
        self.blocking(Files::probe).await
    }

    async fn places(&self) -> Result<Vec<PathBuf>, VolumeError> {
        Ok(vec![self.files.directory.clone()])
    }

    async fn lookup(&self, name: &VolumeName) -> Result<Option<Volume>, VolumeError> {
        let name = name.clone();
        self.blocking(move |files| files.lookup(&name)).await
    }

    async fn list(&self) -> Result<Vec<Volume>, VolumeError> {
        self.blocking(Files::list).await
    }

    async fn create(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        job: JobId,
    ) -> Result<Volume, VolumeError> {
        let name = name.clone();
        self.blocking(move |files| files.create(&name, size_bytes, job))
            .await
    }

    async fn check_writable(&self, volume: &Volume, unmarked: Unmarked) -> Result<(), VolumeError> {
        let volume = volume.clone();
        self.blocking(move |files| files.check_writable(&volume, unmarked))
            .await
    }

    async fn adopt(&self, name: &VolumeName) -> Result<Volume, VolumeError> {
        let name = name.clone();
        self.blocking(move |files| files.adopt(&name)).await
    }

    async fn mark_populating(
        &self,
        volume: &Volume,
        job: JobId,
        unmarked: Unmarked,
    ) -> Result<Volume, VolumeError> {
        self.check_no_domain_uses(volume).await?;
        let volume = volume.clone();
        self.blocking(move |files| files.mark_populating(&volume, job, unmarked))
            .await
    }

    async fn leave(&self, before: &Volume, job: JobId) -> Result<(), VolumeError> {
        let before = before.clone();
        self.blocking(move |files| files.leave(&before, job)).await
    }

    async fn mark_ready(
        &self,
        volume: &Volume,
        job: JobId,
        made: &Made,
    ) -> Result<(), VolumeError> {
        let (volume, made) = (volume.clone(), made.clone());
        self.blocking(move |files| files.mark_ready(&volume, job, made))
            .await
    }

    async fn open(&self, volume: &Volume) -> Result<OpenVolume, VolumeError> {
        self.check_no_domain_uses(volume).await?;
        let volume = volume.clone();
        self.blocking(move |files| files.open(&volume)).await
    }

    async fn open_to_read(&self, volume: &Volume) -> Result<File, VolumeError> {
        self.check_unused(volume).await?;
        self.read_golden(volume).await
    }

    async fn remove_created(&self, name: &VolumeName, job: JobId) -> Result<Removed, VolumeError> {
        let name = name.clone();
        self.blocking(move |files| files.remove_created(&name, job))
            .await
    }

    async fn clones(&self) -> Result<&dyn Clones, String> {
        let files = self.files.clone();
        let can = blocking(move || files.check_sharing()).await;
        match can {
            Ok(Ok(())) => Ok(self),
            Ok(Err(why)) => Err(why),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[async_trait]
impl Clones for Dir {
    async fn golden(&self) -> Result<Vec<Golden>, VolumeError> {
        self.blocking(Files::golden).await
    }

    async fn find_golden(&self, key: &GoldenKey) -> Result<Option<Golden>, VolumeError> {
        let key = *key;
        self.blocking(move |files| files.find_golden(&key)).await
    }

    async fn find_golden_and(
        &self,
        key: &GoldenKey,
        name: &VolumeName,
    ) -> Result<(Option<Golden>, Option<Volume>), VolumeError> {
        let (key, name) = (*key, name.clone());
        self.blocking(move |files| Ok((files.find_golden(&key)?, files.lookup(&name)?)))
            .await
    }

    async fn make_golden(
        &self,
        key: &GoldenKey,
        size_bytes: u64,
        job: JobId,
    ) -> Result<Volume, VolumeError> {
        self.create(&key.volume_name(), size_bytes, job).await
    }

    async fn seal(
        &self,
        volume: &Volume,
        key: &GoldenKey,
        job: JobId,
        content: &Content,
    ) -> Result<Golden, VolumeError> {
        let (volume, key, content) = (volume.clone(), *key, *content);
        self.blocking(move |files| files.seal(&volume, &key, job, &content))
            .await
    }

    async fn read_golden(&self, golden: &Volume) -> Result<File, VolumeError> {
        let golden = golden.clone();
        self.blocking(move |files| files.read_only(&golden)).await
    }

    async fn clone_golden(
        &self,
        golden: &Golden,
        name: &VolumeName,
        size_bytes: u64,
        job: JobId,
    ) -> Result<Volume, VolumeError> {
        let (golden, name) = (golden.clone(), name.clone());
        self.blocking(move |files| files.clone_golden(&golden, &name, size_bytes, job))
            .await
    }

    async fn clone_ready(
        &self,
        golden: &Golden,
        name: &VolumeName,
        size_bytes: u64,
        (job, made): (JobId, &Made),
        _is_free: bool,
    ) -> Result<Volume, VolumeError> {
        let clone = self.clone_golden(golden, name, size_bytes, job).await?;
        self.mark_ready(&clone, job, made).await?;
        Ok(clone)
    }

    async fn open_clone(&self, clone: &Volume, job: JobId) -> Result<File, VolumeError> {
        let clone = clone.clone();
        self.blocking(move |files| files.open_clone(&clone, job))
            .await
    }

    fn is_replaceable(&self, volume: &Volume) -> bool {
        matches!(
            volume.state,
            VolumeState::Ready { .. } | VolumeState::Populating { .. }
        )
    }

    async fn check_unused(&self, volume: &Volume) -> Result<(), VolumeError> {
        self.check_no_domain_uses(volume).await?;
        let volume = volume.clone();
        self.blocking(move |files| files.check_unused(&volume))
            .await
    }

    async fn replace(
        &self,
        old: &Volume,
        clone: &Volume,
        job: JobId,
    ) -> Result<Volume, VolumeError> {
        self.check_no_domain_uses(old).await?;
        let (old, clone) = (old.clone(), clone.clone());
        self.blocking(move |files| files.replace(&old, &clone, job))
            .await
    }

    async fn waiting(&self) -> Result<Vec<JobId>, VolumeError> {
        self.blocking(Files::waiting).await
    }

    async fn remove_waiting(&self, job: JobId) -> Result<Removed, VolumeError> {
        self.blocking(move |files| files.remove_waiting(job)).await
    }

    async fn remove_golden(&self, golden: &Golden) -> Result<Removed, VolumeError> {
        let golden = golden.clone();
        self.blocking(move |files| files.remove_golden(&golden))
            .await
    }
}

#[cfg(test)]
mod tests;
