//! Volumes and jobs that do not agree: after a crash, after the loss of a database, or because somebody changed
//! a volume.
//!
//! | the volume says | the job | what happens |
//! |---|---|---|
//! | populating | has not ended, or another one waits for the volume | left to that job |
//! | populating, created by the job | unknown, failed or cancelled | removed |
//! | populating, older than the job | unknown, failed or cancelled | stays, logged as not ready |
//! | populating | completed | stays, logged: somebody changed it since |
//! | ready or nothing | any | left alone |
//! | (gone) | completed | logged once |
//!
//! Jobs continue meanwhile, so the order of the queries matters: completed jobs, then volumes, then unfinished
//! jobs. This way, no volume of a job that has just started or ended is misjudged; and a removal checks the
//! volume itself once more ([`Volumes::remove_created`]).
//!
//! [`Volumes::remove_created`]: crate::volume::Volumes::remove_created

use std::collections::HashSet;
use std::sync::PoisonError;

use lvp_api::{JobId, JobState};

use super::Jobs;
use crate::error::chain;
use crate::job::error::JobError;
use crate::job::record::Job;
use crate::volume::{Removed, Volume, VolumeState};

/// What was found when volumes and jobs were compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reconciled {
    /// Volumes that ended jobs had made and not finished, and that were removed now.
    pub removed: usize,
    /// Volumes that stay not ready, for an operator or the next request.
    pub not_ready: usize,
    /// Volumes of completed jobs that are gone.
    pub missing: usize,
}

impl Jobs {
    /// Compares volumes with jobs and resolves disagreements; at the start and at every interval.
    pub async fn reconcile_volumes(&self) -> Result<Reconciled, JobError> {
        let services = self.services();
        let completed = services.store.completed_volumes().await?;
        let volumes = services.volumes.list().await?;
        let unfinished = services.store.unfinished_jobs().await?;
        let awaited: HashSet<_> = unfinished
            .iter()
            .filter_map(|job| Some(&job.spec.work.volume()?.name))
            .collect();
        let mut found = Reconciled::default();
        for volume in &volumes {
            let VolumeState::Populating { job, created } = volume.state else {
                continue;
            };
            if awaited.contains(&volume.name) {
                continue;
            }
            match services.store.job(job).await? {
                Some(owner) if !owner.state.is_terminal() => {}
                owner if created && !is_completed(owner.as_ref()) => {
                    match self.remove_left_over(volume, job).await {
                        true => found.removed += 1,
                        false => found.not_ready += 1,
                    }
                }
                owner => {
                    found.not_ready += 1;
                    tracing::warn!(
                        component = "provisioner", volume = %volume.path.display(), job_id = %job,
                        job_state = owner.map(|owner| owner.state.as_str()),
                        "A volume is not ready and no job will finish it: provision it again"
                    );
                }
            }
        }
        let present: HashSet<_> = volumes.iter().map(|volume| &volume.name).collect();
        let missing: HashSet<JobId> = completed
            .iter()
            .filter(|(_, name)| !present.contains(name) && !awaited.contains(name))
            .map(|(job, _)| *job)
            .collect();
        found.missing = missing.len();
        let reported = {
            let mut reported = self
                .0
                .missing
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *reported, missing.clone())
        };
        for (job, name) in completed {
            if missing.contains(&job) && !reported.contains(&job) {
                tracing::info!(
                    component = "provisioner", volume = %name, job_id = %job,
                    "The volume of a completed job is gone: somebody removed it since"
                );
            }
        }
        Ok(found)
    }

    async fn remove_left_over(&self, volume: &Volume, job: JobId) -> bool {
        let path = volume.path.display();
        match self
            .services()
            .volumes
            .remove_created(&volume.name, job)
            .await
        {
            Ok(Removed::Removed | Removed::Absent) => {
                tracing::warn!(
                    component = "provisioner", volume = %path, job_id = %job,
                    "Removed an unfinished volume that an ended job had created"
                );
                true
            }
            // Another job has taken it over since the look.
            Ok(Removed::Kept) => false,
            Err(error) => {
                tracing::error!(
                    component = "provisioner", volume = %path, job_id = %job, error = chain(&error),
                    "An unfinished volume that an ended job had created cannot be removed"
                );
                false
            }
        }
    }
}

fn is_completed(job: Option<&Job>) -> bool {
    job.is_some_and(|job| job.state == JobState::Completed)
}
