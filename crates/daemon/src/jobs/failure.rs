//! What errors of other modules mean to a job.

use crate::cache::CacheError;
use crate::golden::GoldenError;
use crate::job::error::JobError;
use crate::job::kind::JobErrorKind;
use crate::store::StoreError;
use crate::transfer::TransferError;

/// What a full disk under the database means to the caller.
const DATABASE_FULL: &str =
    "The database's file system is full: free space there and send the request again";

impl From<&StoreError> for JobErrorKind {
    fn from(error: &StoreError) -> Self {
        match error.is_full() {
            true => Self::StorageFull,
            false => Self::Storage,
        }
    }
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        let kind = JobErrorKind::from(&error);
        let context = match kind {
            JobErrorKind::StorageFull => DATABASE_FULL,
            _ => "The database does not answer",
        };
        let is_recoverable = error.is_recoverable();
        Self::new(kind, context)
            .because(error)
            .with_recoverable(is_recoverable)
    }
}

impl From<&CacheError> for JobErrorKind {
    fn from(error: &CacheError) -> Self {
        match error {
            CacheError::InUse(_) => Self::CacheInUse,
            error if error.is_full() => Self::CacheFull,
            _ => Self::Cache,
        }
    }
}

impl From<CacheError> for JobError {
    fn from(error: CacheError) -> Self {
        let kind = JobErrorKind::from(&error);
        let is_recoverable = error.is_recoverable();
        Self::new(kind, "The image cannot be cached")
            .because(error)
            .with_recoverable(is_recoverable)
    }
}

impl From<GoldenError> for JobError {
    fn from(error: GoldenError) -> Self {
        match error {
            GoldenError::Volume(error) => error.into(),
            GoldenError::Store(error) => error.into(),
            GoldenError::Unavailable(_) => {
                Self::new(JobErrorKind::CloneUnavailable, error.to_string())
            }
            GoldenError::InUse(_) => Self::new(JobErrorKind::VolumeRefused, error.to_string()),
        }
    }
}

impl From<TransferError> for JobError {
    fn from(error: TransferError) -> Self {
        let kind = match error {
            TransferError::Stopped(reason) => return Self::stopped(reason),
            TransferError::Source(error) => return error.into(),
            TransferError::Image(error) => return error.into(),
            TransferError::Cache(error) => return error.into(),
            TransferError::Store(error) => return error.into(),
            TransferError::CacheFile { .. } if error.is_cache_full() => JobErrorKind::CacheFull,
            TransferError::CacheFile { .. } => JobErrorKind::Cache,
            TransferError::Incomplete { .. } => JobErrorKind::Incomplete,
            TransferError::Memory(_) | TransferError::Task(_) | TransferError::Crashed => {
                JobErrorKind::Internal
            }
        };
        // Its own text is the context, and appears once in the chain.
        Self::new(kind, error.to_string()).because(error)
    }
}
