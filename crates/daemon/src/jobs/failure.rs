//! What failures of the parts that jobs work with are to the job.

use lvp_api::ErrorCode;

use crate::cache::CacheError;
use crate::error::chain;
use crate::job::error::JobError;
use crate::store::StoreError;
use crate::transfer::TransferError;

/// What a full disk under the database means for the one who asks.
const DATABASE_FULL: &str =
    "The database's file system is full: free space there and send the request again";

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        let (code, context) = if error.is_full() {
            (ErrorCode::InsufficientStorage, DATABASE_FULL)
        } else {
            (ErrorCode::Unavailable, "The database does not answer")
        };
        let may_heal = error.may_heal();
        Self::wrapping(code, "storage", context, error).that_may_heal(may_heal)
    }
}

impl From<CacheError> for JobError {
    fn from(error: CacheError) -> Self {
        let (code, error_type) = match &error {
            CacheError::InUse(_) => (ErrorCode::Conflict, "cache"),
            error if error.is_full() => (ErrorCode::InsufficientStorage, "cache_full"),
            _ => (ErrorCode::Unavailable, "cache"),
        };
        let may_heal = error.may_heal();
        Self::wrapping(code, error_type, "The image cannot be cached", error)
            .that_may_heal(may_heal)
    }
}

impl From<TransferError> for JobError {
    fn from(error: TransferError) -> Self {
        let (code, error_type) = match error {
            TransferError::Stopped(reason) => return Self::stopped(reason),
            TransferError::Source(error) => return error.into(),
            TransferError::Image(error) => return error.into(),
            TransferError::Cache(error) => return error.into(),
            TransferError::Store(error) => return error.into(),
            TransferError::CacheFile { .. } if error.is_cache_full() => {
                (ErrorCode::InsufficientStorage, "cache_full")
            }
            TransferError::CacheFile { .. } => (ErrorCode::Unavailable, "cache"),
            TransferError::Incomplete { .. } => (ErrorCode::Unavailable, "incomplete"),
            TransferError::Memory(_) | TransferError::Crashed => (ErrorCode::Internal, "internal"),
        };
        Self::new(code, error_type, chain(&error))
    }
}
