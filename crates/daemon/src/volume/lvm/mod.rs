//! Volumes as logical volumes of one volume group.
//!
//! What LVM says decides; this program keeps nothing about a volume anywhere else. Its state is in
//! tags (`tags`), each change of which is one `lvchange`, that is one commit of LVM's metadata:
//! no crash leaves half of it. What may be written at all is in `rules`, the look at the device
//! itself in `device`.
//!
//! **Failures without words.** LVM ends with status 5 for a lock, a busy device and a full volume
//! group alike, and its log report has no codes either, so a failed command is followed by a look
//! at the volume and the group: done after all, refused for a reason that stays (no room, no
//! group), or worth a repeat by the back-off of the configuration. Changes carry a selection
//! (`-S`) with the volume's UUID and tags, which LVM evaluates under its own lock: a volume that
//! was replaced in the meantime is not touched.
//!
//! **Disks with a cache.** LVM writes its metadata and does not flush it, so a tag that was set may
//! be lost in a power cut while data written after it is not. The device, and with it every disk
//! below it, is flushed before a volume's first byte is written (else it could say `ready` with half
//! of another image in it), and after `ready` (else a completed job's volume could say that it is
//! not).
//!
//! **Locks.** LVM waits for a lock that another command holds (`wait_for_locks`); the time-out of
//! the command ends that.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lvp_api::{JobId, Sha256Digest, VolumeName};

use super::{
    Capacity, InUse, OpenVolume, Removed, Unmarked, Volume, VolumeError, VolumeErrorKind,
    VolumeState, Volumes, round_up,
};
use crate::config::{self, BackendKind};

mod commands;
mod device;
pub mod report;
mod rules;
mod tags;

use commands::{Found, found, may_pass};
use device::{Purpose, Refused};
use report::LvRow;

/// How long one command may take: it waits for locks and for udev, not for data.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// How the LVM back end works.
#[derive(Debug, Clone)]
pub struct LvmSettings {
    /// The volume group that has the volumes.
    pub volume_group: String,
    /// The pauses before the repeats of a command that failed for a reason that may pass: as many
    /// as there are repeats.
    pub retry_backoff: Vec<Duration>,
    /// How long one command may take.
    pub command_timeout: Duration,
}

impl From<&config::Lvm> for LvmSettings {
    fn from(lvm: &config::Lvm) -> Self {
        Self {
            volume_group: lvm.volume_group.clone(),
            retry_backoff: lvm.retry_backoff.clone(),
            command_timeout: COMMAND_TIMEOUT,
        }
    }
}

/// The configured volume group's name cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be a volume group's name: 1 to 127 of a-z A-Z 0-9 + _ . -, no '-' in front")]
pub struct BadVolumeGroup(String);

/// Volumes in a volume group.
#[derive(Debug)]
pub struct Lvm {
    settings: LvmSettings,
    in_use: Arc<dyn InUse>,
}

impl Lvm {
    /// Nothing is run yet: the volume group may be absent for now.
    pub fn new(settings: LvmSettings, in_use: Arc<dyn InUse>) -> Result<Self, BadVolumeGroup> {
        let group = &settings.volume_group;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
        let good = (1..=127).contains(&group.len())
            && group.chars().all(allowed)
            && !group.starts_with('-')
            && group != "."
            && group != "..";
        if !good {
            return Err(BadVolumeGroup(group.clone()));
        }
        Ok(Self { settings, in_use })
    }

    async fn check_no_domain_uses(&self, row: &LvRow) -> Result<(), VolumeError> {
        let mut paths = vec![
            PathBuf::from(row.lv_path_or_dm()),
            PathBuf::from(&row.lv_dm_path),
        ];
        if let Some((_, minor)) = row.device() {
            paths.push(PathBuf::from(format!("/dev/dm-{minor}")));
        }
        match self.in_use.user_of(&paths).await? {
            None => Ok(()),
            Some(user) => Err(VolumeError::in_use(Path::new(row.lv_path_or_dm()), &user)),
        }
    }

    /// Every check, then the device, claimed for this process. Waits by the back-off for those who
    /// have it open for a moment only.
    async fn claim(
        &self,
        volume: &Volume,
        purpose: Purpose,
        unmarked: Unmarked,
    ) -> Result<(Found, File), VolumeError> {
        let mut pauses = self.pauses();
        loop {
            let mut now = self.find_again(volume).await?;
            if let Some(refusal) = rules::refusal(&now.row, &now.tags, unmarked) {
                return Err(refusal);
            }
            self.check_no_domain_uses(&now.row).await?;
            if now.row.lv_active.is_empty() {
                self.change("lvchange", &["-a", "y"], &now).await?;
                now = self.find_again(volume).await?;
            }
            if now.row.lv_permissions != "writeable" {
                let path = &now.row.lv_path;
                let message = format!("{path} is read-only: 'lvchange -p rw {path}' changes that");
                return Err(VolumeError::new(VolumeErrorKind::NotOurs, message));
            }
            let row = now.row.clone();
            let claimed = self
                .blocking(move || Ok(device::claim(&row, purpose)))
                .await?;
            let busy = match claimed {
                Ok(file) if self.open_count(&now.row).await? == 1 => return Ok((now, file)),
                // Somebody opened it between LVM's report and the claim.
                Ok(_) => "another process".to_owned(),
                Err(Refused::Busy(user)) => user,
                Err(Refused::Error(error)) => return Err(error),
            };
            if !pauses.wait("the volume is open", &busy).await {
                return Err(VolumeError::in_use(&volume.path, &busy));
            }
        }
    }
}

#[async_trait]
impl Volumes for Lvm {
    fn backend(&self) -> &'static str {
        BackendKind::Lvm.as_str()
    }

    async fn probe(&self) -> Result<Capacity, VolumeError> {
        let group = self.group().await?;
        Ok(Capacity {
            total_bytes: group.vg_size,
            free_bytes: group.vg_free,
            unit_bytes: group.vg_extent_size,
            is_sparse: false,
        })
    }

    async fn lookup(&self, name: &VolumeName) -> Result<Option<Volume>, VolumeError> {
        Ok(self.find(name).await?.map(|found| found.volume))
    }

    async fn list(&self) -> Result<Vec<Volume>, VolumeError> {
        let rows = self.select("lv_role={\"public\"}").await?;
        let named = rows.into_iter().filter_map(|row| {
            let name = row.lv_name.parse().ok()?;
            Some(found(&name, row).volume)
        });
        let mut volumes: Vec<_> = named.collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    async fn create(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        job: JobId,
    ) -> Result<Volume, VolumeError> {
        let mut pauses = self.pauses();
        loop {
            // In this order, also after a failure: it may have made the volume nevertheless.
            let existing = self.find(name).await?;
            let group = self.group().await?;
            let place = format!("The volume group {}", group.vg_name);
            let no_space = |want| VolumeError::no_space(&place, group.vg_free, want);
            let size_bytes = round_up(size_bytes.max(1), group.vg_extent_size)
                .ok_or_else(|| no_space(size_bytes))?;
            if let Some(existing) = existing {
                let same = VolumeState::Populating { job, created: true };
                if existing.volume.state == same && existing.volume.size_bytes == size_bytes {
                    return Ok(existing.volume);
                }
                let path = existing.row.lv_path_or_dm();
                let message = format!("The volume {path} exists already");
                return Err(VolumeError::new(VolumeErrorKind::AlreadyExists, message));
            }
            if size_bytes > group.vg_free {
                return Err(no_space(size_bytes));
            }
            let extents = size_bytes / group.vg_extent_size;
            match self.create_once(name, extents, job).await {
                Ok(()) => {
                    let made = self.find(name).await?.map(|made| made.volume);
                    return made.ok_or_else(|| {
                        let message = format!("The new volume {name} was removed by somebody else");
                        VolumeError::new(VolumeErrorKind::NotFound, message)
                    });
                }
                Err(error) if may_pass(&error) && pauses.wait("lvcreate failed", &error).await => {}
                Err(error) => {
                    let doing = format!("Creating the volume {}/{name} failed", group.vg_name);
                    return Err(VolumeError::command(doing, error));
                }
            }
        }
    }

    async fn check_writable(&self, volume: &Volume, unmarked: Unmarked) -> Result<(), VolumeError> {
        let now = self.find_again(volume).await?;
        match rules::refusal(&now.row, &now.tags, unmarked) {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }

    async fn adopt(&self, name: &VolumeName) -> Result<Volume, VolumeError> {
        let Some(now) = self.find(name).await? else {
            return Err(VolumeError::no_such_volume(name, self.group_name()));
        };
        if let Some(refusal) = rules::refusal(&now.row, &now.tags, Unmarked::Adopt) {
            return Err(refusal);
        }
        if now.tags.ours {
            return Ok(now.volume);
        }
        Ok(self.set_tags(&now, &tags::adopted()).await?.volume)
    }

    async fn mark_populating(
        &self,
        volume: &Volume,
        job: JobId,
        unmarked: Unmarked,
    ) -> Result<Volume, VolumeError> {
        // Held while the tags change, so that nobody else starts using it in between.
        let (now, claim) = self.claim(volume, Purpose::Check, unmarked).await?;
        let created = match now.volume.state {
            VolumeState::Populating { job: by, created } => by == job && created,
            VolumeState::Ready { .. } | VolumeState::Adopted => false,
            VolumeState::Untagged => {
                let path = volume.path.display();
                tracing::warn!(%path, %job, "taking over a volume that this program did not make");
                false
            }
        };
        let now = self.set_tags(&now, &tags::populating(job, created)).await?;
        drop(claim);
        Ok(now.volume)
    }

    async fn leave(&self, before: &Volume, job: JobId) -> Result<(), VolumeError> {
        let now = self.find_again(before).await?;
        let is_mine =
            matches!(now.volume.state, VolumeState::Populating { job: by, .. } if by == job);
        let is_ready = matches!(now.volume.state, VolumeState::Ready { .. });
        if is_mine || (is_ready && now.volume.state == before.state) {
            self.set_tags(&now, &tags::left(before, job)).await?;
        }
        Ok(())
    }

    async fn mark_ready(
        &self,
        volume: &Volume,
        job: JobId,
        digest: &Sha256Digest,
    ) -> Result<(), VolumeError> {
        let now = self.find_again(volume).await?;
        let done = VolumeState::Ready {
            job: Some(job),
            digest: *digest,
        };
        let now = match now.volume.state {
            state if state == done => now,
            VolumeState::Populating { job: by, .. } if by == job => {
                self.set_tags(&now, &tags::ready(job, digest)).await?
            }
            _ => return Err(VolumeError::not_populating(&now.volume)),
        };
        if now.row.lv_active.is_empty() {
            // A restart of the host flushed it.
            return Ok(());
        }
        // Also when it was done before: perhaps it was killed between the tags and the flush.
        let path = now.volume.path;
        self.blocking(move || {
            let flushed = File::open(&path).and_then(|device| device.sync_all());
            flushed.map_err(|error| VolumeError::io("Flushing", &path, error))
        })
        .await
    }

    async fn open(&self, volume: &Volume) -> Result<OpenVolume, VolumeError> {
        let claimed = self.claim(volume, Purpose::Write, Unmarked::Refuse).await;
        let (now, file) = claimed?;
        let is_populating = matches!(now.volume.state, VolumeState::Populating { .. });
        if !is_populating || now.volume.state != volume.state {
            return Err(VolumeError::not_populating(&now.volume));
        }
        let path = now.volume.path.clone();
        let file = self
            .blocking(move || match file.sync_all() {
                Ok(()) => Ok(file),
                Err(error) => Err(VolumeError::io("Flushing", &path, error)),
            })
            .await?;
        Ok(OpenVolume {
            path: now.volume.path,
            file,
            // The extents of a linear volume hold what their last owner wrote.
            known_zero: false,
            size_bytes: now.volume.size_bytes,
            is_block_device: true,
        })
    }

    async fn remove_created(&self, name: &VolumeName, job: JobId) -> Result<Removed, VolumeError> {
        let target = format!("{}/{name}", self.group_name());
        let failed = format!("Removing the volume {target} failed");
        let (mut tried, mut removed) = (false, false);
        let mut pauses = self.pauses();
        loop {
            let Some(now) = self.find(name).await? else {
                return Ok(if tried {
                    Removed::Removed
                } else {
                    Removed::Absent
                });
            };
            let is_ours = now.tags.of_another_tool().is_none();
            if now.volume.state != (VolumeState::Populating { job, created: true }) || !is_ours {
                return Ok(Removed::Kept);
            }
            let selection = format!(
                "lv_uuid=\"{}\" && lv_tags={{\"{}\" && \"lvp.created={job}\"}}",
                now.row.lv_uuid,
                tags::State::Populating.tag()
            );
            let args = ["--yes", "-S", &selection, &target];
            tried = true;
            match self.run("lvremove", &args).await {
                // The next look tells whether the selection still matched.
                Ok(_) if !removed => removed = true,
                Ok(_) => return Err(VolumeError::new(VolumeErrorKind::Io, failed)),
                Err(error) if may_pass(&error) && pauses.wait("lvremove failed", &error).await => {}
                Err(error) if now.row.lv_device_open == "open" => {
                    return Err(
                        VolumeError::in_use(&now.volume.path, "another process").caused_by(error)
                    );
                }
                Err(error) => return Err(VolumeError::command(failed, error)),
            }
        }
    }
}
