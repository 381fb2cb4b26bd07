//! How errors of lower modules are answered: with the status that a job's failure of the same kind has
//! ([`JobErrorKind::code`]).

use lvp_api::ErrorCode;

use crate::cache::CacheError;
use crate::error::chain;
use crate::golden::GoldenError;
use crate::job::admission::Refusal;
use crate::job::kind::JobErrorKind;
use crate::jobs::SubmitError;
pub use crate::net::ApiError;
use crate::source::SourceError;
use crate::store::StoreError;
use crate::volume::VolumeError;

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = format!(
            "{}: see the daemon's log, and try again when the problem is fixed",
            chain(&error)
        );
        Self::new(JobErrorKind::from(&error).code(), message)
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let code = match &error {
            SubmitError::Refused(Refusal::NoRoom(_)) => {
                // There will be room when volumes are removed, so the answer has a Retry-After.
                return Self::busy(ErrorCode::Unavailable, chain(&error));
            }
            SubmitError::Refused(Refusal::QueueFull(_)) => ErrorCode::TooManyRequests,
            SubmitError::Refused(_) => ErrorCode::Conflict,
            SubmitError::Stopping => ErrorCode::Unavailable,
            SubmitError::Store(error) => JobErrorKind::from(error).code(),
            SubmitError::Internal => ErrorCode::Internal,
        };
        Self::new(code, chain(&error))
    }
}

impl From<SourceError> for ApiError {
    fn from(error: SourceError) -> Self {
        Self::new(JobErrorKind::from(&error).code(), chain(&error))
    }
}

impl From<CacheError> for ApiError {
    fn from(error: CacheError) -> Self {
        Self::new(JobErrorKind::from(&error).code(), chain(&error))
    }
}

impl From<GoldenError> for ApiError {
    fn from(error: GoldenError) -> Self {
        let code = match &error {
            GoldenError::Unavailable(_) => JobErrorKind::CloneUnavailable.code(),
            GoldenError::InUse(_) => ErrorCode::Conflict,
            GoldenError::Volume(error) => JobErrorKind::from(error).code(),
            GoldenError::Store(error) => JobErrorKind::from(error).code(),
        };
        Self::new(code, chain(&error))
    }
}

impl From<VolumeError> for ApiError {
    fn from(error: VolumeError) -> Self {
        Self::new(JobErrorKind::from(&error).code(), chain(&error))
    }
}
