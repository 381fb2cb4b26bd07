//! One version of one object: its identity, and what distinguishes its versions.

use std::sync::Arc;

use ::http::{HeaderMap, HeaderName, header};

use super::error::{Result, SourceError, SourceErrorKind};
use super::http::{Location, header_text};
use super::opening::OpeningSlot;
use super::pace::Pace;
use super::url::ImageUrl;

/// Which version of the object an answer is of.
const VERSION_ID: HeaderName = HeaderName::from_static("x-amz-version-id");

/// One version of one object.
#[derive(Debug, Clone)]
pub struct ObjectMeta {
    /// Length in bytes.
    pub size: u64,
    /// The server's entity tag, quotes included.
    pub etag: Option<String>,
    /// The `Last-Modified` header as the server wrote it.
    pub last_modified: Option<String>,
    /// The URL that was asked for.
    pub url: ImageUrl,
    /// See [`ObjectMeta::identity`].
    pub(super) identity: String,
    /// Where its redirects ended.
    pub(super) location: Location,
    /// What was measured of its server.
    pub(super) pace: Arc<Pace>,
    /// Its first bytes, if they came with the answer.
    pub(super) opening: Arc<OpeningSlot>,
    /// The most requests at once that its server has shown to serve, if it refused some for their number.
    pub(super) most_at_once: Option<usize>,
}

/// Two are equal if they are of the same version, whatever was measured.
impl PartialEq for ObjectMeta {
    fn eq(&self, other: &Self) -> bool {
        self.size == other.size
            && self.etag == other.etag
            && self.last_modified == other.last_modified
            && self.url == other.url
            && self.identity == other.identity
            && self.location == other.location
    }
}

impl Eq for ObjectMeta {}

impl ObjectMeta {
    /// What an answer says of an object.
    pub(super) fn read(
        url: &ImageUrl,
        location: Location,
        size: u64,
        headers: &HeaderMap,
    ) -> Result<Self> {
        check_version(url, headers)?;
        let text = |name| header_text(headers, name).map(str::to_owned);
        Ok(Self {
            size,
            etag: text(header::ETAG),
            last_modified: text(header::LAST_MODIFIED),
            identity: url.identity(),
            url: url.clone(),
            location,
            pace: Arc::default(),
            opening: Arc::default(),
            most_at_once: None,
        })
    }

    /// The same without its first bytes.
    pub(super) fn without_opening(&self) -> Self {
        Self {
            opening: Arc::default(),
            ..self.clone()
        }
    }

    /// Ends the request for its first bytes, which nobody will read.
    pub fn end_opening(&self) {
        self.opening.take();
    }

    /// Identifies the object, whatever its content and the signature of the URL: a digest of endpoint, bucket, key
    /// and a version that was requested, or of a URL with the part of its query that is not a signature. Unlike
    /// the URL as it is shown, it is different for any two objects.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The strong entity tag, which is the same only for the same bytes (RFC 9110, section 8.8.1).
    ///
    /// Without one, parts of two versions cannot be distinguished: such an object is read by one request,
    /// unless its digest is known beforehand.
    pub fn strong_validator(&self) -> Option<&str> {
        let tag = self.etag.as_deref()?;
        let is_weak = tag
            .get(..2)
            .is_some_and(|start| start.eq_ignore_ascii_case("w/"));
        (!is_weak && !tag.trim_matches('"').is_empty()).then_some(tag)
    }

    /// The best identification of the version by the server: its entity tag, or else its date.
    pub fn validator(&self) -> Option<&str> {
        self.etag.as_deref().or(self.last_modified.as_deref())
    }
}

/// A server that knows no versions ignores that one was asked for, and answers with the newest bytes.
fn check_version(url: &ImageUrl, headers: &HeaderMap) -> Result<()> {
    let Some(asked) = url.version() else {
        return Ok(());
    };
    let answered = header_text(headers, VERSION_ID);
    // What was written before a bucket kept versions has this one, of which some say nothing.
    if answered == Some(asked) || (answered.is_none() && asked == "null") {
        return Ok(());
    }
    let answer = match answered {
        Some(_) => "another version",
        None => "no version; the server or the bucket may keep none",
    };
    Err(SourceError::new(
        SourceErrorKind::NotFound,
        format!("{url} was answered with {answer}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::url::UrlPolicy;
    use super::*;
    use crate::config::Addressing;

    fn object(etag: Option<&str>, last_modified: Option<&str>) -> ObjectMeta {
        let policy = UrlPolicy::new(Some("http://127.0.0.1:9"), Addressing::Path, &[]);
        let policy = policy.expect("it is an endpoint");
        let url = policy.parse("s3://b/k").expect("it is a URL");
        ObjectMeta {
            size: 1,
            etag: etag.map(str::to_owned),
            last_modified: last_modified.map(str::to_owned),
            identity: url.identity(),
            location: Location::of(&url),
            pace: Arc::default(),
            opening: Arc::default(),
            most_at_once: None,
            url,
        }
    }

    #[test]
    fn only_a_strong_tag_that_says_something_tells_versions_apart() {
        let date = Some("Sat, 01 Nov 2025 00:00:00 GMT");
        for (etag, strong) in [
            (Some("\"abc\""), Some("\"abc\"")),
            (Some("abc"), Some("abc")),
            (Some("W/\"abc\""), None),
            (Some("w/\"abc\""), None),
            (Some("\"\""), None),
            (Some(""), None),
            (None, None),
        ] {
            assert_eq!(object(etag, date).strong_validator(), strong, "{etag:?}");
            assert_eq!(object(etag, date).validator(), etag.or(date), "{etag:?}");
        }
        assert_eq!(object(None, None).validator(), None);
    }
}
