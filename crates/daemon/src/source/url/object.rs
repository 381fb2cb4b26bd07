//! Objects of the configured endpoint, by the two kinds of URL that name them.
//!
//! In an `s3://` URL the key stands as it is, as every client of S3 takes it: nothing is decoded. All that follows the
//! bucket is the key, but for `?versionId=ID` at its end. In an `http(s)://` URL the key is percent-encoded, and the
//! query names a version, or is what somebody signed for this object.

use std::fmt;
use std::sync::Arc;

use url::{Url, form_urlencoded};

use super::endpoint::Endpoint;
use super::percent::{check_characters, check_segments, decode, decode_path, encode};
use super::query;

/// S3's own limit on a key's UTF-8 length, and on a version's.
const MAX_KEY_BYTES: usize = 1024;
/// S3's oldest limit on a bucket's name; today's rule (63) is left to the server.
const MAX_BUCKET_BYTES: usize = 255;
/// What is behind it in an `s3://` URL is a version.
const VERSION_MARK: &str = "?versionId=";

/// An object, or one version of it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Object {
    endpoint: Arc<Endpoint>,
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) version: Option<String>,
    /// The URL that is asked for as it is, where the request brought a signature.
    presigned: Option<Url>,
}

impl Object {
    /// By bucket and key as they are.
    pub(super) fn new(endpoint: &Arc<Endpoint>, bucket: &str, key: &str) -> Result<Self, String> {
        if bucket.is_empty() {
            return Err("it has no bucket".to_owned());
        }
        if bucket.len() > MAX_BUCKET_BYTES
            || bucket.starts_with('.')
            || !bucket
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        {
            return Err(
                "its bucket is not a valid name (letters, digits, '.', '-', '_')".to_owned(),
            );
        }
        check_characters(key)?;
        check_segments(key)?;
        if key.is_empty() {
            return Err("it has no object key; use s3://BUCKET/KEY".to_owned());
        }
        if key.ends_with('/') {
            return Err("its key ends with a slash: it names a folder, not an object".to_owned());
        }
        if key.len() > MAX_KEY_BYTES {
            return Err("its key is longer than 1024 bytes".to_owned());
        }
        Ok(Self {
            endpoint: Arc::clone(endpoint),
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            version: None,
            presigned: None,
        })
    }

    /// By what follows `s3://`.
    pub(super) fn from_s3(endpoint: &Arc<Endpoint>, rest: &str) -> Result<Self, String> {
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if query::is_signed(rest.split_once('?').map_or("", |(_, query)| query)) {
            return Err("it is signed, which only http(s) URLs can be".to_owned());
        }
        let (key, version) = match key.split_once(VERSION_MARK) {
            Some((key, version)) => (key, Some(version)),
            None => (key, None),
        };
        Ok(Self {
            version: version.map(checked_version).transpose()?,
            ..Self::new(endpoint, bucket, key)?
        })
    }

    /// By an `http(s)://` URL of the endpoint, or of the bucket where that has a host of its own.
    pub(super) fn from_web(
        endpoint: &Arc<Endpoint>,
        url: &Url,
        path: &str,
        query: Option<&str>,
    ) -> Result<Self, String> {
        let (bucket, key) = match endpoint.bucket_of(url) {
            Some(bucket) => (bucket.to_owned(), path),
            None => {
                let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
                (decode(bucket)?, key)
            }
        };
        let object = Self::new(endpoint, &bucket, &decode_path(key)?)?;
        let Some(query) = query else {
            return Ok(object);
        };
        let is_signed = query::is_signed(query);
        let mut version = None;
        for (name, value) in form_urlencoded::parse(query::without_signature(query).as_bytes()) {
            match &*name {
                "versionId" if version.is_none() => version = Some(checked_version(&value)?),
                // What signers add, which changes neither the object nor its bytes.
                "x-id" if is_signed => (),
                name if is_signed && name.starts_with("response-") => (),
                name => {
                    return Err(format!(
                        "its query has {name:?}: on the endpoint, a URL may name a version (versionId) or be pre-signed"
                    ));
                }
            }
        }
        let presigned = is_signed
            .then(|| endpoint.presigned_url(url, &format!("{}/{path}", endpoint.folder()), query));
        Ok(Self {
            version,
            presigned,
            ..object
        })
    }

    /// Another object of the bucket. None where the URL covers one version, or was signed for this object only.
    pub(super) fn renamed(&self, key: String) -> Option<Self> {
        self.has_siblings().then(|| Self {
            key,
            ..self.clone()
        })
    }

    /// See [`ImageUrl::has_siblings`](super::ImageUrl::has_siblings).
    pub(super) fn has_siblings(&self) -> bool {
        self.version.is_none() && self.presigned.is_none()
    }

    /// Whether the configured credentials sign its requests.
    pub(super) fn is_signed_by_us(&self) -> bool {
        self.presigned.is_none()
    }

    /// What tells it from all other objects: the endpoint's origin, the bucket, the key and the version.
    pub(super) fn identity(&self) -> Vec<String> {
        let mut origin = self.endpoint.url.origin().ascii_serialization();
        origin.push_str(self.endpoint.folder());
        let mut parts = vec![origin, self.bucket.clone(), self.key.clone()];
        parts.extend(self.version.clone());
        parts
    }

    /// Where to send its requests.
    pub(super) fn request_url(&self) -> Url {
        self.presigned.clone().unwrap_or_else(|| self.plain_url())
    }

    fn plain_url(&self) -> Url {
        let mut url = self.endpoint.object_url(&self.bucket, &self.key);
        if let Some(version) = &self.version {
            url.set_query(Some(&format!(
                "versionId={}",
                encode(version).replace('/', "%2F")
            )));
        }
        url
    }

    /// Whether an `s3://` URL can have the key as it is.
    fn is_plain(&self) -> bool {
        let query = self.key.split_once('?').map_or("", |(_, query)| query);
        self.key.trim_end() == self.key
            && !self.key.contains(VERSION_MARK)
            && !query::is_signed(query)
    }
}

/// The URL that names it, and nothing that anybody signed.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_plain() {
            return fmt::Display::fmt(&self.plain_url(), f);
        }
        write!(f, "s3://{}/{}", self.bucket, self.key)?;
        match &self.version {
            Some(version) => write!(f, "{VERSION_MARK}{version}"),
            None => Ok(()),
        }
    }
}

/// An `s3://` URL that was percent-encoded, as it was once, in the words of today. None where that is the same, and for what was
/// no such URL.
pub(crate) fn literal(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let decoded = decode(rest).ok().filter(|decoded| decoded != rest)?;
    scheme
        .eq_ignore_ascii_case("s3")
        .then(|| format!("{scheme}://{decoded}"))
}

fn checked_version(version: &str) -> Result<String, String> {
    let is_allowed = |c: char| !c.is_whitespace() && !c.is_control() && !"?&#\\".contains(c);
    if version.is_empty() || version.len() > MAX_KEY_BYTES || !version.chars().all(is_allowed) {
        return Err("its versionId is not a version's name".to_owned());
    }
    Ok(version.to_owned())
}
