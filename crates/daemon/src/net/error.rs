//! Answers that report an error. All have the same form of body.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use lvp_api::{ErrorBody, ErrorCode};

/// When a client that met a full queue should try again, in seconds.
const RETRY_AFTER_SECS: &str = "10";

/// An error that is sent to the client.
#[derive(Debug, Clone)]
pub struct ApiError {
    code: ErrorCode,
    message: String,
    correlation_id: Option<String>,
    /// The `error` word, if it is not the status code's own.
    phrase: Option<&'static str>,
    is_busy: bool,
}

impl ApiError {
    /// An error with what was wrong and what to do.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            correlation_id: None,
            phrase: None,
            is_busy: false,
        }
    }

    /// An error for a caller that is refused for a moment. There may be thousands of these, so they are not logged one
    /// by one.
    pub fn busy(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            is_busy: true,
            ..Self::new(code, message)
        }
    }

    /// An error for an invalid request.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    /// What went wrong, as a stable name.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// What was wrong and what to do.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Sets the answer's `error` to the word that clients of this route know.
    #[must_use]
    pub fn phrased(mut self, phrase: &'static str) -> Self {
        self.phrase = Some(phrase);
        self
    }

    /// Adds the request's correlation id.
    #[must_use]
    pub fn correlated(mut self, id: Option<String>) -> Self {
        self.correlation_id = id;
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() && !self.is_busy {
            tracing::error!(component = "http", error = self.message, "Request failed");
        }
        let mut body =
            ErrorBody::new(self.code, self.message).with_correlation_id(self.correlation_id);
        if let Some(phrase) = self.phrase {
            phrase.clone_into(&mut body.error);
        }
        let mut response = (status, Json(body)).into_response();
        if self.is_busy || self.code == ErrorCode::TooManyRequests {
            let value = HeaderValue::from_static(RETRY_AFTER_SECS);
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        response
    }
}
