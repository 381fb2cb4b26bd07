//! `X-Request-ID`, which identifies a request to the client, to proxies and in the log.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use uuid::Uuid;

/// The header, of requests and answers.
const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is accepted: a UUID has 36 characters, and the ids of proxies have fewer than 100.
const ID_MAX_CHARS: usize = 128;

/// A request's id, stored in its extensions.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

/// Uses the client's id, or makes one, and sends it in the answer.
pub(super) async fn identify(mut request: Request, next: Next) -> Response {
    let id = given(request.headers()).unwrap_or_else(|| Uuid::new_v4().to_string());
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HEADER, value);
    }
    response
}

/// The client's id, if it is valid in a header and in a log line.
fn given(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(HEADER)?.to_str().ok()?.trim();
    let is_good =
        (1..=ID_MAX_CHARS).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    is_good.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_when_it_can_be_written_anywhere() {
        let long = "x".repeat(129);
        for (id, taken) in [
            ("550e8400-e29b-41d4-a716-446655440000", true),
            (" a/b+c= ", true),
            ("", false),
            ("two words", false),
            (long.as_str(), false),
        ] {
            let value = HeaderValue::from_str(id).expect("it is a header");
            let headers = HeaderMap::from_iter([(HEADER, value)]);
            assert_eq!(given(&headers), taken.then(|| id.trim().to_owned()), "{id}");
        }
        assert_eq!(given(&HeaderMap::new()), None);
    }
}
