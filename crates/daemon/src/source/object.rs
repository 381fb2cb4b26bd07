//! One version of one object: its identity, and what distinguishes its versions.

use super::http::Location;
use super::url::ImageUrl;

/// One version of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

impl ObjectMeta {
    /// Identifies the object, whatever its version and the signature of the URL: a digest of endpoint, bucket
    /// and key, or of a URL with the part of its query that is not a signature. Unlike the URL as it is shown,
    /// it is different for any two objects.
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

#[cfg(test)]
mod tests {
    use super::super::url::UrlPolicy;
    use super::*;

    fn object(etag: Option<&str>, last_modified: Option<&str>) -> ObjectMeta {
        let policy = UrlPolicy::new(Some("http://127.0.0.1:9"), &[]).expect("it is an endpoint");
        let url = policy.parse("s3://b/k").expect("it is a URL");
        let location = Location {
            url: url.to_request_url(&policy).expect("there is an endpoint"),
            signed: true,
        };
        ObjectMeta {
            size: 1,
            etag: etag.map(str::to_owned),
            last_modified: last_modified.map(str::to_owned),
            identity: url.identity(&policy),
            url,
            location,
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
