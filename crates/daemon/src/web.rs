//! What all of this program's own HTTP requests have in common.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};

/// Time limit for a TCP and TLS connection to be established.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The common beginning of every HTTP client:
///
/// - Clients talk only to the hosts that the configuration names. Redirects are not followed automatically,
///   because they would carry credentials elsewhere, and no proxy is taken from the environment: `HTTPS_PROXY` is
///   set for a user's shell or for all units of a host, and nobody would expect it to decide who sees signed
///   requests and log lines. Nor should a nearby object store be reached through a proxy.
/// - They repeat nothing by themselves: what is repeated, and when, is decided where it is known what a
///   failure means ([`backoff`](crate::backoff)).
pub fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .retry(reqwest::retry::never())
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!(
            "libvirt-volume-provisioner/",
            env!("CARGO_PKG_VERSION")
        ))
}

/// How long the other end asks to be left alone: `Retry-After` in both of its forms, seconds or a date.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    // A time in the past means no wait.
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        let now = SystemTime::from(datetime!(2015-10-21 07:27:30 UTC));
        for (text, expected) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(30)),
            ("Wednesday, 21-Oct-15 07:28:00 GMT", Some(30)),
            ("Wed Oct 21 07:28:00 2015", Some(30)),
            ("Wed, 21 Oct 2015 07:00:00 GMT", Some(0)),
            ("soon", None),
            ("-5", None),
        ] {
            let value = text.parse().expect("it is a header value");
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, value)]);
            let expected = expected.map(Duration::from_secs);
            assert_eq!(retry_after(&headers, now), expected, "{text}");
        }
    }
}
