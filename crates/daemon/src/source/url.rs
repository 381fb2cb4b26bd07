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
//! Keys stand as they are in `s3://` URLs, and are percent-decoded exactly once in `http(s)://` URLs. What could
//! be read in two ways is refused: `.` and `..` segments (written or encoded), control characters, backslashes,
//! credentials, fragments.

mod endpoint;
mod object;
mod percent;
mod query;
mod requested;
mod shown;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use lvp_api::Sha256Digest;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::error::{Result, SourceError, SourceErrorKind};
use crate::config::{Addressing, endpoints, web_name};
use endpoint::Endpoint;
pub(super) use endpoint::loopback;
use object::Object;
pub(crate) use object::literal;
use percent::{check_characters, decode, decode_path};
pub use requested::RequestedUrl;
pub use shown::redact;
pub(crate) use shown::without_query;

/// Longest accepted URL: pre-signed URLs with a session token reach 2 KiB.
const MAX_URL_BYTES: usize = 4096;

/// An accepted image URL.
///
/// `Display` is safe to log: it shows no credentials, nothing that somebody signed, and of a query only an object's
/// version. Two spellings of one object display alike, as `s3://bucket/key`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ImageUrl(Location);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Location {
    Object(Object),
    Web(Url),
}

/// Decides which URLs are accepted; created once from the configuration.
#[derive(Debug, Clone)]
pub struct UrlPolicy {
    endpoint: Option<Arc<Endpoint>>,
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
    /// Checks the configured endpoint and allowed hosts.
    pub fn new(
        endpoint: Option<&str>,
        addressing: Addressing,
        allowed_hosts: &[String],
    ) -> Result<Self> {
        let endpoint = endpoint.map(|endpoint| Endpoint::new(endpoint, addressing));
        Ok(Self {
            endpoint: endpoint.transpose()?.map(Arc::new),
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
        check_characters(text).map_err(|why| bad(&why))?;
        if text.trim() != text {
            return Err(bad(
                "it begins or ends with white space; write a space at the end of a key as %20 in an http(s) URL",
            ));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(bad(
                "it has no scheme; use s3://BUCKET/KEY or http(s)://HOST/BUCKET/KEY",
            ));
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(bad(
                "it contains credentials; they belong in the daemon's configuration",
            ));
        }
        match (scheme.to_ascii_lowercase().as_str(), &self.endpoint) {
            ("s3", None) => Err(bad(
                "no object storage is configured; set minio.endpoint (MINIO_ENDPOINT)",
            )),
            ("s3", Some(endpoint)) => match Object::from_s3(endpoint, rest) {
                Ok(object) => Ok(ImageUrl(Location::Object(object))),
                Err(why) => Err(bad(&why)),
            },
            ("http" | "https", _) => self.parse_web(text, scheme, rest),
            _ => Err(bad(
                "only s3, http and https URLs are supported; use s3://BUCKET/KEY",
            )),
        }
    }

    fn parse_web(&self, text: &str, scheme: &str, rest: &str) -> Result<ImageUrl> {
        let bad = |why: &str| bad_url(text, why);
        if rest.contains('#') {
            return Err(bad("it has a fragment; write a # in a key as %23"));
        }
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut url = Url::parse(&format!("{scheme}://{authority}/"))
            .map_err(|error| bad("its host is malformed").with_source(error))?;
        if let Some(endpoint) = &self.endpoint
            && (endpoint.is_host_of(&url) || endpoint.bucket_of(&url).is_some())
        {
            let Some(path) = endpoint.below(path) else {
                return Err(bad(&format!(
                    "its path is not below {}, the path of minio.endpoint",
                    endpoint.url.path()
                )));
            };
            let object = Object::from_web(endpoint, &url, path, query);
            let object = object.map_err(|why| bad(&why))?;
            return Ok(ImageUrl(Location::Object(object)));
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
        let endpoint = self.endpoint.as_ref().ok_or_else(no_endpoint)?;
        let object = Object::new(endpoint, bucket, key);
        let object = object.map_err(|why| bad_url(&format!("s3://{bucket}/{key}"), &why))?;
        Ok(ImageUrl(Location::Object(object)))
    }

    /// Where a bucket of the endpoint is listed.
    pub(super) fn bucket(&self, bucket: &str) -> Result<Url> {
        let endpoint = self.endpoint.as_ref().ok_or_else(no_endpoint)?;
        Ok(endpoint.bucket_url(bucket))
    }

    /// Refuses hosts that the configuration does not name; for URLs and for redirects.
    pub(crate) fn check_host(&self, url: &Url) -> Result<()> {
        let host = url.host_str().unwrap_or_default();
        let is_endpoint = (self.endpoint.as_ref()).is_some_and(|own| own.is_host_of(url));
        if is_endpoint || self.allowed_hosts.iter().any(|allowed| allowed.covers(url)) {
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
        self.endpoint.as_ref().map(|endpoint| &endpoint.url)
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
            Location::Object(object) => object.key.clone(),
            Location::Web(url) => decode(url.path()).unwrap_or_else(|_| url.path().to_owned()),
        };
        path.rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// The name that trust rules compare with their prefixes: decoded, so that all spellings are the same name.
    pub(crate) fn trust_name(&self) -> String {
        match &self.0 {
            Location::Object(object) => format!("{}/{}", object.bucket, object.key),
            Location::Web(url) => {
                let path = decode(url.path()).unwrap_or_else(|_| url.path().to_owned());
                web_name(url, &path)
            }
        }
    }

    /// Whether other objects can be named after this one.
    pub(crate) fn has_siblings(&self) -> bool {
        match &self.0 {
            Location::Object(object) => object.has_siblings(),
            Location::Web(url) => url.query().is_none(),
        }
    }

    /// Whether the object is read with the endpoint's credentials.
    pub(super) fn is_signed_by_us(&self) -> bool {
        match &self.0 {
            Location::Object(object) => object.is_signed_by_us(),
            Location::Web(_) => false,
        }
    }

    /// The version of the object that it names, if it names one.
    pub(super) fn version(&self) -> Option<&str> {
        match &self.0 {
            Location::Object(object) => object.version.as_deref(),
            Location::Web(_) => None,
        }
    }

    /// Another object that is named after this one; `None` where the URL covers this one only.
    pub(crate) fn sibling(&self, sibling: Sibling) -> Option<Self> {
        let renamed = |name: &str| match sibling {
            Sibling::Suffix(suffix) => format!("{name}{suffix}"),
            Sibling::Beside(other) => {
                let directory = name.rfind('/').map_or("", |at| &name[..=at]);
                format!("{directory}{other}")
            }
        };
        match &self.0 {
            Location::Object(object) => object
                .renamed(renamed(&object.key))
                .map(|object| Self(Location::Object(object))),
            Location::Web(url) if url.query().is_some() => None,
            Location::Web(url) => {
                let mut url = url.clone();
                url.set_path(&renamed(url.path()));
                Some(Self(Location::Web(url)))
            }
        }
    }

    /// Identifies the object alone: not its content, nor the signature of the URL. It is a digest, as a query
    /// may contain secrets of unknown kinds.
    pub(crate) fn identity(&self) -> String {
        let (kind, parts) = match &self.0 {
            Location::Object(object) => ("object", object.identity()),
            Location::Web(url) => {
                let origin = url.origin().ascii_serialization();
                let query = query::without_signature(url.query().unwrap_or_default());
                ("web", vec![origin, url.path().to_owned(), query])
            }
        };
        let parts = parts.iter().map(String::as_str);
        digest(&std::iter::once(kind).chain(parts).collect::<Vec<_>>())
    }

    /// Where to send the request.
    pub(crate) fn request_url(&self) -> Url {
        match &self.0 {
            Location::Web(url) => url.clone(),
            Location::Object(object) => object.request_url(),
        }
    }
}

impl fmt::Display for ImageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Location::Object(object) => fmt::Display::fmt(object, f),
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

fn no_endpoint() -> SourceError {
    SourceError::new(
        SourceErrorKind::BadUrl,
        "No object storage is configured; set minio.endpoint (MINIO_ENDPOINT)",
    )
}

#[cfg(test)]
mod tests;
