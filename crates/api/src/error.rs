//! The body of every answer that is not a success.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong, by a stable name; `error` in [`ErrorBody`] is its phrase.
///
/// Clients may match on the phrase or on the HTTP status; neither changes between releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The request cannot be understood or breaks a rule.
    BadRequest,
    /// No credential, or an unknown one.
    Unauthorized,
    /// The credential is known and may not do this.
    Forbidden,
    /// The requested thing does not exist.
    NotFound,
    /// The path exists and does not support this method.
    MethodNotAllowed,
    /// The state of something conflicts with the request.
    Conflict,
    /// A body without `Content-Length` where one is needed.
    LengthRequired,
    /// The body is larger than allowed.
    PayloadTooLarge,
    /// The body is not JSON by its content type.
    UnsupportedMediaType,
    /// The image is refused or does not fit.
    Unprocessable,
    /// The queue is full.
    TooManyRequests,
    /// A bug in the daemon.
    Internal,
    /// A dependency is down, or the daemon is stopping.
    Unavailable,
    /// There is not enough space for the request.
    InsufficientStorage,
}

impl ErrorCode {
    /// All of them, by status.
    pub const ALL: [Self; 14] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::LengthRequired,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::Unprocessable,
        Self::TooManyRequests,
        Self::Internal,
        Self::Unavailable,
        Self::InsufficientStorage,
    ];

    /// The HTTP status.
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict => 409,
            Self::LengthRequired => 411,
            Self::PayloadTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Unprocessable => 422,
            Self::TooManyRequests => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
            Self::InsufficientStorage => 507,
        }
    }

    /// The short phrase in the body's `error`.
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::BadRequest => "invalid request",
            Self::Unauthorized => "authentication required",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not found",
            Self::MethodNotAllowed => "method not allowed",
            Self::Conflict => "conflict",
            Self::LengthRequired => "length required",
            Self::PayloadTooLarge => "payload too large",
            Self::UnsupportedMediaType => "unsupported media type",
            Self::Unprocessable => "unprocessable image",
            Self::TooManyRequests => "too many requests",
            Self::Internal => "internal error",
            Self::Unavailable => "service unavailable",
            Self::InsufficientStorage => "insufficient storage",
        }
    }
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// A short phrase, the same for all errors with this status on this route.
    pub error: String,
    /// What was wrong and what to do.
    pub message: String,
    /// The HTTP status.
    pub code: u16,
    /// The same as `message`, for clients of the 0.3 API.
    pub details: String,
    /// The request's correlation id, when it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

impl ErrorBody {
    /// The body for one error.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            error: code.phrase().to_owned(),
            details: message.clone(),
            message,
            code: code.status(),
            correlation_id: None,
        }
    }

    /// The same with the request's correlation id.
    #[must_use]
    pub fn with_correlation_id(mut self, id: Option<String>) -> Self {
        self.correlation_id = id;
        self
    }
}

/// An error and its causes in one line. A cause that an error already has at its own end, as libraries often
/// do, is not repeated.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: Option<Box<Link>>,
    }

    fn links(texts: &[&'static str]) -> Link {
        let source = (texts.len() > 1).then(|| Box::new(links(&texts[1..])));
        Link {
            text: texts[0],
            source,
        }
    }

    #[test]
    fn a_chain_has_every_cause_once_and_drops_none() {
        for (texts, expected) in [
            (&["top"][..], "top"),
            (&["top", "middle", "end"], "top: middle: end"),
            (&["top: end", "end"], "top: end"),
            // A cause whose text appears elsewhere in the error is kept.
            (
                &["end of file in a.qcow2", "end"],
                "end of file in a.qcow2: end",
            ),
        ] {
            assert_eq!(chain(&links(texts)), expected);
        }
    }
}
