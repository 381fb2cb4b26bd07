//! Which answer an error of the parts below is.

use lvp_api::ErrorCode;

use crate::cache::CacheError;
use crate::error::chain;
use crate::job::admission::Refusal;
use crate::jobs::SubmitError;
pub use crate::net::ApiError;
use crate::source::{SourceError, SourceErrorKind};
use crate::store::StoreError;
use crate::volume::{VolumeError, VolumeErrorKind};

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = format!(
            "{}: see the daemon's log, and try again when it is mended",
            chain(&error)
        );
        Self::new(code_of(&error), message)
    }
}

fn code_of(error: &StoreError) -> ErrorCode {
    if error.is_full() {
        ErrorCode::InsufficientStorage
    } else {
        ErrorCode::Unavailable
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let code = match &error {
            SubmitError::Refused(Refusal::QueueFull(_)) => ErrorCode::TooManyRequests,
            SubmitError::Refused(_) => ErrorCode::Conflict,
            SubmitError::Stopping => ErrorCode::Unavailable,
            SubmitError::Store(error) => code_of(error),
            SubmitError::Internal => ErrorCode::Internal,
        };
        Self::new(code, chain(&error))
    }
}

impl From<SourceError> for ApiError {
    fn from(error: SourceError) -> Self {
        let code = match error.kind() {
            SourceErrorKind::BadUrl | SourceErrorKind::HostNotAllowed => ErrorCode::BadRequest,
            _ => ErrorCode::Unavailable,
        };
        Self::new(code, chain(&error))
    }
}

impl From<CacheError> for ApiError {
    fn from(error: CacheError) -> Self {
        let code = match &error {
            CacheError::InUse(_) => ErrorCode::Conflict,
            error if error.is_full() => ErrorCode::InsufficientStorage,
            _ => ErrorCode::Unavailable,
        };
        Self::new(code, chain(&error))
    }
}

impl From<VolumeError> for ApiError {
    fn from(error: VolumeError) -> Self {
        let code = match error.kind() {
            VolumeErrorKind::Absent => ErrorCode::NotFound,
            _ if error.is_refusal() => ErrorCode::Conflict,
            _ => ErrorCode::Unavailable,
        };
        Self::new(code, chain(&error))
    }
}
