//! Image URLs: which are accepted, and where each leads.
//!
//! Everything is decided by parsing, before any network access, name lookups included:
//!
//! - `s3://BUCKET/KEY`, and `http(s)://ENDPOINT/BUCKET/KEY` on the configured endpoint, name an
//!   object, which is read with the configured credentials.
//! - Any other `http(s)://` URL is read as it stands, without credentials, and only when its host
//!   is in `minio.allowed_hosts`.
//!
//! The scheme of an endpoint URL is not compared: clients write both, and requests go to the
//! endpoint as it is configured, so an `http://` URL cannot downgrade an `https://` endpoint.
//! Host and port are compared after normalisation (case, IDNA, default ports).
//!
//! Bucket and key are percent-decoded exactly once, in both forms: a literal `%` in a key is
//! written `%25`. What could be read in two ways is refused: `.` and `..` segments (written or
//! encoded), control characters, backslashes, credentials, fragments.

mod percent;
mod query;
mod requested;
mod shown;

use std::fmt;
use std::str::FromStr;

use lvp_api::Sha256Digest;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::error::{Result, SourceError, SourceErrorKind};
use crate::config::{endpoints, web_name};
use percent::{decode, decode_path, encode};
pub use requested::RequestedUrl;
pub use shown::redact;
pub(crate) use shown::without_query;

/// Longest accepted URL: pre-signed URLs with a session token reach 2 KiB.
const MAX_URL_BYTES: usize = 4096;
/// S3's own limit on a key's UTF-8 length.
const MAX_KEY_BYTES: usize = 1024;
/// S3's oldest limit on a bucket's name; today's rule (63) is left to the server.
const MAX_BUCKET_BYTES: usize = 255;
/// An accepted image URL.
///
/// `Display` is safe to log: it shows neither query nor credentials. Two spellings of one object
/// display alike, as `s3://bucket/key`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ImageUrl(Location);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Location {
    Object { bucket: String, key: String },
    Web(Url),
}

/// Decides which URLs are accepted; created once from the configuration.
#[derive(Debug, Clone)]
pub struct UrlPolicy {
    endpoint: Option<Url>,
    allowed_hosts: Vec<AllowedHost>,
}

/// One entry of `minio.allowed_hosts`: `host`, for the default ports of http and https, or `host:port`; `*.`
/// before it stands for any host below the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AllowedHost {
    host: String,
    port: Option<u16>,
}

impl UrlPolicy {
    /// Checks the configured endpoint (`https://` when it names no scheme) and allowed hosts.
    pub fn new(endpoint: Option<&str>, allowed_hosts: &[String]) -> Result<Self> {
        Ok(Self {
            endpoint: endpoint.map(parse_endpoint).transpose()?,
            allowed_hosts: allowed_hosts
                .iter()
                .map(|entry| entry.parse())
                .collect::<Result<_>>()?,
        })
    }

    /// Accepts or refuses one image URL.
    pub fn parse(&self, text: &str) -> Result<ImageUrl> {
        let bad = |why: &str| bad_url(text, why);
        if text.len() > MAX_URL_BYTES {
            return Err(bad("it is longer than 4096 bytes"));
        }
        if text.chars().any(char::is_control) {
            return Err(bad("it contains control characters"));
        }
        if text.trim() != text {
            return Err(bad("it begins or ends with white space"));
        }
        if text.contains('\\') {
            return Err(bad("it contains a backslash; write it as %5C"));
        }
        if text.contains('#') {
            return Err(bad("it has a fragment; write a # in a key as %23"));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(bad(
                "it has no scheme; use s3://BUCKET/KEY or http(s)://HOST/BUCKET/KEY",
            ));
        };
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err(bad(
                "it contains credentials; they belong in the daemon's configuration",
            ));
        }
        match scheme.to_ascii_lowercase().as_str() {
            "s3" if query.is_some() => Err(bad("it has a query; write a ? in a key as %3F")),
            "s3" if self.endpoint.is_none() => Err(bad(
                "no object storage is configured; set minio.endpoint (MINIO_ENDPOINT)",
            )),
            "s3" => object(authority, path).map_err(|why| bad(&why)),
            "http" | "https" => self.parse_web(text, scheme, authority, path, query),
            _ => Err(bad(
                "only s3, http and https URLs are supported; use s3://BUCKET/KEY",
            )),
        }
    }

    fn parse_web(
        &self,
        text: &str,
        scheme: &str,
        authority: &str,
        path: &str,
        query: Option<&str>,
    ) -> Result<ImageUrl> {
        let bad = |why: &str| bad_url(text, why);
        let mut url = Url::parse(&format!("{scheme}://{authority}/"))
            .map_err(|error| bad("its host is malformed").with_source(error))?;
        if self.is_endpoint(&url) {
            if query.is_some() {
                return Err(bad(
                    "it has a query; the daemon signs requests to its endpoint itself",
                ));
            }
            let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
            return object(bucket, key).map_err(|why| bad(&why));
        }
        self.check_host(&url)?;
        let decoded = decode_path(path).map_err(|why| bad(&why))?;
        if decoded.is_empty() || decoded.ends_with('/') {
            return Err(bad("its path does not name a file"));
        }
        url.set_path(path);
        url.set_query(query);
        Ok(ImageUrl(Location::Web(url)))
    }

    /// An object of the endpoint by its bucket and key, which are not percent-encoded.
    pub(super) fn object(&self, bucket: &str, key: &str) -> Result<ImageUrl> {
        self.parse(&format!("s3://{bucket}/{}", encode(key)))
    }

    /// Whether a URL's host and port are the endpoint's, whatever the scheme.
    fn is_endpoint(&self, url: &Url) -> bool {
        self.endpoint.as_ref().is_some_and(|endpoint| {
            endpoint.host() == url.host()
                && (endpoint.port() == url.port()
                    || endpoint.port_or_known_default() == url.port_or_known_default())
        })
    }

    /// Refuses hosts that the configuration does not name; for URLs and for redirects.
    pub(crate) fn check_host(&self, url: &Url) -> Result<()> {
        let host = url.host_str().unwrap_or_default();
        if self.is_endpoint(url) || self.allowed_hosts.iter().any(|allowed| allowed.covers(url)) {
            return Ok(());
        }
        let shown = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        Err(SourceError::new(
            SourceErrorKind::HostNotAllowed,
            format!(
                "Host {shown} is neither the configured endpoint nor allowed; \
                 use an image on the endpoint, or add it to minio.allowed_hosts"
            ),
        ))
    }

    /// The endpoint's origin, if object storage is configured.
    pub fn endpoint(&self) -> Option<&Url> {
        self.endpoint.as_ref()
    }
}

/// An object that is named after another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sibling {
    /// Its name is the other's with this suffix.
    Suffix(&'static str),
    /// It has this name, in the other's directory.
    Beside(&'static str),
}

impl ImageUrl {
    /// The last segment of the object's name: what `sha256sum` would have printed beside a digest.
    pub fn base_name(&self) -> String {
        let path = match &self.0 {
            Location::Object { key, .. } => key.clone(),
            Location::Web(url) => decode(url.path()).unwrap_or_else(|_| url.path().to_owned()),
        };
        path.rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// The name that trust rules compare with their prefixes: decoded, so that all spellings are the same name.
    pub(crate) fn trust_name(&self) -> String {
        match &self.0 {
            Location::Object { bucket, key } => format!("{bucket}/{key}"),
            Location::Web(url) => {
                let path = decode(url.path()).unwrap_or_else(|_| url.path().to_owned());
                web_name(url, &path)
            }
        }
    }

    /// Whether other objects can be named after this one.
    pub(crate) fn has_siblings(&self) -> bool {
        match &self.0 {
            Location::Object { .. } => true,
            Location::Web(url) => url.query().is_none(),
        }
    }

    /// Whether the object lies on the configured endpoint and is read with its credentials.
    pub fn is_object(&self) -> bool {
        matches!(self.0, Location::Object { .. })
    }

    /// Another object that is named after this one; `None` where the URL's query covers this one only.
    pub(crate) fn sibling(&self, sibling: Sibling) -> Option<Self> {
        let renamed = |name: &str| match sibling {
            Sibling::Suffix(suffix) => format!("{name}{suffix}"),
            Sibling::Beside(other) => {
                let directory = name.rfind('/').map_or("", |at| &name[..=at]);
                format!("{directory}{other}")
            }
        };
        match &self.0 {
            Location::Object { bucket, key } => Some(Self(Location::Object {
                bucket: bucket.clone(),
                key: renamed(key),
            })),
            Location::Web(url) if url.query().is_some() => None,
            Location::Web(url) => {
                let mut url = url.clone();
                url.set_path(&renamed(url.path()));
                Some(Self(Location::Web(url)))
            }
        }
    }

    /// Identifies the object alone: not its version, nor the signature of the URL. It is a digest, as a query
    /// may contain secrets of unknown kinds.
    pub(crate) fn identity(&self, policy: &UrlPolicy) -> String {
        let origin = |url: &Url| url.origin().ascii_serialization();
        let (kind, parts) = match &self.0 {
            Location::Object { bucket, key } => {
                let endpoint = policy.endpoint.as_ref().map(origin).unwrap_or_default();
                ("object", [endpoint, bucket.clone(), key.clone()])
            }
            Location::Web(url) => {
                let query = query::without_signature(url.query().unwrap_or_default());
                ("web", [origin(url), url.path().to_owned(), query])
            }
        };
        digest(&[kind, &parts[0], &parts[1], &parts[2]])
    }

    /// Where to send the request.
    pub(crate) fn to_request_url(&self, policy: &UrlPolicy) -> Result<Url> {
        match &self.0 {
            Location::Web(url) => Ok(url.clone()),
            Location::Object { bucket, key } => {
                let mut url = policy.endpoint.clone().ok_or_else(|| {
                    SourceError::new(
                        SourceErrorKind::BadUrl,
                        format!("{self} needs object storage; set minio.endpoint"),
                    )
                })?;
                url.set_path(&format!("/{bucket}/{}", encode(key)));
                Ok(url)
            }
        }
    }
}

impl fmt::Display for ImageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Location::Object { bucket, key } => write!(f, "s3://{bucket}/{}", encode(key)),
            Location::Web(url) => f.write_str(&without_query(url)),
        }
    }
}

impl fmt::Debug for ImageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl AllowedHost {
    fn covers(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let is_this = match self.host.strip_prefix('*') {
            // With its dot, so that neither the domain itself nor another domain with the same ending matches.
            Some(domain) => host.len() > domain.len() && host.ends_with(domain),
            None => host == self.host,
        };
        is_this
            && match self.port {
                Some(port) => url.port_or_known_default() == Some(port),
                None => url.port().is_none(),
            }
    }
}

impl FromStr for AllowedHost {
    type Err = SourceError;

    fn from_str(entry: &str) -> Result<Self> {
        let read = endpoints::allowed_host(entry);
        let (host, port) = read.map_err(|why| {
            SourceError::new(
                SourceErrorKind::Settings,
                format!("{entry:?} in minio.allowed_hosts cannot be used: {why}"),
            )
        })?;
        Ok(Self { host, port })
    }
}

/// A digest of several texts, unambiguous about where each ends.
fn digest(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    Sha256Digest::new(hasher.finalize().into()).to_string()
}

fn bad_url(text: &str, why: &str) -> SourceError {
    SourceError::new(
        SourceErrorKind::BadUrl,
        format!("The image URL {:?} cannot be used: {why}", redact(text)),
    )
}

fn parse_endpoint(text: &str) -> Result<Url> {
    endpoints::s3(text).map_err(|why| {
        SourceError::new(
            SourceErrorKind::Settings,
            format!("minio.endpoint {:?} {why}", redact(text)),
        )
    })
}

fn object(bucket: &str, key: &str) -> Result<ImageUrl, String> {
    let bucket = decode(bucket)?;
    if bucket.is_empty() {
        return Err("it has no bucket".to_owned());
    }
    if bucket.len() > MAX_BUCKET_BYTES
        || bucket.starts_with('.')
        || !bucket
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    {
        return Err("its bucket is not a valid name (letters, digits, '.', '-', '_')".to_owned());
    }
    let key = decode_path(key)?;
    if key.is_empty() {
        return Err("it has no object key; use s3://BUCKET/KEY".to_owned());
    }
    if key.ends_with('/') {
        return Err("its key ends with a slash: it names a folder, not an object".to_owned());
    }
    if key.len() > MAX_KEY_BYTES {
        return Err("its key is longer than 1024 bytes".to_owned());
    }
    Ok(ImageUrl(Location::Object { bucket, key }))
}

#[cfg(test)]
mod tests;
