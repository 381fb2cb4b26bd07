//! URLs as logs and errors may show them.

use url::Url;

use super::query;

/// How much of a refused URL an error shows.
const SHOWN_CHARS: usize = 200;

/// A URL without its query, and that. What an `s3://` URL has is its key and version, whatever stands there, unless somebody
/// took it for one that is signed.
pub(super) fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('?') {
        Some((base, query)) if !is_literal(base) || query::is_signed(query) => (base, Some(query)),
        _ => (text, None),
    }
}

fn is_literal(text: &str) -> bool {
    (text.split_once("://")).is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("s3"))
}

/// A URL's text as logs and errors may show it: no query, no credentials, one line, bounded.
pub fn redact(text: &str) -> String {
    let (text, _) = split(text);
    let text = match is_literal(text) {
        true => text,
        false => text.split('#').next().unwrap_or_default(),
    };
    let shown = match text.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = match rest.find('/') {
                Some(at) => rest.split_at(at),
                None => (rest, ""),
            };
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => text.rsplit('@').next().unwrap_or_default().to_owned(),
    };
    shown
        .chars()
        .take(SHOWN_CHARS)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A request URL as logs and errors may show it.
pub(crate) fn without_query(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.into()
}
