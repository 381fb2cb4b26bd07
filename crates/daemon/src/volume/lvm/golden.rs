//! Golden volumes and their clones: thin volumes of the pool, cloned by a thin snapshot.
//!
//! ```text
//! make:   lvcreate -V            populating, says what it is to hold
//!         ... written as every volume is ...
//! seal:   lvchange -a n          nobody has it open any more
//!         lvchange -p r -k y     read-only, not activated at boot, and all tags, in one commit
//! clone:  lvcreate -s -k n -a n  populating, in the command that makes the snapshot
//!         lvextend               to the size that was asked for
//!         lvchange -a y
//!         ... mark_ready ...
//! ```
//!
//! A crash at any point leaves a volume that says `populating`, which is no golden one and which its job takes up
//! or [`Volumes::remove_created`] removes; the commit that seals it is one. LVM writes a snapshot in two: first
//! its metadata with the volume, its tags and a message for the pool, then, when the kernel has taken the
//! message, the same without it. A crash between leaves the message, which the next command sends.
//!
//! A clone is extended while it is inactive: its size then is a number in the metadata, and its device is made
//! once, as large as it has to be. Behind the image it has no blocks, and what has none reads as zeros; the first
//! write to a block of a pool that zeroes fills up the rest of it. The golden volume's own end, behind the
//! image's, is unwritten or was written as zeros: it was emptied before it was written (`empty`).
//!
//! [`Volumes::remove_created`]: super::super::Volumes::remove_created

use std::fs::File;

use async_trait::async_trait;
use lvp_api::{JobId, VolumeKind, VolumeName};

use super::super::clones::{Clones, Content, GOLDEN_PREFIX, Golden, GoldenKey, waiting_name};
use super::super::{
    Made, Removed, Unmarked, Volume, VolumeError, VolumeErrorKind, VolumeState, Volumes, round_up,
};
use super::device::{self, Purpose};
use super::find::{Found, found, pick};
use super::report::LvRow;
use super::settings::PoolSettings;
use super::tags::{self, Sealed, Tags};
use super::{Lvm, look, rules};

/// The longest name of a device-mapper device (`DM_NAME_LEN` in `linux/dm-ioctl.h`, less the end).
const DEVICE_NAME_MAX: usize = 127;

/// The longest name of a golden volume's image type.
const TYPE_MAX: usize = 5;

impl Lvm {
    /// Whether there can be clones here at all.
    pub(super) async fn can_clone(&self) -> Result<(), String> {
        let Some(pool) = &self.settings.pool else {
            return Err(format!(
                "Volumes of {} are linear: set lvm.thin_pool for clones",
                self.group_name()
            ));
        };
        // A hyphen is doubled in the names of devices.
        let hyphens = |name: &str| name.len() + name.matches('-').count();
        let name = hyphens(GOLDEN_PREFIX) + TYPE_MAX + "--".len() + 64;
        if hyphens(self.group_name()) + "-".len() + name > DEVICE_NAME_MAX {
            return Err(format!(
                "The name of the volume group {} is too long for those of golden volumes",
                self.group_name()
            ));
        }
        let look = self.fresh_look(pool).await;
        let look = look.map_err(|error| crate::error::chain(&error))?;
        look.flaw(self.group_name()).map_or(Ok(()), Err)
    }

    fn pool_settings(&self) -> Result<&PoolSettings, VolumeError> {
        self.settings.pool.as_ref().ok_or_else(|| {
            VolumeError::new(
                VolumeErrorKind::NotOurs,
                "There are no clones without a thin pool: set lvm.thin_pool",
            )
        })
    }

    pub(super) fn golden_of(&self, row: LvRow) -> Option<Golden> {
        let name: VolumeName = row.lv_name.parse().ok()?;
        let key = GoldenKey::of_name(&name)?;
        let Found { volume, row, tags } = found(&name, row);
        Some(Golden {
            key,
            content: tags.content,
            own_bytes: tags.sealed.map(|sealed| sealed.mapped_bytes),
            flaw: self.flaw(&row, &tags, &key),
            volume,
        })
    }

    /// How large a clone is, and its tags.
    pub(super) async fn terms(
        &self,
        golden: &Golden,
        size_bytes: u64,
        job: JobId,
    ) -> Result<(u64, Vec<String>), VolumeError> {
        let pool = self.pool_settings()?;
        // Never smaller than the golden volume: LVM cuts in place.
        let wanted = size_bytes.max(golden.volume.size_bytes);
        let look = self.check_pool(pool, wanted).await?;
        let Some(wanted) = round_up(wanted, look.extent_bytes) else {
            return Err(VolumeError::internal(
                "A size beyond 2^64 passed the pool's check",
            ));
        };
        let mut tags = tags::populating(job, true);
        tags.push(tags::clone_of(&golden.key.digest));
        tags.extend(golden.content.as_ref().map(tags::content));
        Ok((wanted, tags))
    }

    /// Why a volume with a golden name is none.
    fn flaw(&self, row: &LvRow, tags: &Tags, key: &GoldenKey) -> Option<String> {
        let pool = self.pool_name().unwrap_or_default();
        let path = row.lv_path_or_dm();
        if !rules::is_thin(row) || row.pool_lv != pool {
            return Some(format!("{path} is not in the thin pool {pool}"));
        }
        if let Some(tag) = tags.of_another_tool() {
            return Some(format!(
                "The tag {tag:?} of {path} says that another tool manages it"
            ));
        }
        if let VolumeState::Populating { job, .. } = tags.state {
            return Some(format!(
                "{path} is being written by job {job}, or was left unfinished"
            ));
        }
        let (Some(content), Some(sealed)) = (&tags.content, &tags.sealed) else {
            return Some(format!("The tags of {path} do not say what it holds"));
        };
        let is_ready =
            matches!(tags.state, VolumeState::Ready { digest, .. } if digest == key.digest);
        if !is_ready || tags.golden != Some(*key) {
            return Some(format!("The tags of {path} do not agree with its name"));
        }
        if row.lv_permissions != "read-only" {
            return Some(format!("{path} can be written"));
        }
        if row.lv_size != sealed.volume_bytes || row.lv_size < content.size_bytes {
            let (has, had) = (row.lv_size, sealed.volume_bytes);
            return Some(format!(
                "{path} has {has} bytes and had {had} when it was written"
            ));
        }
        None
    }
}

#[async_trait]
impl Clones for Lvm {
    async fn golden(&self) -> Result<Vec<Golden>, VolumeError> {
        let rows = self
            .select(&format!("lv_name=~\"^{GOLDEN_PREFIX}\""))
            .await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| self.golden_of(row))
            .collect())
    }

    async fn find_golden(&self, key: &GoldenKey) -> Result<Option<Golden>, VolumeError> {
        let found = self.find(&key.volume_name()).await?;
        Ok(found.and_then(|found| self.golden_of(found.row)))
    }

    async fn find_golden_and(
        &self,
        key: &GoldenKey,
        name: &VolumeName,
    ) -> Result<(Option<Golden>, Option<Volume>), VolumeError> {
        let golden = key.volume_name();
        let selection = format!("{} || lv_name=\"{golden}\"", self.selection_of(name));
        let mut rows = self.select(&selection).await?;
        let at = rows.iter().position(|row| row.lv_name == golden.as_str());
        let golden = at.and_then(|at| self.golden_of(rows.swap_remove(at)));
        Ok((golden, pick(name, rows).map(|found| found.volume)))
    }

    async fn make_golden(
        &self,
        key: &GoldenKey,
        size_bytes: u64,
        job: JobId,
    ) -> Result<Volume, VolumeError> {
        self.pool_settings()?;
        let tag = [tags::golden(key)];
        self.create_tagged(&key.volume_name(), size_bytes, job, &tag)
            .await
    }

    async fn seal(
        &self,
        volume: &Volume,
        key: &GoldenKey,
        job: JobId,
        content: &Content,
    ) -> Result<Golden, VolumeError> {
        let mut now = self.find_again(volume).await?;
        let changed = |now: &Found| {
            let path = now.volume.path.display();
            let message = format!("{path} was changed by somebody else while it was made golden");
            VolumeError::new(VolumeErrorKind::NotFound, message)
        };
        let is_sealed = matches!(now.volume.state, VolumeState::Ready { .. });
        if !is_sealed {
            if now.volume.state != (VolumeState::Populating { job, created: true }) {
                return Err(VolumeError::not_populating(&now.volume));
            }
            if now.tags.golden != Some(*key) || now.row.lv_size < content.size_bytes {
                return Err(changed(&now));
            }
            // Known while it is active; of a repeat after a crash, only that it has no more than this.
            let taken = now.row.data_percent;
            let mapped_bytes = taken.map_or(now.row.lv_size, |taken| {
                look::part_of(now.row.lv_size, taken)
            });
            if !now.row.lv_active.is_empty() {
                self.change("lvchange", &["-a", "n"], &now).await?;
            }
            let sealed = Sealed {
                volume_bytes: now.row.lv_size,
                mapped_bytes,
            };
            let wanted = [
                tags::ready(job, &key.digest.into()),
                vec![
                    tags::golden(key),
                    tags::content(content),
                    tags::sealed(&sealed),
                ],
            ];
            let more = ["--permission", "r", "--setactivationskip", "y"];
            now = self.set_tags_and(&now, &wanted.concat(), &more).await?;
        }
        let sealed = self.golden_of(now.row.clone());
        match sealed {
            Some(golden) if golden.flaw.is_none() && golden.content == Some(*content) => Ok(golden),
            Some(golden) if golden.flaw.is_some() => {
                Err(changed(&now).caused_by(golden.flaw.unwrap_or_default()))
            }
            _ => Err(changed(&now)),
        }
    }

    async fn clone_golden(
        &self,
        golden: &Golden,
        name: &VolumeName,
        size_bytes: u64,
        job: JobId,
    ) -> Result<Volume, VolumeError> {
        self.pool_settings()?;
        let waiting = waiting_name(job);
        // One look for all of it, and the one that decides: what the caller has seen may be seconds old, or from
        // before a golden volume had to go for want of room.
        let selection = format!(
            "lv_name=\"{name}\" || lv_name=\"{waiting}\" || lv_name=\"{}\"",
            golden.volume.name
        );
        let rows = self.select(&selection).await?;
        let row = |name: &VolumeName| rows.iter().find(|row| row.lv_name == name.as_str());
        let origin = row(&golden.volume.name).cloned();
        let origin = origin.and_then(|row| self.golden_of(row));
        let gone = |why: String| VolumeError::new(VolumeErrorKind::NotFound, why);
        match origin.filter(|now| now.volume.identity == golden.volume.identity) {
            None => {
                let name = &golden.volume.name;
                return Err(gone(format!("The golden volume {name} is gone")));
            }
            Some(Golden {
                flaw: Some(flaw), ..
            }) => return Err(gone(flaw)),
            Some(_) => {}
        }
        let mine = VolumeState::Populating { job, created: true };
        let mut is_taken = false;
        if let Some(existing) = row(name) {
            is_taken = found(name, existing.clone()).volume.state != mine
                || self.remove_created(name, job).await? == Removed::Kept;
        }
        if row(&waiting).is_some() {
            self.settle(job).await?;
        }
        let (wanted, mut tags) = self.terms(golden, size_bytes, job).await?;
        let target = match is_taken {
            false => name,
            true => {
                tags.push(tags::waits_for(name));
                &waiting
            }
        };
        self.snapshot(golden, target, &tags).await?;
        if wanted > golden.volume.size_bytes {
            self.extend(target, wanted).await?;
        }
        // The look after it finds the UUID, by which the tags are changed, and that the size is the wanted one before
        // anything says so.
        let made = self.activated(target).await?;
        self.checked_clone(made, golden, wanted, job)
    }

    async fn clone_ready(
        &self,
        golden: &Golden,
        name: &VolumeName,
        size_bytes: u64,
        (job, made): (JobId, &Made),
        is_free: bool,
    ) -> Result<Volume, VolumeError> {
        if is_free {
            let made = (job, made);
            return self.clone_at_once(golden, name, size_bytes, made).await;
        }
        let clone = self.clone_golden(golden, name, size_bytes, job).await?;
        self.mark_ready(&clone, job, made).await?;
        Ok(clone)
    }

    async fn open_clone(&self, clone: &Volume, job: JobId) -> Result<File, VolumeError> {
        let claimed = self.claim(clone, Purpose::Write, Unmarked::Refuse).await;
        let (now, file) = claimed?;
        match now.volume.state == (VolumeState::Populating { job, created: true }) {
            true => Ok(file),
            false => Err(VolumeError::not_populating(&now.volume)),
        }
    }

    fn is_replaceable(&self, volume: &Volume) -> bool {
        self.settings.pool.is_some()
            && matches!(volume.kind, Some(VolumeKind::Thin | VolumeKind::Clone))
            && matches!(
                volume.state,
                VolumeState::Ready { .. } | VolumeState::Populating { .. }
            )
    }

    async fn replace(
        &self,
        old: &Volume,
        clone: &Volume,
        job: JobId,
    ) -> Result<Volume, VolumeError> {
        self.swap(old, clone, job).await
    }

    async fn check_unused(&self, volume: &Volume) -> Result<(), VolumeError> {
        let claimed = self.claim(volume, Purpose::Check, Unmarked::Adopt).await;
        let (now, _) = claimed?;
        self.check_inheritable(&now).await
    }

    async fn waiting(&self) -> Result<Vec<JobId>, VolumeError> {
        self.swapping().await
    }

    async fn remove_waiting(&self, job: JobId) -> Result<Removed, VolumeError> {
        self.settle(job).await
    }

    async fn read_golden(&self, golden: &Volume) -> Result<File, VolumeError> {
        let mut now = self.find_again(golden).await?;
        if now.row.lv_active.is_empty() {
            // Read-only it stays, by its table; at boot it is not activated.
            let args = ["-a", "y", "--ignoreactivationskip"];
            self.change("lvchange", &args, &now).await?;
            now = self.find_again(golden).await?;
        }
        self.blocking(move || device::open_to_read(&now.row)).await
    }

    async fn remove_golden(&self, golden: &Golden) -> Result<Removed, VolumeError> {
        let volume = &golden.volume;
        if GoldenKey::of_name(&volume.name).is_none() {
            return Err(VolumeError::internal(
                "Only golden volumes are removed by this",
            ));
        }
        self.remove_exactly(volume, "").await
    }
}
