//! The commands that clones are made of, and removed by: each with its repeats, and what its failure means.

use lvp_api::{JobId, VolumeName};

use super::super::clones::Golden;
use super::super::{Identity, Made, Removed, Volume, VolumeError, VolumeErrorKind};
use super::commands::may_pass;
use super::find::Found;
use super::{Lvm, rules, tags};

impl Lvm {
    /// One `lvcreate` of a snapshot.
    pub(super) async fn snapshot(
        &self,
        golden: &Golden,
        name: &VolumeName,
        tags: &[String],
    ) -> Result<(), VolumeError> {
        let origin = format!("{}/{}", self.group_name(), golden.volume.name);
        let mut args = vec![
            "--yes",
            "--snapshot",
            "--setactivationskip",
            "n",
            "--activate",
            "n",
            "--permission",
            "rw",
            "--name",
            name.as_str(),
        ];
        args.extend(tags.iter().flat_map(|tag| ["--addtag", tag.as_str()]));
        args.push(&origin);
        let mut pauses = self.pauses();
        loop {
            match self.run("lvcreate", &args).await {
                Ok(_) => return Ok(()),
                Err(error) if may_pass(&error) => {
                    // Perhaps it has made it nevertheless.
                    if let Some(there) = self.find(name).await? {
                        let says = |tag: &String| there.row.lv_tags.contains(tag);
                        return match tags.iter().all(says) {
                            true => Ok(()),
                            // Extended next, if it were taken for the clone.
                            false => Err(VolumeError::new(
                                VolumeErrorKind::AlreadyExists,
                                format!("The volume {} exists already", there.row.lv_path_or_dm()),
                            )),
                        };
                    }
                    if !pauses.wait("lvcreate failed", &error).await {
                        return Err(failed_clone(&origin, error));
                    }
                }
                Err(error) => return Err(failed_clone(&origin, error)),
            }
        }
    }

    /// One `lvextend`.
    pub(super) async fn extend(
        &self,
        name: &VolumeName,
        size_bytes: u64,
    ) -> Result<(), VolumeError> {
        let size = format!("{size_bytes}b");
        let target = format!("{}/{name}", self.group_name());
        let mut pauses = self.pauses();
        loop {
            let Err(error) = self.run("lvextend", &["--size", &size, &target]).await else {
                return Ok(());
            };
            // It takes no selection, and fails for a volume that has the size.
            let now = self.just_made(name).await?;
            if now.row.lv_size >= size_bytes {
                return Ok(());
            }
            if !may_pass(&error) || !pauses.wait("lvextend failed", &error).await {
                let doing = format!("Extending the clone {target} failed");
                return Err(VolumeError::command(doing, error));
            }
        }
    }

    /// Activates a volume that was just made, and looks at it.
    pub(super) async fn activated(&self, name: &VolumeName) -> Result<Found, VolumeError> {
        let target = format!("{}/{name}", self.group_name());
        if let Err(error) = self.run("lvchange", &["-a", "y", &target]).await {
            // Perhaps it was for the moment.
            tracing::debug!(%error, "the clone {target} cannot be activated at once");
        }
        self.just_made(name).await
    }

    /// Changes the tags of a volume that this job has made, if it says so still, from `populating` to `ready`. Tried
    /// once: the caller looks whether it was done.
    pub(super) async fn say_ready(&self, volume: &Volume, job: JobId, made: &Made) {
        let Identity::Lvm { uuid } = &volume.identity else {
            return;
        };
        let before = tags::populating(job, true);
        let (add, delete) = tags::difference(&before, &tags::ready(job, made));
        let says: Vec<_> = before.iter().map(|tag| format!("\"{tag}\"")).collect();
        let selection = format!("lv_uuid=\"{uuid}\" && lv_tags={{{}}}", says.join(" && "));
        let target = format!("{}/{}", self.group_name(), volume.name);
        let mut args = vec!["-S", &selection];
        args.extend(add.iter().flat_map(|tag| ["--addtag", tag.as_str()]));
        args.extend(delete.iter().flat_map(|tag| ["--deltag", tag.as_str()]));
        args.push(&target);
        if let Err(error) = self.run("lvchange", &args).await {
            tracing::debug!(%error, "{target} cannot be said to be ready at once");
        }
    }

    /// Removes the volume with this UUID, if it is there and matches `condition` as well.
    pub(super) async fn remove_exactly(
        &self,
        volume: &Volume,
        condition: &str,
    ) -> Result<Removed, VolumeError> {
        let mut pauses = self.pauses();
        let mut tried = false;
        loop {
            let now = match self.find_again(volume).await {
                Ok(now) => now,
                Err(error) if error.kind() == VolumeErrorKind::NotFound => {
                    return Ok(match tried {
                        true => Removed::Removed,
                        false => Removed::Absent,
                    });
                }
                Err(error) => return Err(error),
            };
            if tried {
                return Ok(Removed::Kept);
            }
            if let Some(refusal) = rules::foreign(&now.row, &now.tags) {
                return Err(refusal);
            }
            self.check_no_domain_uses(&now.row).await?;
            let selection = format!("lv_uuid=\"{}\"{condition}", now.row.lv_uuid);
            let target = format!("{}/{}", self.group_name(), now.row.lv_name);
            match self
                .run("lvremove", &["--yes", "-S", &selection, &target])
                .await
            {
                Ok(_) => tried = true,
                Err(error) if may_pass(&error) && pauses.wait("lvremove failed", &error).await => {}
                Err(error) if now.row.lv_device_open == "open" => {
                    let user = "another process";
                    return Err(VolumeError::in_use(&now.volume.path, user).caused_by(error));
                }
                Err(error) => {
                    let doing = format!("Removing the volume {target} failed");
                    return Err(VolumeError::command(doing, error));
                }
            }
        }
    }
}

fn failed_clone(origin: &str, error: crate::cmd::CmdError) -> VolumeError {
    VolumeError::command(format!("Cloning the golden volume {origin} failed"), error)
}
