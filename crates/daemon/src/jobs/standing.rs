//! Whether a job that was resumed from the database may still write its volume.
//!
//! A database may be older than the volumes: restored from a backup, or left behind because it could
//! not be written when the job ended. Its unfinished jobs may have ended long ago, and their volumes
//! may be guests' disks by now. So for these jobs the volume's own record decides, not timestamps:
//!
//! | the volume says | the job |
//! |---|---|
//! | nothing: there is none | makes it |
//! | populating, by any job | continues: the volume holds nobody's data |
//! | ready by this job | has completed: that is recorded, and nothing is written |
//! | ready, and the last job that ended on it is this job's predecessor in the database | continues |
//! | ready, and any other job made it or ended on it last | is refused |
//! | nothing, or nothing that this program wrote | is refused |
//!
//! Jobs on one volume follow each other: each is accepted after the one before it has ended (a unique index). A
//! job that ends records this on the volume before the database does: by `ready` or, if it leaves a ready
//! volume as it is, as the last job that ended. If the volume's last record is of the job's predecessor, this
//! job has not ended since, wherever the database comes from. Otherwise the database is not the newest, or too
//! many jobs were forgotten, and in doubt nothing is written.
//!
//! Invariant: a volume that is marked ready is written only by a job that was accepted after it was marked.
//! Jobs that this process has accepted are not checked: the database cannot have been replaced since.

use lvp_api::{JobId, Sha256Digest};

use crate::job::error::JobError;
use crate::job::kind::JobErrorKind;
use crate::volume::{Volume, VolumeState};

/// What a job that was resumed from the database may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may run.
    GoOn,
    /// It has finished its volume, which holds this image.
    Finished(Sha256Digest),
    /// Another job has used its volume since, or may have.
    Overtaken,
}

/// Decides by the volume, if there is one, and by the job that held it before `job`, if the
/// database knows one.
pub(super) fn of(volume: Option<&Volume>, job: JobId, predecessor: Option<JobId>) -> Standing {
    let Some(volume) = volume else {
        return Standing::GoOn;
    };
    match volume.state {
        VolumeState::Populating { .. } => Standing::GoOn,
        VolumeState::Ready {
            job: Some(by),
            digest,
        } if by == job => Standing::Finished(digest),
        VolumeState::Ready { job: by, .. } => {
            let last = volume.last_ended.or(by);
            if last.is_some() && last == predecessor {
                Standing::GoOn
            } else {
                Standing::Overtaken
            }
        }
        VolumeState::Untagged | VolumeState::Adopted => Standing::Overtaken,
    }
}

/// The error of a job that was overtaken.
pub(super) fn overtaken(volume: &Volume) -> JobError {
    let says = match volume.state {
        VolumeState::Ready { job: Some(by), .. } => match volume.last_ended {
            Some(ended) => format!("was finished by job {by}, and job {ended} ended on it later"),
            None => format!("was finished by job {by}"),
        },
        VolumeState::Ready { job: None, .. } => "was finished by an unknown job".to_owned(),
        _ => "has no record of any job".to_owned(),
    };
    JobError::new(
        JobErrorKind::VolumeRefused,
        format!(
            "The job was resumed from the database after a restart, and volume {} {says}: it may \
             hold a guest's data by now, so nothing was written; send the request again if it is \
             to be rewritten",
            volume.path.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(state: VolumeState, last_ended: Option<JobId>) -> Volume {
        let name = "vm".parse().unwrap();
        let mut volume = Volume::new(name, "/dev/vg0/vm".into(), 1 << 20, state);
        volume.last_ended = last_ended;
        volume
    }

    fn ready(job: Option<JobId>) -> VolumeState {
        let digest = Sha256Digest::new([7; 32]);
        VolumeState::Ready { job, digest }
    }

    #[test]
    fn a_volume_without_anybody_s_data_is_written() {
        let (job, other) = (JobId::random(), JobId::random());
        assert_eq!(of(None, job, Some(other)), Standing::GoOn);
        for by in [job, other] {
            for created in [true, false] {
                let found = volume(VolumeState::Populating { job: by, created }, None);
                assert_eq!(of(Some(&found), job, None), Standing::GoOn);
            }
        }
    }

    #[test]
    fn what_the_job_itself_has_finished_is_only_recorded() {
        let (job, other) = (JobId::random(), JobId::random());
        for last_ended in [None, Some(other)] {
            for predecessor in [None, Some(other)] {
                let found = volume(ready(Some(job)), last_ended);
                assert_eq!(
                    of(Some(&found), job, predecessor),
                    Standing::Finished(Sha256Digest::new([7; 32]))
                );
            }
        }
    }

    #[test]
    fn a_ready_volume_is_rewritten_only_by_the_job_that_follows_its_last() {
        let (job, before, other) = (JobId::random(), JobId::random(), JobId::random());
        for (by, last_ended, predecessor, expected) in [
            (Some(before), None, Some(before), Standing::GoOn),
            (Some(other), Some(before), Some(before), Standing::GoOn),
            // Accepted later than anything that the database knows, or never heard of.
            (Some(other), None, Some(before), Standing::Overtaken),
            (Some(before), None, None, Standing::Overtaken),
            // Another job has ended since: perhaps this very one.
            (Some(before), Some(other), Some(before), Standing::Overtaken),
            (Some(before), Some(job), Some(before), Standing::Overtaken),
            (None, None, None, Standing::Overtaken),
            (None, None, Some(before), Standing::Overtaken),
        ] {
            let found = volume(ready(by), last_ended);
            assert_eq!(
                of(Some(&found), job, predecessor),
                expected,
                "{by:?} {last_ended:?} {predecessor:?}"
            );
        }
    }

    #[test]
    fn a_volume_whose_record_is_gone_may_be_anybody_s() {
        for state in [VolumeState::Untagged, VolumeState::Adopted] {
            let found = volume(state, None);
            let job = JobId::random();
            assert_eq!(of(Some(&found), job, None), Standing::Overtaken);
            let error = overtaken(&found).failure();
            assert_eq!(error.code, 409);
            assert!(error.message.contains("/dev/vg0/vm"), "{}", error.message);
        }
    }
}
