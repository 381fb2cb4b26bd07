//! A ready clone under a free name, by three commands and one look: the snapshot, its size, and its activation together
//! with the tags that say that it is ready.
//!
//! ```text
//! lvcreate -s -a n     populating, in the command that makes the snapshot
//! lvextend             to the size that was asked for
//! lvchange -a y + tags of the volume of that name and size that says that this job is making it: active, and ready
//! lvs                  whether all that was done, and the golden volume was one throughout
//! ```
//!
//! What the looks of [`Clones::clone_golden`] and [`Volumes::mark_ready`] ask beforehand, LVM asks under its lock (that
//! the name is free, what the volume says of itself and how large it is), and the look at the end asks once more. What
//! was not done by then is done step by step. Nobody is told of the volume before.
//!
//! [`Clones::clone_golden`]: super::super::Clones::clone_golden
//! [`Volumes::mark_ready`]: super::super::Volumes::mark_ready

use std::fs::File;

use lvp_api::{JobId, VolumeName};

use super::super::clones::Golden;
use super::super::{Made, Volume, VolumeError, VolumeErrorKind, VolumeState, Volumes as _};
use super::find::{Found, pick};
use super::{Lvm, tags};

impl Lvm {
    /// Clones to a name that was free when the golden volume was found.
    pub(super) async fn clone_at_once(
        &self,
        golden: &Golden,
        name: &VolumeName,
        size_bytes: u64,
        (job, holds): (JobId, &Made),
    ) -> Result<Volume, VolumeError> {
        let (wanted, tags) = self.terms(golden, size_bytes, job).await?;
        self.snapshot(golden, name, &tags).await?;
        if wanted > golden.volume.size_bytes {
            self.extend(name, wanted).await?;
        }
        self.activate_as_ready(name, wanted, (job, holds)).await;
        let golden_name = &golden.volume.name;
        let selection = format!("{} || lv_name=\"{golden_name}\"", self.selection_of(name));
        let mut rows = self.select(&selection).await?;
        let at = rows
            .iter()
            .position(|row| row.lv_name == golden_name.as_str());
        let now = at.and_then(|at| self.golden_of(rows.swap_remove(at)));
        let is_same = |now: &Golden| now.volume.identity == golden.volume.identity;
        let why = match now.filter(is_same) {
            Some(now) => now.flaw,
            None => Some(format!("The golden volume {golden_name} is gone")),
        };
        let made = pick(name, rows).ok_or_else(|| {
            let message = format!("The new volume {name} was removed by somebody else");
            VolumeError::new(VolumeErrorKind::NotFound, message)
        })?;
        let done = VolumeState::Ready {
            job: Some(job),
            digest: golden.key.digest,
        };
        let is_mine = made.volume.state == done
            || made.volume.state == (VolumeState::Populating { job, created: true });
        if let Some(why) = why {
            // Nobody knows what was cloned, and nobody has been told of the clone.
            if is_mine {
                self.remove_exactly(&made.volume, "").await?;
            }
            return Err(VolumeError::new(VolumeErrorKind::NotFound, why));
        }
        let is_done = made.volume.state == done && made.row.lv_size >= wanted;
        if is_done && !made.row.lv_active.is_empty() {
            self.flush(&made).await?;
            return Ok(made.volume);
        }
        let made = match made.row.lv_active.is_empty() && is_mine {
            true => self.activated(name).await?,
            false => made,
        };
        if made.volume.state != done {
            let clone = self.checked_clone(made, golden, wanted, job)?;
            self.mark_ready(&clone, job, holds).await?;
            return Ok(clone);
        }
        Err(too_small_or_inactive(&made, wanted))
    }

    /// The clone that was made, if it is what it should be.
    pub(super) fn checked_clone(
        &self,
        made: Found,
        golden: &Golden,
        wanted: u64,
        job: JobId,
    ) -> Result<Volume, VolumeError> {
        let mine = VolumeState::Populating { job, created: true };
        if made.volume.state != mine || made.tags.clone_of != Some(golden.key.digest) {
            return made.if_made_by(job, wanted);
        }
        if made.row.lv_size < wanted || made.row.lv_active.is_empty() {
            return Err(too_small_or_inactive(&made, wanted));
        }
        Ok(made.volume)
    }

    /// Activates the clone and says that it is ready, in one command. Tried once: the caller looks whether it was done.
    async fn activate_as_ready(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        (job, holds): (JobId, &Made),
    ) {
        let before = tags::populating(job, true);
        let (add, delete) = tags::difference(&before, &tags::ready(job, holds));
        let says: Vec<_> = before.iter().map(|tag| format!("\"{tag}\"")).collect();
        let selection = format!(
            "lv_name=\"{name}\" && lv_size>={size_bytes}b && lv_tags={{{}}}",
            says.join(" && ")
        );
        let target = format!("{}/{name}", self.group_name());
        let mut args = vec!["-S", &selection, "-a", "y"];
        args.extend(add.iter().flat_map(|tag| ["--addtag", tag.as_str()]));
        args.extend(delete.iter().flat_map(|tag| ["--deltag", tag.as_str()]));
        args.push(&target);
        if let Err(error) = self.run("lvchange", &args).await {
            tracing::debug!(%error, "{target} cannot be activated as ready at once");
        }
    }

    /// As LVM does not flush its metadata.
    pub(super) async fn flush(&self, on: &Found) -> Result<(), VolumeError> {
        let path = on.volume.path.clone();
        self.blocking(move || {
            let flushed = File::open(&path).and_then(|device| device.sync_all());
            flushed.map_err(|error| VolumeError::io("Flushing", &path, error))
        })
        .await
    }
}

fn too_small_or_inactive(made: &Found, wanted: u64) -> VolumeError {
    let path = made.volume.path.display();
    let message = format!(
        "The clone {path} has {} bytes after it was extended to {wanted}, and is {}: repeat the request",
        made.row.lv_size,
        match made.row.lv_active.as_str() {
            "" => "not active",
            active => active,
        }
    );
    VolumeError::new(VolumeErrorKind::Io, message)
}
