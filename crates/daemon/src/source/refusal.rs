//! What an answer means that is not the expected success.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use reqwest::Response;

use super::error::{SourceError, SourceErrorKind};
use super::http::Location;
use super::retry::{Failure, Retry};
use crate::web;

/// How much of an error answer is read; S3's error documents are below 1 KiB.
const MAX_ERROR_BODY_BYTES: usize = 16 << 10;
/// An answer that is not the expected success.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// S3's error code.
    pub(super) code: Option<String>,
    retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) async fn read(response: Response) -> Self {
        Self {
            status: response.status(),
            retry_after: web::retry_after(response.headers(), SystemTime::now()),
            code: error_code(response).await,
        }
    }

    pub(super) fn into_failure(self, location: &Location) -> Failure {
        let (kind, advice) = meaning(self.status, self.code.as_deref(), location.signed);
        let code = self
            .code
            .map_or_else(String::new, |code| format!(" ({code})"));
        let error = SourceError::new(
            kind,
            format!(
                "The server answered {}{code} for {location}; {advice}",
                self.status
            ),
        )
        .with_status(self.status.as_u16());
        let retry = match (kind, self.retry_after) {
            (SourceErrorKind::Unavailable, Some(wait)) => Retry::After(wait),
            (SourceErrorKind::Unavailable, None) => Retry::Backoff,
            _ => Retry::Never,
        };
        Failure { error, retry }
    }
}

/// What an answer means that is not the expected success.
pub(super) async fn refusal(location: &Location, response: Response) -> Failure {
    Refusal::read(response).await.into_failure(location)
}

/// The kind of an answer by its status and S3's error code, and what to do about it.
fn meaning(
    status: StatusCode,
    code: Option<&str>,
    signed: bool,
) -> (SourceErrorKind, &'static str) {
    use SourceErrorKind::{AccessDenied, NotFound, ObjectChanged, Protocol, Unavailable};
    if status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        )
    {
        return (Unavailable, "try again when it has recovered");
    }
    match (code, status) {
        // s3s says NotSignedUp for an unknown key.
        (Some("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "NotSignedUp"), _) => {
            (AccessDenied, "check minio.access_key and minio.secret_key")
        }
        (Some("RequestTimeTooSkewed" | "RequestExpired"), _) => {
            (AccessDenied, "check this host's clock")
        }
        (Some("AuthorizationHeaderMalformed"), _) => (AccessDenied, "check minio.region"),
        (Some("InvalidToken" | "ExpiredToken"), _) => (AccessDenied, "renew the credentials"),
        (Some("NoSuchBucket"), _) => (NotFound, "the bucket does not exist"),
        (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) if signed => (
            AccessDenied,
            "allow the access key to get the object, and to list the bucket so that \
             missing objects can be told from forbidden ones",
        ),
        // rclone's words for a request without a signature.
        (Some("UnsupportedAlgorithm"), _) => {
            (AccessDenied, "set minio.access_key and minio.secret_key")
        }
        (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => (
            AccessDenied,
            "it does not serve the object without credentials",
        ),
        (_, StatusCode::NOT_FOUND | StatusCode::GONE) => {
            (NotFound, "check the image URL's spelling")
        }
        (_, StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE) => {
            (ObjectChanged, "the object was replaced while it was read")
        }
        (_, status) if status.is_redirection() => {
            (Protocol, "it redirects in the middle of an object")
        }
        _ => (Protocol, "the server does not take part in this protocol"),
    }
}

/// The `<Code>` of S3's error document, if the answer has one that is safe to show.
async fn error_code(mut response: Response) -> Option<String> {
    let mut body = Vec::new();
    while body.len() < MAX_ERROR_BODY_BYTES {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&body);
    let code = text.split_once("<Code>")?.1.split_once("</Code>")?.0;
    (code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        .then(|| code.to_owned())
}
