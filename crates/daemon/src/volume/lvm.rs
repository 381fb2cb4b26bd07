//! Volumes as logical volumes of one volume group.
//!
//! What LVM says decides; this program keeps nothing about a volume anywhere else. Its state is in
//! tags ([`tags`]), each change of which is one `lvchange`, that is one commit of LVM's metadata:
//! no crash leaves half of it. What may be written at all is in [`rules`], the look at the device
//! itself in [`device`].
//!
//! **Failures without words.** LVM ends with status 5 for a lock, a busy device and a full volume
//! group alike, and its log report has no codes either, so a failed command is followed by a look
//! at the volume and the group: done after all, refused for a reason that stays (no room, no
//! group), or worth a repeat by the back-off of the configuration. Changes carry a selection
//! (`-S`) with the volume's UUID and tags, which LVM evaluates under its own lock: a volume that
//! was replaced in the meantime is not touched.
//!
//! **Locks.** LVM waits for a lock that another command holds (`wait_for_locks`); the time-out of
//! the command ends that.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lvp_api::{JobId, Sha256Digest, VolumeName};

use super::report::{self, LvRow, VgRow};
use super::{
    Capacity, Identity, InUse, OpenVolume, Removed, Volume, VolumeError, VolumeErrorKind,
    VolumeState, Volumes, round_up,
};
use crate::cmd::{self, CmdError, CmdErrorKind};

mod device;
mod rules;
mod tags;

use device::{Purpose, Refused};
use tags::Tags;

/// LVM's exit status for a command that it understood and could not carry out (`ECMD_FAILED` in
/// lvm2's `tools/errors.h`).
const COMMAND_FAILED: i32 = 5;

/// How the LVM back end works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The volume group that has the volumes.
    pub volume_group: String,
    /// How often a command that failed for a reason that may pass is repeated.
    pub retry_attempts: u32,
    /// The pauses before the repeats; the last one counts for all further ones.
    pub retry_backoff: Vec<Duration>,
    /// How long one command may take.
    pub command_timeout: Duration,
    /// Whether existing volumes without any tags may be written.
    pub adopt_untagged: bool,
}

/// The configured volume group's name cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be a volume group's name: 1 to 127 of a-z A-Z 0-9 + _ . -, no '-' in front")]
pub struct BadVolumeGroup(String);

/// Volumes in a volume group.
#[derive(Debug)]
pub struct Lvm {
    settings: Settings,
    in_use: Arc<dyn InUse>,
}

/// A volume with everything that LVM says of it.
struct Found {
    volume: Volume,
    row: LvRow,
    tags: Tags,
}

impl Lvm {
    /// Nothing is run yet: the volume group may be absent for now.
    pub fn new(settings: Settings, in_use: Arc<dyn InUse>) -> Result<Self, BadVolumeGroup> {
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

    fn group_name(&self) -> &str {
        &self.settings.volume_group
    }

    fn backoff(&self) -> Backoff<'_> {
        Backoff {
            settings: &self.settings,
            done: 0,
        }
    }

    async fn run(&self, tool: &str, args: &[&str]) -> Result<Vec<u8>, CmdError> {
        let output = cmd::run(tool, args, self.settings.command_timeout).await?;
        Ok(output.stdout)
    }

    /// The volume group, if changes to it are possible.
    async fn group(&self) -> Result<VgRow, VolumeError> {
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
    async fn select(&self, selection: &str) -> Result<Vec<LvRow>, VolumeError> {
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

    async fn find(&self, name: &VolumeName) -> Result<Option<Found>, VolumeError> {
        let rows = self.select(&format!("lv_name=\"{name}\"")).await?;
        let row = rows.into_iter().find(|row| row.lv_name == name.as_str());
        Ok(row.map(|row| found(name, row)))
    }

    /// The volume as it is now, if it is still the same one.
    async fn find_again(&self, volume: &Volume) -> Result<Found, VolumeError> {
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
            Some(user) => Err(in_use(Path::new(row.lv_path_or_dm()), &user)),
        }
    }

    /// Every check, then the device, claimed for this process. Waits by the back-off for those who
    /// have it open for a moment only.
    async fn claim(
        &self,
        volume: &Volume,
        purpose: Purpose,
    ) -> Result<(Found, std::fs::File), VolumeError> {
        let mut backoff = self.backoff();
        loop {
            let mut now = self.find_again(volume).await?;
            let adopt = self.settings.adopt_untagged;
            if let Some(refusal) = rules::refusal(&now.row, &now.tags, adopt) {
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
            if !backoff.wait("the volume is open", &busy).await {
                return Err(in_use(&volume.path, &busy));
            }
        }
    }

    /// How many have the device open, by the kernel's count.
    async fn open_count(&self, row: &LvRow) -> Result<u32, VolumeError> {
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
    async fn change(&self, tool: &str, args: &[&str], on: &Found) -> Result<(), VolumeError> {
        let selection = format!("lv_uuid=\"{}\"", on.row.lv_uuid);
        let target = format!("{}/{}", self.group_name(), on.volume.name);
        let args = [args, &["-S", &selection, &target]].concat();
        let mut backoff = self.backoff();
        loop {
            match self.run(tool, &args).await {
                Ok(_) => return Ok(()),
                Err(error) if may_pass(&error) && backoff.wait("LVM failed", &error).await => {}
                Err(error) => {
                    self.group().await?;
                    let doing = format!("Changing the volume {target} failed");
                    return Err(VolumeError::command(doing, error));
                }
            }
        }
    }

    /// Makes our tags `wanted` in one commit of LVM's metadata, and looks whether they are.
    async fn set_tags(&self, on: &Found, wanted: &[String]) -> Result<Found, VolumeError> {
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
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, VolumeError> {
        let limit = self.settings.command_timeout;
        match tokio::time::timeout(limit, tokio::task::spawn_blocking(work)).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => {
                let message = "The look at a volume's device was cut off";
                Err(VolumeError::new(VolumeErrorKind::Internal, message).caused_by(error))
            }
            Err(_) => {
                let message = format!("A volume's device did not answer within {limit:?}");
                Err(VolumeError::new(VolumeErrorKind::Timeout, message))
            }
        }
    }

    /// One `lvcreate`.
    async fn create_once(
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

#[async_trait]
impl Volumes for Lvm {
    fn backend(&self) -> &'static str {
        "lvm"
    }

    async fn probe(&self) -> Result<Capacity, VolumeError> {
        let group = self.group().await?;
        Ok(Capacity {
            total_bytes: group.vg_size,
            free_bytes: group.vg_free,
            unit_bytes: group.vg_extent_size,
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
        let mut backoff = self.backoff();
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
                Err(error) if may_pass(&error) && backoff.wait("lvcreate failed", &error).await => {
                }
                Err(error) => {
                    let doing = format!("Creating the volume {}/{name} failed", group.vg_name);
                    return Err(VolumeError::command(doing, error));
                }
            }
        }
    }

    async fn mark_populating(&self, volume: &Volume, job: JobId) -> Result<Volume, VolumeError> {
        // Held while the tags change, so that nobody else starts using it in between.
        let (now, claim) = self.claim(volume, Purpose::Check).await?;
        let created = match now.volume.state {
            VolumeState::Populating { job: by, created } => by == job && created,
            VolumeState::Ready { .. } => false,
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
        match now.volume.state {
            state if state == done => Ok(()),
            VolumeState::Populating { job: by, .. } if by == job => {
                self.set_tags(&now, &tags::ready(job, digest)).await?;
                Ok(())
            }
            _ => Err(not_populating(&now.volume)),
        }
    }

    async fn open(&self, volume: &Volume) -> Result<OpenVolume, VolumeError> {
        let (now, file) = self.claim(volume, Purpose::Write).await?;
        let is_populating = matches!(now.volume.state, VolumeState::Populating { .. });
        if !is_populating || now.volume.state != volume.state {
            return Err(not_populating(&now.volume));
        }
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
        let mut backoff = self.backoff();
        loop {
            let Some(now) = self.find(name).await? else {
                return Ok(if tried {
                    Removed::Removed
                } else {
                    Removed::Absent
                });
            };
            if now.volume.state != (VolumeState::Populating { job, created: true }) {
                return Ok(Removed::Kept);
            }
            let selection = format!(
                "lv_uuid=\"{}\" && lv_tags={{\"lvp.state=populating\" && \"lvp.created={job}\"}}",
                now.row.lv_uuid
            );
            let args = ["--yes", "-S", &selection, &target];
            tried = true;
            match self.run("lvremove", &args).await {
                // The next look tells whether the selection still matched.
                Ok(_) if !removed => removed = true,
                Ok(_) => return Err(VolumeError::new(VolumeErrorKind::Io, failed)),
                Err(error) if may_pass(&error) && backoff.wait("lvremove failed", &error).await => {
                }
                Err(error) if now.row.lv_device_open == "open" => {
                    return Err(in_use(&now.volume.path, "another process").caused_by(error));
                }
                Err(error) => return Err(VolumeError::command(failed, error)),
            }
        }
    }
}

/// The pauses of one call.
struct Backoff<'a> {
    settings: &'a Settings,
    done: u32,
}

impl Backoff<'_> {
    /// Waits before the next attempt; false when there is none left.
    fn wait(
        &mut self,
        what: &'static str,
        why: &dyn std::fmt::Display,
    ) -> impl Future<Output = bool> {
        let left = self.done < self.settings.retry_attempts;
        let index = usize::try_from(self.done).unwrap_or(usize::MAX);
        let pauses = &self.settings.retry_backoff;
        let pause = pauses.get(index).or(pauses.last()).copied();
        if left {
            let attempt = self.done + 1;
            tracing::warn!(%why, attempt, ?pause, "{what}; trying again");
        }
        self.done = self.done.saturating_add(1);
        async move {
            if left && let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            left
        }
    }
}

/// Whether a failure of LVM may be one of the moment. A time-out is none: it has waited already.
fn may_pass(error: &CmdError) -> bool {
    matches!(
        error.kind(),
        CmdErrorKind::Failed(COMMAND_FAILED) | CmdErrorKind::Signalled(_)
    )
}

fn report_args<'a>(fields: &'a str, selection: &'a str) -> Vec<&'a str> {
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

fn found(name: &VolumeName, row: LvRow) -> Found {
    let tags = Tags::parse(&row.lv_tags);
    let volume = Volume {
        name: name.clone(),
        path: PathBuf::from(row.lv_path_or_dm()),
        size_bytes: row.lv_size,
        state: tags.state,
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

fn in_use(path: &Path, user: &str) -> VolumeError {
    let message = format!(
        "{} is in use by {user}: stop it before the volume is written or removed",
        path.display()
    );
    VolumeError::new(VolumeErrorKind::InUse, message)
}

fn not_populating(volume: &Volume) -> VolumeError {
    let message = format!(
        "{} is not marked as being populated by this job ({:?})",
        volume.path.display(),
        volume.state
    );
    VolumeError::new(VolumeErrorKind::Internal, message)
}
