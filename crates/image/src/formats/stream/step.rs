//! What the codecs share.

use crate::error::{Error, ErrorKind};

/// The result of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) consumed: usize,
    pub(crate) produced: usize,
}

/// The increase of a counter by one call, which is at most the size of the call's buffers.
pub(super) fn length(difference: u64) -> usize {
    usize::try_from(difference).unwrap_or(usize::MAX)
}

/// The error for a damaged stream; `what` completes the sentence.
pub(super) fn damaged(what: &str) -> Error {
    Error::new(
        ErrorKind::BadStream,
        format!("The compressed image {what}; fetch the image again"),
    )
}
