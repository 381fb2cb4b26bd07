//! Submitting what a failed or cancelled job was to do as a new job.

use lvp_api::{JobId, JobState, VolumeName};

use super::{Jobs, SubmitError};
use crate::job::record::{JobSpec, NewJob};
use crate::source::SourceError;
use crate::store::StoreError;

/// Why a job is not retried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetryError {
    /// There is no such job.
    #[error("There is no such job")]
    Unknown,
    /// It has not failed.
    #[error("Job {0} is {1}: only a failed or cancelled job can be retried")]
    NotFailed(JobId, JobState),
    /// Its URL is no longer known.
    #[error(
        "Job {0} was for a URL with a query, which may be a signature and is not kept after the \
         job's end: send the whole request again"
    )]
    QueryNotKept(JobId),
    /// A later job has written its volume.
    #[error(
        "Volume {volume} was written by the later job {later}: retrying job {job} would overwrite it; send \
         a new request if that is meant"
    )]
    Overtaken {
        /// The job that was to be retried.
        job: JobId,
        /// Its volume.
        volume: VolumeName,
        /// The job whose image the volume has.
        later: JobId,
    },
    /// The current configuration does not accept its URL.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The new job was not made.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The old job could not be read.
    #[error("The job could not be read")]
    Store(#[from] StoreError),
}

impl Jobs {
    /// Submits what a failed or cancelled job was to do as a new job. A repeat with the same key returns the
    /// same new job.
    pub async fn retry(
        &self,
        id: JobId,
        idempotency_key: Option<String>,
        traceparent: Option<String>,
    ) -> Result<JobId, RetryError> {
        let job = self.get(id).await?.ok_or(RetryError::Unknown)?;
        if !matches!(job.state, JobState::Failed | JobState::Cancelled) {
            return Err(RetryError::NotFailed(id, job.state));
        }
        let later = self.services().store.completed_after(id).await?;
        if let (Some(later), Some(volume)) = (later, job.spec.work.volume()) {
            let volume = volume.name.clone();
            return Err(RetryError::Overtaken {
                job: id,
                volume,
                later,
            });
        }
        let spec = JobSpec {
            // A repeat of the old request still means the old job.
            idempotency_key,
            traceparent,
            ..job.spec
        };
        let location = match spec.work.image() {
            Some(image) => {
                let whole = image.url.whole().ok_or(RetryError::QueryNotKept(id))?;
                Some(self.services().source.parse_url(&whole)?)
            }
            None => None,
        };
        Ok(self.submit(NewJob { spec, location }).await?)
    }
}
