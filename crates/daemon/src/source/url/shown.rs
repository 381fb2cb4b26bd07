//! URLs as logs and errors may show them.

use url::Url;

/// How much of a refused URL an error shows.
const SHOWN_CHARS: usize = 200;

/// A URL's text as logs and errors may show it: no query, no credentials, one line, bounded.
pub fn redact(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
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
