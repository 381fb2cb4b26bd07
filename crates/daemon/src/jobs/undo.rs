//! The end of a job that did not complete: what it did to its volume is undone, and the volume is marked with
//! what it is.
//!
//! | the volume | is left |
//! |---|---|
//! | made by the job | removed |
//! | found by the job, nothing written to it | with its former mark |
//! | found by the job and written | `populating`, with a cleared first MiB: it does not boot |
//! | ready, not by this job | as it is, with a mark that this job ended on it ([`standing`]) |
//! | ready by this job | as it is: the job *has* completed, whatever error or stop ended it |
//!
//! [`standing`]: super::standing

use std::time::Duration;

use lvp_api::{JobId, Sha256Digest};
use tracing::{Instrument as _, Span};

use super::live::Live;
use super::standing::{self, Standing};
use super::{Jobs, spans};
use crate::error::chain;
use crate::job::error::JobError;
use crate::telemetry::traces;
use crate::threads::blocking;
use crate::volume::{Made, OpenVolume, Removed, Volume, VolumeError, VolumeState};

/// How long a job that has not touched its volume waits until its end is marked on it. A back end that hangs
/// must not delay a cancellation.
const MARK_TIMEOUT: Duration = Duration::from_secs(5);

/// What is cleared of a volume that is left not ready: more than any boot sector and partition table.
const HEAD_BYTES: usize = 1 << 20; // 1 MiB

/// What a job leaves behind.
enum Left {
    /// Nothing that has to be reported.
    Nothing,
    /// A volume that the job found and began to write.
    NotReady,
    /// The same, and its boot sector could not be cleared.
    Bootable(VolumeError),
    /// A finished volume.
    Finished(Volume),
}

impl Jobs {
    /// Whether a job that was resumed from the database had already finished its volume. If so, the job's
    /// record says so, and the volume's mark is durable.
    pub(super) async fn has_finished(&self, live: &Live) -> bool {
        let request = live.spec().work.volume();
        let Some(request) = request.filter(|_| live.is_resumed()) else {
            return false;
        };
        let volumes = &self.services().volumes;
        let finished = async {
            let volume = volumes.lookup(&request.name).await?;
            match (standing::of(volume.as_ref(), live.id, None), volume) {
                (Standing::Finished(digest), Some(volume)) => {
                    let made = made_of(&volume, digest);
                    volumes.mark_ready(&volume, live.id, &made).await?;
                    Ok(Some(volume))
                }
                _ => Ok(None),
            }
        };
        match finished.await {
            Ok(Some(volume)) => {
                record_finished(live, &volume);
                self.remove_replaced(live).await;
                true
            }
            Ok(None) => false,
            Err::<_, VolumeError>(error) => {
                // The job checks the volume again before it writes.
                tracing::warn!(
                    component = "provisioner", job_id = %live.id, error = chain(&error),
                    "It is unknown whether the job had finished its volume before the restart"
                );
                false
            }
        }
    }

    /// Removes what the volume of a finished job has replaced, if a kill came before that was gone.
    async fn remove_replaced(&self, live: &Live) {
        let Ok(clones) = self.services().volumes.clones().await else {
            return;
        };
        if let Err(error) = clones.remove_waiting(live.id).await {
            // The next interval tries again.
            tracing::warn!(
                component = "provisioner", job_id = %live.id, error = chain(&error),
                "The volume that a clone has replaced cannot be removed"
            );
        }
    }

    /// Undoes what a job did to its volume, in this run or in one before a restart. The error is
    /// returned, unless the volume says that the job has completed.
    pub(super) async fn undo(&self, live: &Live, error: JobError) -> Result<(), JobError> {
        let Some(request) = live.spec().work.volume() else {
            return Err(error);
        };
        // A run before a restart may have made the volume, even if this run did not get that far.
        if !live.is_resumed() && !live.has_touched_volume() {
            let marked =
                tokio::time::timeout(MARK_TIMEOUT, self.mark_ready_volume(live, &request.name));
            if marked.await.is_err() {
                tracing::warn!(
                    component = "provisioner", job_id = %live.id, volume = %request.name,
                    "The back end does not answer: the volume is not marked with the end of this \
                     job"
                );
            }
            return Err(error);
        }
        let (name, job) = (&request.name, live.id);
        let span = spans::delete_volume(name);
        match self.roll_back(live, name).instrument(span.clone()).await {
            Ok(Left::Nothing) => {}
            Ok(Left::Finished(volume)) => {
                record_finished(live, &volume);
                return Ok(());
            }
            Ok(Left::NotReady) => live.note(not_ready(name.as_str())),
            Ok(Left::Bootable(error)) => {
                let why = chain(&error);
                tracing::error!(
                    component = "provisioner", job_id = %job, error = why,
                    "A volume that is not ready may still have a boot sector"
                );
                live.note(format!(
                    "{} (its first MiB is not cleared: {why})",
                    not_ready(name.as_str())
                ));
            }
            Err(error) => {
                let why = chain(&error);
                traces::failed(&span, "volume", why.clone());
                tracing::error!(
                    component = "provisioner", job_id = %job, error = %why,
                    "A volume could not be rolled back"
                );
                live.note(format!(
                    "Volume {name} could not be rolled back ({why}); if the job made it, it is \
                     removed within cache.eviction_interval"
                ));
            }
        }
        Err(error)
    }

    async fn roll_back(
        &self,
        live: &Live,
        name: &lvp_api::VolumeName,
    ) -> Result<Left, VolumeError> {
        let volumes = &self.services().volumes;
        if let Ok(clones) = volumes.clones().await {
            // A clone that was to replace the volume has not done so, or is the volume by now.
            clones.remove_waiting(live.id).await?;
        }
        let removed = volumes.remove_created(name, live.id).await?;
        let gone = removed == Removed::Removed;
        traces::attribute(&Span::current(), "volume.removed", Some(gone));
        if removed != Removed::Kept {
            return Ok(Left::Nothing);
        }
        let Some(volume) = volumes.lookup(name).await? else {
            return Ok(Left::Nothing);
        };
        match (volume.state, live.found_unwritten()) {
            (VolumeState::Ready { job, digest }, _) if job == Some(live.id) => {
                let made = made_of(&volume, digest);
                volumes.mark_ready(&volume, live.id, &made).await?;
                Ok(Left::Finished(volume))
            }
            (VolumeState::Populating { job, .. }, Some(before)) if job == live.id => {
                volumes.leave(&before, live.id).await?;
                Ok(Left::Nothing)
            }
            (VolumeState::Populating { job, .. }, None) if job == live.id => {
                let cleared = self.clear_head(&volume).await;
                Ok(cleared.err().map_or(Left::NotReady, Left::Bootable))
            }
            (VolumeState::Ready { .. }, _) => {
                if self.may_mark(live, &volume).await {
                    volumes.leave(&volume, live.id).await?;
                }
                Ok(Left::Nothing)
            }
            _ => Ok(Left::Nothing),
        }
    }

    /// Marks a ready volume with the end of a job that did not get as far as looking at it.
    async fn mark_ready_volume(&self, live: &Live, name: &lvp_api::VolumeName) {
        let volumes = &self.services().volumes;
        let left = async {
            match volumes.lookup(name).await? {
                Some(volume)
                    if is_ready_by_another(&volume, live.id)
                        && self.may_mark(live, &volume).await =>
                {
                    volumes.leave(&volume, live.id).await
                }
                _ => Ok(()),
            }
        };
        if let Err(error) = left.await {
            tracing::warn!(
                component = "provisioner", job_id = %live.id, volume = %name, error = chain(&error),
                "The volume cannot be marked with the end of this job"
            );
        }
    }

    /// Whether the volume may be marked with the end of this job. A job from an older database would hide which
    /// jobs have ended there since.
    async fn may_mark(&self, live: &Live, volume: &Volume) -> bool {
        if !live.is_resumed() {
            return true;
        }
        let predecessor = self.services().store.job_before(live.id).await;
        predecessor.is_ok_and(|predecessor| {
            standing::of(Some(volume), live.id, predecessor) == Standing::GoOn
        })
    }

    /// Clears the first MiB, so that a volume that is not ready does not boot.
    async fn clear_head(&self, volume: &Volume) -> Result<(), VolumeError> {
        let opened = self.services().volumes.open(volume).await?;
        let cleared = blocking(move || clear(&opened)).await;
        cleared.unwrap_or_else(|_| {
            let message = "Clearing a volume's first MiB crashed; see the log";
            Err(VolumeError::internal(message))
        })
    }
}

fn clear(opened: &OpenVolume) -> Result<(), VolumeError> {
    use std::os::unix::fs::FileExt as _;
    let length = usize::try_from(opened.size_bytes).map_or(HEAD_BYTES, |size| size.min(HEAD_BYTES));
    let written = match opened.known_zero {
        true => Ok(()),
        false => opened.file.write_all_at(&vec![0; length], 0),
    };
    written
        .and_then(|()| opened.file.sync_all())
        .map_err(|error| VolumeError::io("Clearing", &opened.path, error))
}

fn is_ready_by_another(volume: &Volume, job: JobId) -> bool {
    matches!(volume.state, VolumeState::Ready { job: by, .. } if by != Some(job))
}

fn record_finished(live: &Live, volume: &Volume) {
    let VolumeState::Ready { digest, .. } = volume.state else {
        return;
    };
    live.update(|job| {
        job.image_digest = Some(digest);
        job.volume_path = Some(volume.path.display().to_string());
    });
    live.note(
        "The volume's mark says that this job has finished it: this was recorded, and \
        nothing was written",
    );
    tracing::info!(
        component = "provisioner", job_id = %live.id, volume = %volume.path.display(),
        "The volume's mark says that the job has finished it; nothing is written"
    );
}

fn not_ready(name: &str) -> String {
    format!("Volume {name} existed before the job and is not ready now: provision it again")
}

/// What a finished volume says already.
fn made_of(volume: &Volume, digest: Sha256Digest) -> Made {
    Made {
        digest,
        expanded: volume.expanded,
        signer: volume.signer.clone(),
    }
}
