//! The configured object storage: which URLs are its own, and where its buckets and objects are.

use std::net::{Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use super::percent::encode;
use super::redact;
use crate::config::{Addressing, endpoints};
use crate::source::error::{Result, SourceError, SourceErrorKind};

/// Where object storage is, and how it names its buckets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Endpoint {
    pub(super) url: Url,
    addressing: Addressing,
}

impl Endpoint {
    /// Checks what is configured (`https://` when it names no scheme).
    pub(super) fn new(text: &str, addressing: Addressing) -> Result<Self> {
        let url = endpoints::s3(text).map_err(|why| {
            SourceError::new(
                SourceErrorKind::Settings,
                format!("minio.endpoint {:?} {why}", redact(text)),
            )
        })?;
        Ok(Self { url, addressing })
    }

    /// Whether a URL's host and port are the endpoint's, whatever the scheme.
    pub(super) fn is_host_of(&self, url: &Url) -> bool {
        self.url.host() == url.host() && self.is_port_of(url)
    }

    fn is_port_of(&self, url: &Url) -> bool {
        self.url.port() == url.port()
            || self.url.port_or_known_default() == url.port_or_known_default()
    }

    /// The bucket that a URL's host names, if this endpoint has such hosts.
    pub(super) fn bucket_of<'a>(&self, url: &'a Url) -> Option<&'a str> {
        let host = url.host_str()?;
        let below = host.strip_suffix(self.url.host_str()?)?;
        let bucket = below.strip_suffix('.')?;
        (self.is_port_of(url) && self.host_of(bucket).as_deref() == Some(host)).then_some(bucket)
    }

    /// Where a bucket is listed.
    pub(super) fn bucket_url(&self, bucket: &str) -> Url {
        let (mut url, path) = self.locate(bucket);
        match path == self.folder() {
            true => url.set_path(&format!("{path}/")),
            false => url.set_path(&path),
        }
        url
    }

    /// Where an object is, path and all as signatures want them.
    pub(super) fn object_url(&self, bucket: &str, key: &str) -> Url {
        let (mut url, path) = self.locate(bucket);
        url.set_path(&format!("{path}/{}", encode(key)));
        url
    }

    /// Where a pre-signed URL is asked for: at the host that it was signed for, and otherwise as the endpoint is
    /// configured, so that no URL gives up TLS.
    pub(super) fn presigned_url(&self, given: &Url, path: &str, query: &str) -> Url {
        let mut url = self.url.clone();
        // Hosts of the endpoint and its buckets: they parsed before.
        if url.set_host(given.host_str()).is_err() {
            url = self.url.clone();
        }
        url.set_path(path);
        url.set_query(Some(query));
        url
    }

    fn locate(&self, bucket: &str) -> (Url, String) {
        let mut url = self.url.clone();
        match self.host_of(bucket) {
            Some(host) if url.set_host(Some(&host)).is_ok() => (url, self.folder().to_owned()),
            _ => (self.url.clone(), format!("{}/{bucket}", self.folder())),
        }
    }

    /// The path that everything of the endpoint is below, without its last slash.
    pub(super) fn folder(&self) -> &str {
        self.url.path().trim_end_matches('/')
    }

    /// What is below the endpoint's path; None for another path. Neither begins with a slash.
    pub(super) fn below<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self.folder().strip_prefix('/') {
            None => Some(path),
            Some(folder) => path.strip_prefix(folder)?.strip_prefix('/'),
        }
    }

    /// The bucket's own host. None for one that is addressed by path: those whose names cannot be part of a host's,
    /// as every S3 client has it, whatever is configured.
    fn host_of(&self, bucket: &str) -> Option<String> {
        let Some(Host::Domain(endpoint)) = self.url.host() else {
            return None;
        };
        let is_virtual = match self.addressing {
            Addressing::Path => false,
            Addressing::Virtual => true,
            Addressing::Auto => {
                // A certificate for `*.ENDPOINT` covers one label.
                let is_covered = self.url.scheme() == "http" || !bucket.contains('.');
                endpoint.trim_end_matches('.').contains('.') && is_covered
            }
        };
        let host = format!("{bucket}.{endpoint}");
        (is_virtual && can_be_host(bucket) && Host::parse(&host) == Ok(Host::Domain(host.clone())))
            .then_some(host)
    }
}

/// Whether a bucket's name can be the beginning of a host's.
fn can_be_host(bucket: &str) -> bool {
    let is_label = |label: &str| {
        let ends_well = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && ends_well(label.as_bytes().first())
            && ends_well(label.as_bytes().last())
    };
    bucket.split('.').all(is_label)
}

/// The loopback addresses, if that is what a host's name means wherever it is asked for (RFC 6761, section 6.3):
/// the system's resolver need not know buckets below `localhost`.
pub(in crate::source) fn loopback(host: &str) -> Option<[std::net::IpAddr; 2]> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host.ends_with(".localhost")
        .then_some([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(endpoint: &str, addressing: Addressing, bucket: &str) -> String {
        let endpoint = Endpoint::new(endpoint, addressing).expect("it can be used");
        let url = endpoint.object_url(bucket, "d/a b");
        // What is asked for is known again.
        let found = match endpoint.is_host_of(&url) {
            true => None,
            false => endpoint.bucket_of(&url),
        };
        assert_eq!(
            found.is_some_and(|found| found == bucket),
            !url.path().starts_with(&format!("/{bucket}/"))
        );
        url.into()
    }

    #[test]
    fn buckets_are_hosts_where_that_is_configured_and_their_names_allow_it() {
        let (name, address) = ("https://s3.example.com:9000", "http://10.0.0.1:9000");
        for (endpoint, addressing, bucket, expected) in [
            (
                name,
                Addressing::Path,
                "b-1",
                "https://s3.example.com:9000/b-1/d/a%20b",
            ),
            (
                name,
                Addressing::Virtual,
                "b-1",
                "https://b-1.s3.example.com:9000/d/a%20b",
            ),
            (
                name,
                Addressing::Virtual,
                "b.c",
                "https://b.c.s3.example.com:9000/d/a%20b",
            ),
            (
                name,
                Addressing::Virtual,
                "B",
                "https://s3.example.com:9000/B/d/a%20b",
            ),
            (
                name,
                Addressing::Virtual,
                "b_c",
                "https://s3.example.com:9000/b_c/d/a%20b",
            ),
            (
                name,
                Addressing::Virtual,
                "b-",
                "https://s3.example.com:9000/b-/d/a%20b",
            ),
            (
                name,
                Addressing::Auto,
                "b-1",
                "https://b-1.s3.example.com:9000/d/a%20b",
            ),
            (
                name,
                Addressing::Auto,
                "b.c",
                "https://s3.example.com:9000/b.c/d/a%20b",
            ),
            (
                "http://s3.example.com",
                Addressing::Auto,
                "b.c",
                "http://b.c.s3.example.com/d/a%20b",
            ),
            (
                "http://minio:9000",
                Addressing::Auto,
                "b",
                "http://minio:9000/b/d/a%20b",
            ),
            (
                "http://minio:9000",
                Addressing::Virtual,
                "b",
                "http://b.minio:9000/d/a%20b",
            ),
            (
                address,
                Addressing::Auto,
                "b",
                "http://10.0.0.1:9000/b/d/a%20b",
            ),
            (
                "http://[::1]:9000",
                Addressing::Auto,
                "b",
                "http://[::1]:9000/b/d/a%20b",
            ),
        ] {
            assert_eq!(object(endpoint, addressing, bucket), expected);
        }
    }

    #[test]
    fn names_below_localhost_are_this_host() {
        assert!(loopback("images.localhost").is_some());
        assert!(loopback("a.S3.LocalHost.").is_some());
        for other in [
            "localhost",
            "xlocalhost",
            "localhost.example.com",
            "a.localhost.com",
        ] {
            assert_eq!(loopback(other), None, "{other}");
        }
    }
}
