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
//! **Thin pools.** With `lvm.thin_pool` new volumes are made in that pool, in one `lvcreate` with all tags as ever;
//! those that are there already stay what they are. The pool is watched (`pool`), its volumes can be clones
//! (`golden`) and be replaced by one (`swap`).
//!
//! **Locks.** LVM waits for a lock that another command holds (`wait_for_locks`); the time-out of
//! the command ends that.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use lvp_api::{JobId, VolumeName};

use super::clones::is_reserved;
use super::room::{Need, PoolUsage, Reservation};
use super::{
    Capacity, Clones, InUse, Made, OpenVolume, Removed, Unmarked, Volume, VolumeError,
    VolumeErrorKind, VolumeState, Volumes,
};
use crate::config::BackendKind;

mod claim;
mod clone;
mod commands;
mod device;
mod empty;
mod find;
mod golden;
mod inherit;
mod look;
mod pool;
pub mod report;
mod rules;
mod settings;
mod steps;
mod swap;
mod tags;

use commands::may_pass;
use device::Purpose;
use find::found;
use pool::Account;
pub use settings::{BadVolumeGroup, LvmSettings, PoolSettings, Watermarks};

/// Volumes in a volume group.
#[derive(Debug)]
pub struct Lvm {
    settings: LvmSettings,
    in_use: Arc<dyn InUse>,
    account: Arc<Mutex<Account>>,
}

impl Lvm {
    /// Nothing is run yet: the volume group may be absent for now.
    pub fn new(settings: LvmSettings, in_use: Arc<dyn InUse>) -> Result<Self, BadVolumeGroup> {
        settings.check()?;
        Ok(Self {
            settings,
            in_use,
            account: Arc::default(),
        })
    }
}

#[async_trait]
impl Volumes for Lvm {
    fn backend(&self) -> &'static str {
        BackendKind::Lvm.as_str()
    }

    async fn probe(&self) -> Result<Capacity, VolumeError> {
        if let Some(pool) = &self.settings.pool {
            let look = self.look_at_pool(pool).await?;
            return Ok(Capacity {
                total_bytes: look.row.lv_size,
                free_bytes: self.free_bytes(pool, &look),
                unit_bytes: look.extent_bytes,
                is_sparse: true,
            });
        }
        let group = self.group().await?;
        Ok(Capacity {
            total_bytes: group.vg_size,
            free_bytes: group.vg_free,
            unit_bytes: group.vg_extent_size,
            is_sparse: false,
        })
    }

    async fn places(&self) -> Result<Vec<PathBuf>, VolumeError> {
        self.physical_volumes().await
    }

    async fn lookup(&self, name: &VolumeName) -> Result<Option<Volume>, VolumeError> {
        Ok(self.find(name).await?.map(|found| found.volume))
    }

    async fn list(&self) -> Result<Vec<Volume>, VolumeError> {
        let rows = self.select("lv_role={\"public\"}").await?;
        let taken: HashSet<String> = rows.iter().map(|row| row.lv_name.clone()).collect();
        let named = rows.into_iter().filter_map(|row| {
            let found = found(&row.lv_name.parse().ok()?, row);
            if !is_reserved(&found.volume.name) {
                return Some(found.volume);
            }
            // Golden volumes and clones in the making are no volumes yet, but for one that has its name as good as
            // got it.
            let gets = found.tags.waits_for.clone()?;
            let is_free = found.is_getting(&gets) && !taken.contains(gets.as_str());
            is_free.then_some(Volume {
                name: gets,
                ..found.volume
            })
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
        self.create_tagged(name, size_bytes, job, &[]).await
    }

    async fn check_writable(&self, volume: &Volume, unmarked: Unmarked) -> Result<(), VolumeError> {
        let now = self.find_again(volume).await?;
        match rules::refusal(&now.row, &now.tags, unmarked, self.pool_name()) {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }

    async fn adopt(&self, name: &VolumeName) -> Result<Volume, VolumeError> {
        let Some(now) = self.find(name).await? else {
            return Err(VolumeError::no_such_volume(name, self.group_name()));
        };
        if let Some(refusal) =
            rules::refusal(&now.row, &now.tags, Unmarked::Adopt, self.pool_name())
        {
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
        let mut kept = Vec::new();
        let created = match now.volume.state {
            VolumeState::Populating { job: by, created } if by == job && created => {
                kept.clone_from(&now.tags.of_making);
                true
            }
            VolumeState::Populating { .. } => false,
            VolumeState::Ready { .. } | VolumeState::Adopted => false,
            VolumeState::Untagged => {
                let path = volume.path.display();
                tracing::warn!(%path, %job, "taking over a volume that this program did not make");
                false
            }
        };
        let wanted = [tags::populating(job, created), kept].concat();
        let now = self.set_tags(&now, &wanted).await?;
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
        made: &Made,
    ) -> Result<(), VolumeError> {
        if volume.state == (VolumeState::Populating { job, created: true }) {
            // What a look would ask first, the command's selection asks under LVM's lock. Whether it was so, and
            // whether it was done, the look below tells; what is not done is done then, with its repeats.
            self.say_ready(volume, job, made).await;
        }
        let now = self.find_again(volume).await?;
        let done = VolumeState::Ready {
            job: Some(job),
            digest: made.digest,
        };
        let now = match now.volume.state {
            state if state == done => now,
            VolumeState::Populating { job: by, .. } if by == job => {
                let wanted = [tags::ready(job, made), now.tags.of_making.clone()].concat();
                self.set_tags(&now, &wanted).await?
            }
            _ => return Err(VolumeError::not_populating(&now.volume)),
        };
        if now.row.lv_name != now.volume.name.as_str() {
            // Killed between the two renames of a swap.
            self.finish_swap(&now, job).await?;
            return Ok(());
        }
        let now = match now.row.lv_active.is_empty() && now.tags.clone_of.is_some() {
            // Perhaps LVM was killed after the tags, and before the activation that comes with them (`clone`).
            true => self.activated(&volume.name).await?,
            false => now,
        };
        if now.row.lv_active.is_empty() {
            // A restart of the host flushed it.
            return Ok(());
        }
        // Also when it was done before: perhaps it was killed between the tags and the flush.
        self.flush(&now).await
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
        let (file, known_zero) = self.emptied(&now, file).await?;
        Ok(OpenVolume {
            path: now.volume.path,
            file,
            known_zero,
            size_bytes: now.volume.size_bytes,
            is_block_device: true,
        })
    }

    async fn open_to_read(&self, volume: &Volume) -> Result<File, VolumeError> {
        let claimed = self.claim(volume, Purpose::Check, Unmarked::Adopt).await;
        claimed.map(drop)?;
        self.read_golden(volume).await
    }

    async fn clones(&self) -> Result<&dyn Clones, String> {
        self.can_clone().await?;
        Ok(self)
    }

    async fn reserve(&self, volume: &VolumeName, need: Need) -> Result<Reservation, VolumeError> {
        match &self.settings.pool {
            Some(pool) => self.reserve_in(pool, volume, need).await,
            None => Ok(Reservation::default()),
        }
    }

    fn has_room(&self) -> Result<(), VolumeError> {
        match &self.settings.pool {
            Some(pool) => self.admits_by_last_look(pool),
            None => Ok(()),
        }
    }

    fn pool(&self) -> Option<PoolUsage> {
        self.pool_usage(self.settings.pool.as_ref()?)
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
