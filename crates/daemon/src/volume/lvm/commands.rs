//! LVM's commands: what is asked, what is changed, and what a failure means.

use std::fmt::Display;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use lvp_api::{JobId, VolumeName};

use super::super::{Volume, VolumeError, VolumeErrorKind, round_up};
use super::Lvm;
use super::find::Found;
use super::report::{self, LvRow, VgRow};
use super::tags;
use crate::backoff::Backoff;
use crate::cmd::{self, CmdError, CmdErrorKind};
use crate::threads::blocking;

/// LVM's exit status for a command that it understood and could not carry out (`ECMD_FAILED` in
/// lvm2's `tools/errors.h`).
const COMMAND_FAILED: i32 = 5;

/// What every command of ours that changes metadata says of LVM's archive. LVM keeps a copy of the metadata
/// from before each change in `/etc/lvm/archive`, for 30 days at least: thousands of clones would leave
/// thousands of files. What an operator changes is archived as ever, with the state before it; of the states
/// between two of our own changes there is no copy. `/etc/lvm/backup` has one file for a group, which is kept up
/// to date: it is what a group is restored from. (`--autobackup n` would switch off both: lvm2's `lvmcmdline.c`.)
const NO_ARCHIVE: [&str; 2] = ["--config", "backup{archive=0}"];

/// Those of LVM's programs that change metadata.
const CHANGING: [&str; 5] = ["lvcreate", "lvchange", "lvextend", "lvrename", "lvremove"];

/// What a child of this process takes at most, on a busy host, from fork to exec.
const CHILD_PAUSE: Duration = Duration::from_millis(500);

/// Where new volumes are made, and what they may take.
struct Room {
    place: String,
    free_bytes: u64,
    extent_bytes: u64,
}

impl Lvm {
    pub(super) fn group_name(&self) -> &str {
        &self.settings.volume_group
    }

    /// The pool of new volumes.
    pub(super) fn pool_name(&self) -> Option<&str> {
        Some(self.settings.pool.as_ref()?.name.as_str())
    }

    pub(super) fn pauses(&self) -> Pauses {
        let configured = self.settings.retry_backoff.iter().copied();
        let waits = [CHILD_PAUSE].into_iter().chain(configured).collect();
        Pauses(Backoff::listed(waits, Duration::ZERO))
    }

    pub(super) async fn run(&self, tool: &str, args: &[&str]) -> Result<Vec<u8>, CmdError> {
        let no_archive = CHANGING.contains(&tool).then_some(NO_ARCHIVE);
        let args = no_archive.iter().flatten().chain(args);
        let output = cmd::run(tool, args, self.settings.command_timeout).await?;
        Ok(output.stdout)
    }

    /// The volume group, if changes to it are possible.
    pub(super) async fn group(&self) -> Result<VgRow, VolumeError> {
        let group = self.group_name();
        let selection = format!("vg_name=\"{group}\"");
        let args = report_args(report::VG_FIELDS, &selection);
        // Selected, not named: so a group that does not exist is an empty answer, not an error.
        let json = self.run("vgs", &args).await;
        let json =
            json.map_err(|e| VolumeError::command("Asking for the volume group failed", e))?;
        let groups = report::parse_vgs(&json).map_err(bad_report)?;
        let down = |what: String| VolumeError::new(VolumeErrorKind::DependencyDown, what);
        let Some(row) = groups.into_iter().next() else {
            return Err(down(format!(
                "The volume group {group} does not exist or its disks are not there: check 'vgs', \
                 and lvm.volume_group in the configuration"
            )));
        };
        if row.vg_missing_pv_count > 0 {
            let missing = row.vg_missing_pv_count;
            return Err(down(format!(
                "The volume group {group} lacks {missing} of its disks, so that LVM refuses \
                 changes: check 'pvs'"
            )));
        }
        if !row.vg_exported.is_empty() || row.vg_permissions != "writeable" {
            return Err(down(format!(
                "The volume group {group} is exported or read-only: check 'vgs'"
            )));
        }
        Ok(row)
    }

    /// The devices of the volume group.
    pub(super) async fn physical_volumes(&self) -> Result<Vec<PathBuf>, VolumeError> {
        let selection = format!("vg_name=\"{}\"", self.group_name());
        let args = report_args(report::PV_FIELDS, &selection);
        let json = self.run("pvs", &args).await;
        let json = json.map_err(|e| VolumeError::command("Asking for the disks failed", e))?;
        report::parse_pvs(&json).map_err(bad_report)
    }

    /// The volumes that a selection matches.
    pub(super) async fn select(&self, selection: &str) -> Result<Vec<LvRow>, VolumeError> {
        let mut args = report_args(report::LV_FIELDS, selection);
        args.push(self.group_name());
        match self.run("lvs", &args).await {
            Ok(json) => report::parse_lvs(&json).map_err(bad_report),
            Err(error) => {
                // Perhaps it is the group; that says more.
                self.group().await?;
                Err(VolumeError::command("Listing the volumes failed", error))
            }
        }
    }

    /// How many have the device open, by the kernel's count.
    pub(super) async fn open_count(&self, row: &LvRow) -> Result<u32, VolumeError> {
        let args = ["info", "-c", "--noheadings", "-o", "open", &row.lv_dm_path];
        let failed = |e| VolumeError::command("Asking who has the volume open failed", e);
        let count = self.run("dmsetup", &args).await.map_err(failed)?;
        let count = String::from_utf8_lossy(&count);
        count.trim().parse().map_err(|error| {
            let message = format!("dmsetup printed {count:?} where a count was expected");
            VolumeError::new(VolumeErrorKind::Internal, message).caused_by(error)
        })
    }

    /// Runs a command that changes one volume, if it is still the one with this UUID. That the
    /// command succeeded does not mean that it was: the caller looks.
    pub(super) async fn change(
        &self,
        tool: &str,
        args: &[&str],
        on: &Found,
    ) -> Result<(), VolumeError> {
        let selection = format!("lv_uuid=\"{}\"", on.row.lv_uuid);
        let target = format!("{}/{}", self.group_name(), on.row.lv_name);
        let args = [args, &["-S", &selection, &target]].concat();
        let mut pauses = self.pauses();
        loop {
            match self.run(tool, &args).await {
                Ok(_) => return Ok(()),
                Err(error) if may_pass(&error) && pauses.wait("LVM failed", &error).await => {}
                Err(error) => {
                    self.group().await?;
                    let doing = format!("Changing the volume {target} failed");
                    return Err(VolumeError::command(doing, error));
                }
            }
        }
    }

    /// Makes our tags `wanted` in one commit of LVM's metadata, and looks whether they are.
    pub(super) async fn set_tags(
        &self,
        on: &Found,
        wanted: &[String],
    ) -> Result<Found, VolumeError> {
        self.set_tags_and(on, wanted, &[]).await
    }

    /// The same together with other changes.
    pub(super) async fn set_tags_and(
        &self,
        on: &Found,
        wanted: &[String],
        more: &[&str],
    ) -> Result<Found, VolumeError> {
        let (add, delete) = tags::difference(&on.row.lv_tags, wanted);
        let add = add.iter().flat_map(|tag| ["--addtag", tag.as_str()]);
        let delete = delete.iter().flat_map(|tag| ["--deltag", tag.as_str()]);
        let args: Vec<_> = add.chain(delete).chain(more.iter().copied()).collect();
        if !args.is_empty() {
            self.change("lvchange", &args, on).await?;
        }
        let now = self.find_again(&on.volume).await?;
        if tags::difference(&now.row.lv_tags, wanted) != (vec![], vec![]) {
            let message = format!(
                "The tags of {} are {:?} after a change that should have made them {wanted:?}",
                now.row.lv_path, now.row.lv_tags
            );
            return Err(VolumeError::new(VolumeErrorKind::Io, message));
        }
        Ok(now)
    }

    /// Work that may block, with the deadline that commands have: a device that hangs must not
    /// take its job along.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, VolumeError> {
        let limit = self.settings.command_timeout;
        match tokio::time::timeout(limit, blocking(work)).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => {
                let message = "The look at a volume's device crashed; see the log";
                Err(VolumeError::new(VolumeErrorKind::Internal, message).caused_by(error))
            }
            Err(_) => {
                let message = format!("A volume's device did not answer within {limit:?}");
                Err(VolumeError::new(VolumeErrorKind::Timeout, message))
            }
        }
    }

    /// Makes a volume that says `populating` from its first instant, with these tags beside.
    pub(super) async fn create_tagged(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        job: JobId,
        more: &[String],
    ) -> Result<Volume, VolumeError> {
        let tags = [&tags::populating(job, true), more].concat();
        let mut pauses = self.pauses();
        loop {
            // In this order, also after a failure: it may have made the volume nevertheless.
            let existing = self.find(name).await?;
            let room = self.room().await?;
            let no_space = |want| VolumeError::no_space(&room.place, room.free_bytes, want);
            let size_bytes = round_up(size_bytes.max(1), room.extent_bytes)
                .ok_or_else(|| no_space(size_bytes))?;
            if let Some(existing) = existing {
                return existing.if_made_by(job, size_bytes);
            }
            match &self.settings.pool {
                Some(pool) => drop(self.check_pool(pool, size_bytes).await?),
                None if size_bytes > room.free_bytes => return Err(no_space(size_bytes)),
                None => {}
            }
            match self.create_once(name, size_bytes, &tags).await {
                Ok(()) => return self.just_made(name).await.map(|made| made.volume),
                Err(error) if may_pass(&error) && pauses.wait("lvcreate failed", &error).await => {}
                Err(error) => {
                    let doing = format!("Creating the volume {}/{name} failed", self.group_name());
                    return Err(VolumeError::command(doing, error));
                }
            }
        }
    }

    /// Where new volumes are made.
    async fn room(&self) -> Result<Room, VolumeError> {
        let group = self.group_name();
        if let Some(pool) = &self.settings.pool {
            let look = self.fresh_look(pool).await?;
            return Ok(Room {
                place: format!("The thin pool {group}/{}", pool.name),
                free_bytes: self.free_bytes(pool, &look),
                extent_bytes: look.extent_bytes,
            });
        }
        let row = self.group().await?;
        Ok(Room {
            place: format!("The volume group {group}"),
            free_bytes: row.vg_free,
            extent_bytes: row.vg_extent_size,
        })
    }

    /// One `lvcreate`.
    pub(super) async fn create_once(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        tags: &[String],
    ) -> Result<(), CmdError> {
        let size = format!("{size_bytes}b");
        let how = match self.pool_name() {
            // A volume of a pool that zeroes is all zeros: there is nothing to wipe.
            Some(pool) => ["--type", "thin", "--thinpool", pool, "--virtualsize", &size],
            // What an earlier volume left here must not come alive: LVM zeroes the first 4 KiB and
            // wipes known signatures before udev sees the device. Else mdadm's and others' rules
            // would take an old RAID member for a present one, and hold the device.
            None => [
                "--type=linear",
                "--zero=y",
                "--wipesignatures",
                "y",
                "--size",
                &size,
            ],
        };
        let mut args = vec!["--yes", "--name", name.as_str()];
        args.extend(how);
        args.extend(tags.iter().flat_map(|tag| ["--addtag", tag.as_str()]));
        args.push(self.group_name());
        self.run("lvcreate", &args).await.map(|_| ())
    }
}

/// The pauses of one call. The first is there whatever is configured: a child that was just forked may have the
/// device open still, which LVM and the kernel count like any other opener.
pub(super) struct Pauses(Backoff);

impl Pauses {
    /// Waits before the next attempt; false when there is none left.
    pub(super) fn wait(
        &mut self,
        what: &'static str,
        why: &dyn Display,
    ) -> impl Future<Output = bool> + use<> {
        let is_first = self.0.failures() == 0;
        let pause = self.0.failed(None);
        match pause {
            Some(pause) if is_first => tracing::debug!(%why, ?pause, "{what}; trying again"),
            Some(pause) => tracing::warn!(%why, ?pause, "{what}; trying again"),
            None => {}
        }
        async move {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            pause.is_some()
        }
    }
}

/// Whether a failure of LVM may be one of the moment. A time-out is none: it has waited already.
pub(super) fn may_pass(error: &CmdError) -> bool {
    matches!(
        error.kind(),
        CmdErrorKind::Failed(COMMAND_FAILED) | CmdErrorKind::Signalled(_)
    )
}

pub(super) fn report_args<'a>(fields: &'a str, selection: &'a str) -> Vec<&'a str> {
    vec![
        "--reportformat",
        "json",
        "--units",
        "b",
        "--nosuffix",
        "--config",
        report::CONFIG,
        "--options",
        fields,
        "--select",
        selection,
    ]
}

pub(super) fn bad_report(error: serde_json::Error) -> VolumeError {
    let message = "LVM's report cannot be understood: check its version (2.03 or newer is needed)";
    VolumeError::new(VolumeErrorKind::Internal, message).caused_by(error)
}
