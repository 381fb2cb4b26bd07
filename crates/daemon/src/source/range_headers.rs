//! `Range` and `Content-Range` (RFC 9110, sections 14.2 and 14.4).

use std::ops::Range;

use http::{HeaderMap, HeaderValue, header};

use super::http::header_text;

/// A `Content-Range` of the form `bytes FIRST-LAST/TOTAL`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) first: u64,
    pub(super) last: u64,
    /// `None` for `*`.
    pub(super) total: Option<u64>,
}

impl ContentRange {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        let total = match total {
            "*" => None,
            total => Some(total.parse().ok()?),
        };
        (first <= last && total.is_none_or(|total| last < total)).then_some(Self {
            first,
            last,
            total,
        })
    }
}

/// The object's size according to a range answer, for a range that starts at 0.
pub(super) fn total_size(headers: &HeaderMap) -> Option<u64> {
    let text = header_text(headers, header::CONTENT_RANGE)?;
    let (_, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    total.parse().ok()
}

/// The `Range` header for a range that is not empty.
pub(super) fn byte_range(range: &Range<u64>) -> HeaderValue {
    HeaderValue::try_from(format!("bytes={}-{}", range.start, range.end - 1))
        .expect("digits and ASCII punctuation are a header's value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        let range = |first, last, total| Some(ContentRange { first, last, total });
        for (text, expected) in [
            ("bytes 0-9/10", range(0, 9, Some(10))),
            ("bytes 5-5/*", range(5, 5, None)),
            ("bytes 0-10/10", None),
            ("bytes 9-0/10", None),
            ("bytes */10", None),
            ("bytes 0-9", None),
            ("bytes 0-/10", None),
            ("octets 0-9/10", None),
            ("bytes 0-99999999999999999999/*", None),
        ] {
            assert_eq!(ContentRange::parse(text), expected, "{text}");
        }
    }
}
