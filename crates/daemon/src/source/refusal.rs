//! Classifies answers that are not the expected success.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use reqwest::Response;

use super::error::{SourceError, SourceErrorKind};
use super::http::Location;
use super::retry::{Failure, Retry};
use crate::web;

/// How much of an error answer is read; S3's error documents are below 1 KiB.
const MAX_ERROR_BODY_BYTES: usize = 16 << 10;
/// How much of its message is shown.
const SHOWN_CHARS: usize = 200;

/// An answer that is not the expected success.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// S3's error code.
    pub(super) code: Option<String>,
    /// The message beside the code, or the beginning of another text.
    message: Option<String>,
    retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) async fn read(response: Response) -> Self {
        let status = response.status();
        let retry_after = web::retry_after(response.headers(), SystemTime::now());
        let (code, message) = error_text(response).await;
        Self {
            status,
            code,
            message,
            retry_after,
        }
    }

    pub(super) fn into_failure(self, location: &Location) -> Failure {
        let (kind, advice) = meaning(self.status, self.code.as_deref(), location.signed);
        // For other refusals, status and advice say enough.
        let message = match self
            .message
            .filter(|_| self.status == StatusCode::BAD_REQUEST)
        {
            Some(message) => format!(": {message:?}"),
            None => String::new(),
        };
        let code = self
            .code
            .map_or_else(String::new, |code| format!(" ({code})"));
        let error = SourceError::new(
            kind,
            format!(
                "The server answered {}{code} for {location}{message}; {advice}",
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

/// The failure for an answer that is not the expected success.
pub(super) async fn refusal(location: &Location, response: Response) -> Failure {
    Refusal::read(response).await.into_failure(location)
}

/// The kind of error by an answer's status and S3's error code, and what to do about it.
fn meaning(
    status: StatusCode,
    code: Option<&str>,
    signed: bool,
) -> (SourceErrorKind, &'static str) {
    use SourceErrorKind::{AccessDenied, BadUrl, NotFound, ObjectChanged, Protocol, Unavailable};
    if status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        )
    {
        return (Unavailable, "try again when it has recovered");
    }
    match (code, status) {
        (Some("InvalidAccessKeyId" | "SignatureDoesNotMatch"), _) if !signed => (
            AccessDenied,
            "the signature in the image's URL is not valid: sign the URL again",
        ),
        // s3s says NotSignedUp for an unknown key.
        (Some("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "NotSignedUp"), _) => {
            (AccessDenied, "check minio.access_key and minio.secret_key")
        }
        (Some("RequestTimeTooSkewed" | "RequestExpired"), _) => {
            (AccessDenied, "check this host's clock")
        }
        (Some("AuthorizationHeaderMalformed"), _) => (AccessDenied, "check minio.region"),
        (Some("InvalidToken" | "ExpiredToken"), _) => (AccessDenied, "renew the credentials"),
        (Some("NoSuchVersion"), _) => (NotFound, "the object has no such version"),
        (Some("NoSuchBucket"), _) => (NotFound, "the bucket does not exist"),
        // Of the classes GLACIER and DEEP_ARCHIVE, by AWS and by those that have such classes too.
        (Some("InvalidObjectState"), _) => (
            AccessDenied,
            "the object is archived: restore it, or copy it to a storage class that can be read \
             directly",
        ),
        (Some("InvalidBucketName"), _) => (BadUrl, "check the bucket's name in the image URL"),
        // Not a status of S3.
        (None, StatusCode::UNAUTHORIZED) => (
            AccessDenied,
            "a proxy seems to want credentials: put them in the URL of minio.proxy",
        ),
        (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) if signed => (
            AccessDenied,
            "allow the access key to get the object, and to list the bucket so that \
             missing objects can be told from forbidden ones",
        ),
        (_, StatusCode::PROXY_AUTHENTICATION_REQUIRED) => (
            AccessDenied,
            "the proxy wants credentials: put them in the URL of minio.proxy",
        ),
        // rclone's words for a request without a signature.
        (Some("UnsupportedAlgorithm"), _) => {
            (AccessDenied, "set minio.access_key and minio.secret_key")
        }
        (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => (
            AccessDenied,
            "it does not serve the object without credentials, or the URL's signature has expired",
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
        (None, StatusCode::BAD_REQUEST) => (
            Protocol,
            "if it wants TLS on this port, write https:// in minio.endpoint",
        ),
        (_, StatusCode::BAD_REQUEST) => (Protocol, "the server does not accept the request"),
        _ => (
            Protocol,
            "the server does not seem to speak S3 or plain HTTP as expected; check \
            minio.endpoint",
        ),
    }
}

/// The `<Code>` and `<Message>` of S3's error document, or the beginning of another answer's text.
async fn error_text(mut response: Response) -> (Option<String>, Option<String>) {
    let mut body = Vec::new();
    while body.len() < MAX_ERROR_BODY_BYTES {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    read_error(&String::from_utf8_lossy(&body))
}

fn read_error(text: &str) -> (Option<String>, Option<String>) {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0)
    };
    let code = element("Code")
        .filter(|code| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let message = match code {
        Some(_) => element("Message").unwrap_or_default(),
        None if text.trim_start().starts_with('<') => "",
        None => text,
    };
    let message: String = message
        .trim()
        .chars()
        .take_while(|c| !c.is_control())
        .take(SHOWN_CHARS)
        .collect();
    (
        code.map(str::to_owned),
        (!message.is_empty()).then_some(message),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_answer_the_code_and_a_bounded_text_are_shown() {
        let read = |text: &str| {
            let (code, message) = read_error(text);
            (code.unwrap_or_default(), message.unwrap_or_default())
        };
        let pair = |code: &str, message: &str| (code.to_owned(), message.to_owned());
        let xml = "<?xml version=\"1.0\"?><Error><Code>InvalidBucketName</Code><Message>Too short.</Message></Error>";
        assert_eq!(read(xml), pair("InvalidBucketName", "Too short."));
        let plain = "Client sent an HTTP request to an HTTPS server.\nmore";
        assert_eq!(
            read(plain),
            pair("", "Client sent an HTTP request to an HTTPS server.")
        );
        assert_eq!(read("<html><body>400</body></html>"), pair("", ""));
        assert_eq!(read("<Code>a b</Code><Message>x</Message>"), pair("", ""));
        assert_eq!(read(&"x".repeat(1000)).1.len(), SHOWN_CHARS);
    }
}
