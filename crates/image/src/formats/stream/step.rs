//! What the codecs have in common.

use crate::error::{Error, ErrorKind};

/// What one call has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) consumed: usize,
    pub(super) produced: usize,
}

/// What a counter of one call's bytes has grown by: no more than the call's buffers have.
pub(super) fn length(difference: u64) -> usize {
    usize::try_from(difference).unwrap_or(usize::MAX)
}

/// The refusal of a stream that says of itself `what`.
pub(super) fn damaged(what: &str) -> Error {
    Error::new(
        ErrorKind::BadStream,
        format!("The compressed image {what}; fetch the image again"),
    )
}
