//! A clone takes a volume's place.
//!
//! It waits beside the golden files until the two files' names are exchanged:
//!
//! ```text
//! NAME old, NAME.json of old -> NAME.next of new -> exchanged -> NAME.json of new, old removed
//! ```
//!
//! A record holds for one file (`identity`), so whichever file has the name has its record in one of the two places.

use std::fs;
use std::path::Path;

use lvp_api::JobId;
use rustix::fs::{CWD, RenameFlags};

use super::super::clones::{waiting_job, waiting_name};
use super::super::{Removed, Volume, VolumeError, VolumeState};
use super::files::{Files, gone, identity_of};
use super::identity::FileIdentity;
use super::inherit::inherit;
use super::place::{remove_if_there, sync_directory};

impl Files {
    pub(super) fn replace(
        &self,
        old: &Volume,
        clone: &Volume,
        job: JobId,
    ) -> Result<Volume, VolumeError> {
        let (name, path, waits_at) = (&old.name, &old.path, &clone.path);
        let current = self.lookup(name)?.ok_or_else(|| gone(path))?;
        if current.identity != clone.identity {
            if current.identity != old.identity {
                return Err(gone(path));
            }
            let held = self.open_unused(old)?;
            let waiting = self.reread(clone)?;
            let is_ready =
                matches!(waiting.state, VolumeState::Ready { job: by, .. } if by == Some(job));
            let record = self.record(&waiting)?.filter(|_| is_ready);
            let record = record.ok_or_else(|| VolumeError::not_populating(&waiting))?;
            inherit(&held, &self.read_only(&waiting)?, path)?;
            self.write_record_as("next", name, &record)?;
            exchange(waits_at, path)?;
            if identity_at(waits_at)? != identity_of(old)? {
                // Somebody has put another file there since the look, and gets it back.
                exchange(waits_at, path)?;
                return Err(gone(path));
            }
            sync_directory(&self.directory)?;
            sync_directory(&self.records(&clone.name))?;
            drop(held);
        }
        let replaced = self.lookup(name)?.ok_or_else(|| gone(path))?;
        let record = self.record(&replaced)?.ok_or_else(|| gone(path))?;
        self.write_record(name, &record)?;
        self.remove_waiting(job)?;
        Ok(replaced)
    }

    pub(super) fn waiting(&self) -> Result<Vec<JobId>, VolumeError> {
        let apart = self.apart()?;
        // What a kill has left may be a record alone, or a file that had no name yet.
        let jobs = apart.iter().filter_map(|name| {
            let stem = name.as_str().split('.').next()?.parse().ok()?;
            waiting_job(&stem)
        });
        let mut jobs: Vec<_> = jobs.collect();
        jobs.dedup();
        Ok(jobs)
    }

    pub(super) fn remove_waiting(&self, job: JobId) -> Result<Removed, VolumeError> {
        let name = waiting_name(job);
        let found = self.lookup(&name)?;
        if let Some(volume) = &found {
            let file = self.open_unused(volume)?;
            remove_if_there(&volume.path)?;
            drop(file);
        }
        for suffix in ["new", "tmp", "json"] {
            remove_if_there(&self.record_path(&name, suffix))?;
        }
        Ok(match found {
            Some(_) => {
                sync_directory(&self.records(&name))?;
                Removed::Removed
            }
            None => Removed::Absent,
        })
    }
}

/// Exchanges two files' names.
fn exchange(first: &Path, second: &Path) -> Result<(), VolumeError> {
    rustix::fs::renameat_with(CWD, first, CWD, second, RenameFlags::EXCHANGE)
        .map_err(|error| VolumeError::io("Replacing", second, error.into()))
}

fn identity_at(path: &Path) -> Result<FileIdentity, VolumeError> {
    let metadata = fs::symlink_metadata(path);
    let metadata = metadata.map_err(|error| VolumeError::io("Examining", path, error))?;
    Ok(FileIdentity::of(&metadata))
}
