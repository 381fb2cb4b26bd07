//! A clone takes the place of the volume that it was made for.
//!
//! LVM has no exchange of two names, and no command that makes two renames one commit; restoring edited metadata
//! would be one, and is not safe beside thin pools and other commands (`vgcfgrestore` asks for `--force` there).
//! So there are two renames, and tags by which everybody who looks knows which of the two volumes has the name:
//!
//! ```text
//!                               NAME is              and there is                    a restart
//! 0 lvchange  clone: properties old                  clone (lvp.for=NAME), ready     removes the clone
//! 1 lvchange  old: lvp.aside    old                  clone                           removes the clone
//! 2 lvrename  NAME -> lvp-old   clone, by lvp.for    lvp-old (lvp.aside=NAME)        goes on with 3
//! 3 lvrename  clone -> NAME     clone                lvp-old                         goes on with 4
//! 4 lvremove  lvp-old           clone
//! ```
//!
//! Between 2 and 3 no volume has the name in LVM: [`Lvm::find`] finds the clone by what it waits for, so that this
//! program never sees a name without a volume. A guest that starts in that instant (or after a power cut in it,
//! before the daemon runs again) finds no device, and none with half of an image. "A restart" is
//! `Clones::remove_waiting`, for jobs that do not go on; a job that does comes through here again.
//!
//! The old volume is claimed by this process from before 1 until after 2, and then asked once more whether somebody
//! has opened it in between: then it gets its name back.
//!
//! [`Clones::remove_waiting`]: super::super::Clones::remove_waiting

use lvp_api::{JobId, VolumeName};

use super::super::clones::{ASIDE_PREFIX, WAITING_PREFIX, waiting_job, waiting_name};
use super::super::{Removed, Unmarked, Volume, VolumeError, VolumeErrorKind, VolumeState};
use super::Lvm;
use super::device::Purpose;
use super::find::{Found, found};
use super::tags;

impl Lvm {
    /// See [`Clones::replace`](super::super::Clones::replace).
    pub(super) async fn swap(
        &self,
        old: &Volume,
        clone: &Volume,
        job: JobId,
    ) -> Result<Volume, VolumeError> {
        let (name, aside) = (&old.name, aside_name(job)?);
        let selection = format!(
            "lv_name=\"{name}\" || lv_name=\"{aside}\" || lv_name=\"{}\"",
            clone.name
        );
        let rows = self.select(&selection).await?;
        let row = |name: &VolumeName| {
            let row = rows.iter().find(|row| row.lv_name == name.as_str());
            row.map(|row| found(name, row.clone()))
        };
        let is = |found: &Found, volume: &Volume| found.volume.identity == volume.identity;
        let there = row(name);
        if !there.as_ref().is_some_and(|there| is(there, clone)) {
            let waiting = row(&clone.name).filter(|waiting| is(waiting, clone));
            let is_ready = |waiting: &Found| {
                matches!(waiting.volume.state, VolumeState::Ready { job: by, .. } if by == Some(job))
                    && waiting.tags.waits_for.as_ref() == Some(name)
            };
            let waiting = waiting.filter(is_ready);
            let waiting = waiting.ok_or_else(|| {
                let path = clone.path.display();
                let message = format!("{path} is no clone that is ready to be {name}");
                VolumeError::new(VolumeErrorKind::Internal, message)
            })?;
            match there {
                Some(there) if is(&there, old) => {
                    self.inherit(&there, &waiting).await?;
                    self.put_aside(old, &aside).await?;
                }
                Some(there) => {
                    let path = there.volume.path.display();
                    let message =
                        format!("{path} was replaced by somebody else: repeat the request");
                    return Err(VolumeError::new(VolumeErrorKind::NotFound, message));
                }
                // Put aside before a crash.
                None => {}
            }
            self.rename(&waiting.row.lv_name, name.as_str()).await?;
        }
        let done = self.just_made(name).await?;
        if !is(&done, clone) {
            let path = done.volume.path.display();
            let message = format!(
                "{path} was made by somebody else while a clone was to get its name; the clone is {}, the volume \
                 that had the name {aside}",
                clone.path.display()
            );
            return Err(VolumeError::new(VolumeErrorKind::AlreadyExists, message));
        }
        self.remove_aside(&aside, name).await?;
        Ok(done.volume)
    }

    /// Steps 3 and 4, for a job whose clone is found by what it waits for.
    pub(super) async fn finish_swap(&self, clone: &Found, job: JobId) -> Result<(), VolumeError> {
        let name = &clone.volume.name;
        self.rename(&clone.row.lv_name, name.as_str()).await?;
        self.remove_aside(&aside_name(job)?, name).await
    }

    /// Steps 1 and 2.
    async fn put_aside(&self, old: &Volume, aside: &VolumeName) -> Result<(), VolumeError> {
        let claimed = self.claim(old, Purpose::Check, Unmarked::Adopt).await;
        let (now, claim) = claimed?;
        let tag = tags::aside(&old.name);
        self.change("lvchange", &["--addtag", &tag], &now).await?;
        let renamed = self.rename(old.name.as_str(), aside.as_str()).await;
        renamed?;
        let moved = self.just_made(aside).await?;
        let openers = match moved.volume.identity == old.identity {
            true => self.open_count(&moved.row).await?,
            // Another was put in its place since the claim.
            false => u32::MAX,
        };
        drop(claim);
        if openers == 1 {
            return Ok(());
        }
        self.rename(aside.as_str(), old.name.as_str()).await?;
        let back = self.just_made(&old.name).await?;
        self.change("lvchange", &["--deltag", &tag], &back).await?;
        Err(VolumeError::in_use(&old.path, "another process"))
    }

    /// Step 4.
    async fn remove_aside(&self, aside: &VolumeName, name: &VolumeName) -> Result<(), VolumeError> {
        let Some(left) = self.find(aside).await? else {
            return Ok(());
        };
        if left.tags.aside.as_ref() != Some(name) {
            return Ok(());
        }
        let condition = format!(" && lv_tags={{\"{}\"}}", tags::aside(name));
        self.remove_exactly(&left.volume, &condition)
            .await
            .map(drop)
    }

    /// `lvrename` takes no selection: the caller looks before and after.
    async fn rename(&self, from: &str, to: &str) -> Result<(), VolumeError> {
        let group = self.group_name();
        let mut pauses = self.pauses();
        loop {
            let Err(error) = self.run("lvrename", &[group, from, to]).await else {
                return Ok(());
            };
            let rows = self
                .select(&format!("lv_name=\"{from}\" || lv_name=\"{to}\""))
                .await?;
            let has = |name: &str| rows.iter().any(|row| row.lv_name == name);
            if has(to) && !has(from) {
                return Ok(());
            }
            let may_pass = super::commands::may_pass(&error) && has(from) && !has(to);
            if !may_pass || !pauses.wait("lvrename failed", &error).await {
                let doing = format!("Renaming {group}/{from} to {to} failed");
                return Err(VolumeError::command(doing, error));
            }
        }
    }

    /// The jobs whose swaps are under way, or were when they ended.
    pub(super) async fn swapping(&self) -> Result<Vec<JobId>, VolumeError> {
        let rows = self
            .select(&format!("lv_name=~\"^({WAITING_PREFIX}|{ASIDE_PREFIX})\""))
            .await?;
        let jobs = rows.iter().filter_map(|row| {
            let waiting = row.lv_name.parse().ok().and_then(|name| waiting_job(&name));
            waiting.or_else(|| row.lv_name.strip_prefix(ASIDE_PREFIX)?.parse().ok())
        });
        let mut jobs: Vec<JobId> = jobs.collect();
        jobs.sort_unstable();
        jobs.dedup();
        Ok(jobs)
    }

    /// Brings a job's swap to its end, one way or the other: see the table above.
    pub(super) async fn settle(&self, job: JobId) -> Result<Removed, VolumeError> {
        let clone = self.find_exactly(&waiting_name(job)).await?;
        let mut settled = Removed::Absent;
        if let Some(clone) = &clone {
            if !clone.tags.ours {
                return Ok(Removed::Kept);
            }
            let is_ready = matches!(clone.volume.state, VolumeState::Ready { .. });
            let gets = clone.tags.waits_for.as_ref().filter(|_| is_ready);
            settled = match gets {
                Some(name) if self.find_exactly(name).await?.is_none() => {
                    self.rename(&clone.row.lv_name, name.as_str()).await?;
                    tracing::warn!("gave a clone the name {name}, which job {job} had begun");
                    Removed::Removed
                }
                _ => self.remove_exactly(&clone.volume, "").await?,
            };
        }
        let Some(aside) = self.find_exactly(&aside_name(job)?).await? else {
            return Ok(settled);
        };
        let Some(name) = &aside.tags.aside else {
            return Ok(Removed::Kept);
        };
        match self.find_exactly(name).await? {
            None => {
                self.rename(&aside.row.lv_name, name.as_str()).await?;
                tracing::warn!(
                    "gave a volume its name {name} back, which job {job} had not replaced"
                );
                Ok(Removed::Removed)
            }
            Some(new) if new.tags.ours => {
                self.remove_aside(&aside.volume.name, name).await?;
                Ok(Removed::Removed)
            }
            Some(_) => {
                let path = aside.volume.path.display();
                tracing::warn!(
                    "{name} is somebody else's by now: {path}, which had the name, stays"
                );
                Ok(Removed::Kept)
            }
        }
    }
}

/// The name of what a job's clone replaces, until it is gone.
fn aside_name(job: JobId) -> Result<VolumeName, VolumeError> {
    let name = format!("{ASIDE_PREFIX}{job}").parse::<VolumeName>();
    name.map_err(|error| VolumeError::internal("A volume's name is not allowed").caused_by(error))
}
