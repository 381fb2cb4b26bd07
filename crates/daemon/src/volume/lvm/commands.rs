//! LVM's commands: what is asked, what is changed, and what a failure means.

use std::fmt::Display;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use lvp_api::{JobId, VolumeName};

use super::super::{Identity, Volume, VolumeError, VolumeErrorKind};
use super::Lvm;
use super::report::{self, LvRow, VgRow};
use super::tags::{self, Tags};
use crate::backoff::Backoff;
use crate::cmd::{self, CmdError, CmdErrorKind};
use crate::threads::blocking;

/// LVM's exit status for a command that it understood and could not carry out (`ECMD_FAILED` in
/// lvm2's `tools/errors.h`).
const COMMAND_FAILED: i32 = 5;

/// What a child of this process takes at most, on a busy host, from fork to exec.
const CHILD_PAUSE: Duration = Duration::from_millis(500);

/// A volume with everything that LVM says of it.
pub(super) struct Found {
    pub(super) volume: Volume,
    pub(super) row: LvRow,
    pub(super) tags: Tags,
}

impl Lvm {
    pub(super) fn group_name(&self) -> &str {
        &self.settings.volume_group
    }

    pub(super) fn pauses(&self) -> Pauses {
        let configured = self.settings.retry_backoff.iter().copied();
        let waits = [CHILD_PAUSE].into_iter().chain(configured).collect();
        Pauses(Backoff::listed(waits, Duration::ZERO))
    }

    pub(super) async fn run(&self, tool: &str, args: &[&str]) -> Result<Vec<u8>, CmdError> {
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

    pub(super) async fn find(&self, name: &VolumeName) -> Result<Option<Found>, VolumeError> {
        let rows = self.select(&format!("lv_name=\"{name}\"")).await?;
        let row = rows.into_iter().find(|row| row.lv_name == name.as_str());
        Ok(row.map(|row| found(name, row)))
    }

    /// The volume as it is now, if it is still the same one.
    pub(super) async fn find_again(&self, volume: &Volume) -> Result<Found, VolumeError> {
        match self.find(&volume.name).await? {
            Some(now) if now.volume.identity == volume.identity => Ok(now),
            _ => Err(VolumeError::new(
                VolumeErrorKind::NotFound,
                format!(
                    "The volume {} was removed or replaced by somebody else: repeat the request",
                    volume.path.display()
                ),
            )),
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
        let target = format!("{}/{}", self.group_name(), on.volume.name);
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
        let (add, delete) = tags::difference(&on.row.lv_tags, wanted);
        let add = add.iter().flat_map(|tag| ["--addtag", tag.as_str()]);
        let delete = delete.iter().flat_map(|tag| ["--deltag", tag.as_str()]);
        let args: Vec<_> = add.chain(delete).collect();
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

    /// One `lvcreate`.
    pub(super) async fn create_once(
        &self,
        name: &VolumeName,
        extents: u64,
        job: JobId,
    ) -> Result<(), CmdError> {
        let extents = extents.to_string();
        let tags = tags::populating(job, true);
        let mut args = vec![
            "--yes",
            "--type",
            "linear",
            // What an earlier volume left here must not come alive: LVM zeroes the first 4 KiB and
            // wipes known signatures before udev sees the device. Else mdadm's and others' rules
            // would take an old RAID member for a present one, and hold the device.
            "--zero",
            "y",
            "--wipesignatures",
            "y",
            "--extents",
            &extents,
            "--name",
            name.as_str(),
        ];
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

pub(super) fn found(name: &VolumeName, row: LvRow) -> Found {
    let tags = Tags::parse(&row.lv_tags);
    let volume = Volume {
        name: name.clone(),
        path: PathBuf::from(row.lv_path_or_dm()),
        size_bytes: row.lv_size,
        state: tags.state,
        last_ended: tags.last_ended,
        kind: None,
        content: None,
        identity: Identity::Lvm {
            uuid: row.lv_uuid.clone(),
        },
    };
    Found { volume, row, tags }
}

fn bad_report(error: serde_json::Error) -> VolumeError {
    let message = "LVM's report cannot be understood: check its version (2.03 or newer is needed)";
    VolumeError::new(VolumeErrorKind::Internal, message).caused_by(error)
}
