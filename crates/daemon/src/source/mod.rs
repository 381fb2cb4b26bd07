//! Image bytes from object storage and, where the configuration allows, plain HTTP hosts.
//!
//! ```text
//! text --parse_url--> ImageUrl --resolve--> ObjectMeta --read_ranges--> chunks in order
//!   url.rs: no packet     |        HEAD         |         ranges.rs + fetch.rs
//!                         |                     +-reader--> ReadAt for the image crate
//!                         +--checksums--> digests           reader.rs
//! ```
//!
//! # Who owns what
//!
//! - [`url`] decides which hosts are contacted, before any name lookup; redirects are checked the same way.
//!   They are followed once, by [`Source::resolve`]: the [`ObjectMeta`] has the location where they ended.
//! - `http` sends one signed request, exactly once, and classifies its failure.
//! - `retry` holds the retry budget of one request or range: the configured waits, or the server's
//!   `Retry-After`. 4xx is final except for 408 and 429; 5xx, timeouts, cut connections and short bodies are
//!   retried.
//! - `fetch` reads one range: resumed at the exact byte, pinned to the resolved version by
//!   `If-Match` and by checks of every answer. A changed object is
//!   [`SourceErrorKind::ObjectChanged`], never a mix of two versions. Where nothing tells versions
//!   apart ([`ObjectMeta::strong_validator`]), one request reads all of it.
//! - `mirrors` decides whether a range is asked of a cache near this host before the endpoint.
//! - `record` keeps the digests of what was read for a plan, for comparison with what is streamed.
//!
//! # What the `object_store` crate does here, and what it does not
//!
//! Its [`AwsAuthorizer`](object_store::aws::AwsAuthorizer) makes the SigV4 signatures. Its store
//! is not used: that one bounds a whole request to 30 s and retries to 3 min by default, hides
//! statuses and headers that decide here (`Retry-After`, a 200 for a range, S3's error codes),
//! and re-encodes keys. Requests go through one `reqwest` client that follows no redirect, knows
//! no proxy but the configured one and retries nothing by itself.

mod checksums;
mod connect;
mod credentials;
pub mod error;
pub mod evidence;
mod fetch;
mod gate;
mod http;
mod limit;
mod listing;
pub mod local;
mod look;
mod mirrors;
mod mover;
mod object;
mod pace;
mod queue;
mod range_headers;
mod ranges;
mod reader;
mod record;
mod refusal;
mod retry;
mod settings;
mod sums;
mod trust;
pub mod url;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Method, StatusCode, header};
use reqwest::Response;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use checksums::{Checksums, is_checksum_file, own_checksum_files};
pub use credentials::Lender;
pub use error::{Result, SourceError, SourceErrorKind};
pub use http::Counters;
use http::{Client, Location, header_text, no_answer};
pub use limit::ReadLimit;
pub use listing::{ListedObject, Listing};
pub use look::Look;
pub use mirrors::MirrorCounters;
use mirrors::{Detours, Mirrors};
use mover::Mover;
pub use object::ObjectMeta;
use range_headers::{byte_range, total_size};
pub use ranges::RangeReader;
pub use reader::RemoteReader;
pub use record::PlanCheck;
use refusal::refusal;
use retry::{Budget, Failure};
pub use retry::{Observer, RequestId, WaitReason};
pub use settings::{RangeOptions, SourceSettings};
pub use trust::{Trust, read_keys};
pub use url::{ImageUrl, UrlPolicy};

use crate::config::EndpointPath;

/// Reads images; cheap to clone.
#[derive(Debug, Clone)]
pub struct Source {
    inner: Arc<Inner>,
    /// Is told how the requests of one job fare.
    observer: Option<Arc<dyn Observer>>,
    /// What the same job has seen of the mirrors.
    detours: Arc<Detours>,
    /// A limit that the source shares with some others, beside the one of all.
    limit: Option<Arc<ReadLimit>>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    mirrors: Mirrors,
    policy: UrlPolicy,
    backoff: Vec<Duration>,
    limit: Option<ReadLimit>,
    trust: Trust,
    parallel_ranges: usize,
}

impl Source {
    /// Checks the settings and loads the certificates; sends nothing.
    pub fn new(settings: &SourceSettings) -> Result<Self> {
        let mover = Mover::new().map_err(|error| {
            SourceError::new(
                SourceErrorKind::Settings,
                "Threads for transfers cannot be started",
            )
            .with_source(error)
        })?;
        settings.trust.check()?;
        let policy = UrlPolicy::new(
            settings.endpoint.as_deref(),
            settings.addressing,
            &settings.allowed_hosts,
        )?;
        let unsigned = match settings.endpoint_path {
            EndpointPath::Keep => None,
            EndpointPath::Strip => policy.endpoint().map(|url| url.path().to_owned()),
        };
        let inner = Inner {
            client: Client::new(settings, unsigned, mover)?,
            mirrors: Mirrors::new(&settings.mirrors)?,
            policy,
            backoff: settings.retry_backoff.clone(),
            limit: settings.max_read_bytes_per_sec.and_then(ReadLimit::new),
            trust: settings.trust.clone(),
            parallel_ranges: settings.parallel_ranges,
        };
        Ok(Self {
            inner: Arc::new(inner),
            observer: None,
            detours: Arc::default(),
            limit: None,
        })
    }

    /// The same source, which tells this observer how its requests fare.
    pub fn observed(&self, observer: Arc<dyn Observer>) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            observer: Some(observer),
            detours: Arc::default(),
            limit: self.limit.clone(),
        }
    }

    /// The same source, which reads no faster than this besides.
    pub fn limited(self, limit: Option<Arc<ReadLimit>>) -> Self {
        Self { limit, ..self }
    }

    /// The same source, which remembers nothing of the mirrors of what others have read.
    pub fn for_one_use(&self) -> Self {
        Self {
            detours: Arc::default(),
            ..self.clone()
        }
    }

    /// Whether there are mirrors.
    pub fn has_mirrors(&self) -> bool {
        !self.inner.mirrors.all().is_empty()
    }

    /// Whether bytes came from mirrors, for which only the image's digest vouches.
    pub fn used_mirrors(&self) -> bool {
        self.detours.were_used()
    }

    /// Reads from the endpoint only from now on. False if that changes nothing: no mirror was used, or none is
    /// any more.
    pub fn avoid_mirrors(&self) -> bool {
        self.detours.avoid()
    }

    /// Reads from the endpoint only, for images that no digest is known of: nothing would notice a mirror's mistakes.
    pub fn ask_no_mirror(&self) {
        self.detours.close();
    }

    /// The image is right. If mirrors were avoided for that, what they had sent was not.
    pub fn blame_mirrors(&self) {
        self.detours.blame(&self.inner.mirrors);
    }

    /// Accepts or refuses an image URL; sends nothing.
    pub fn parse_url(&self, text: &str) -> Result<ImageUrl> {
        self.inner.policy.parse(text)
    }

    /// Finds the object's size and version, following redirects.
    ///
    /// Sends a `HEAD` request. If that is refused (a URL pre-signed for `GET`) or its answer is not enough
    /// (error answers to `HEAD` have no body with the reason), a `GET` of the first byte decides.
    pub async fn resolve(&self, url: &ImageUrl) -> Result<ObjectMeta> {
        let mut budget = self.budget();
        loop {
            match self.inner.resolve(url).await {
                Ok(meta) => {
                    budget.succeeded();
                    return Ok(meta);
                }
                Err(failure) => budget.pause(failure).await?,
            }
        }
    }

    /// Reads a part of the object in order, several ranges at once. Dropping the reader frees its
    /// connections.
    pub fn read_ranges(
        &self,
        meta: &ObjectMeta,
        range: Range<u64>,
        options: RangeOptions,
    ) -> RangeReader {
        RangeReader::new(self.clone(), Arc::new(meta.clone()), range, options)
    }

    /// How whole objects are read: by measurement, with at most as many parallel ranges as are configured.
    pub fn range_options(&self) -> RangeOptions {
        RangeOptions {
            in_flight: self.inner.parallel_ranges,
            is_measured: true,
            ..RangeOptions::default()
        }
    }

    /// Reads the whole object by one request, which is not retried once bytes have arrived: for objects without
    /// a strong validator, of which two requests may return parts of two versions.
    pub fn read_once(&self, meta: &ObjectMeta) -> RangeReader {
        RangeReader::once(self.clone(), Arc::new(meta.clone()))
    }

    /// Random access for blocking threads, until `cancel` ends it.
    ///
    /// A server that ignores `Range` makes reads fail with [`SourceErrorKind::RangesIgnored`].
    pub fn reader(&self, meta: &ObjectMeta, cancel: CancellationToken) -> RemoteReader {
        RemoteReader::new(self.clone(), Arc::new(meta.clone()), cancel)
    }

    /// The runtime for work that moves image bytes, whose threads have a lower priority than those that answer
    /// requests. It ends with the last clone of this source.
    pub fn mover(&self) -> &Handle {
        self.inner.client.mover()
    }

    /// The URL of each mirror, and what it was asked.
    pub fn mirrors(&self) -> impl Iterator<Item = (&str, &MirrorCounters)> {
        self.inner.mirrors.counters()
    }

    /// What this source has done.
    pub fn counters(&self) -> &Counters {
        &self.inner.client.counters
    }

    fn budget(&self) -> Budget<'_> {
        let all = &self.inner.client.counters.retries;
        Budget::new(&self.inner.backoff, all, self.observer.as_deref())
    }
}

impl Inner {
    async fn resolve(&self, url: &ImageUrl) -> Result<ObjectMeta, Failure> {
        let mut location = Location::of(url);
        let head = self
            .client
            .follow(&self.policy, Method::HEAD, &mut location, &HeaderMap::new())
            .await?;
        let status = head.status();
        if status.is_success()
            && let Some(size) = announced_length(&head)
        {
            return Ok(ObjectMeta::read(url, location, size, head.headers())?);
        }
        if !status.is_success() && !status.is_client_error() {
            return Err(refusal(&location, head).await);
        }
        drop(head);
        self.resolve_by_get(url).await
    }

    async fn resolve_by_get(&self, url: &ImageUrl) -> Result<ObjectMeta, Failure> {
        let mut location = Location::of(url);
        let first_byte = HeaderMap::from_iter([(header::RANGE, byte_range(&(0..1)))]);
        let response = self
            .client
            .follow(&self.policy, Method::GET, &mut location, &first_byte)
            .await?;
        let size = match response.status() {
            // An empty object has no first byte.
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                total_size(response.headers())
            }
            // Some servers send the range with this status, others ignore the range.
            StatusCode::OK => {
                total_size(response.headers()).or_else(|| announced_length(&response))
            }
            _ => return Err(refusal(&location, response).await),
        };
        let size = size.ok_or_else(|| {
            Failure::passing(SourceError::new(
                SourceErrorKind::Protocol,
                format!("The server does not report the size of {url}"),
            ))
        })?;
        Ok(ObjectMeta::read(url, location, size, response.headers())?)
    }

    /// Reads a small answer completely; `too_long` is the error if it has more than `max_bytes`.
    async fn read_small(
        &self,
        mut location: Location,
        max_bytes: usize,
        too_long: impl FnOnce() -> SourceError,
    ) -> Result<Vec<u8>, Failure> {
        let mut response = self
            .client
            .follow(&self.policy, Method::GET, &mut location, &HeaderMap::new())
            .await?;
        if response.status() != StatusCode::OK {
            return Err(refusal(&location, response).await);
        }
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| no_answer(&location, error))?
        {
            body.extend_from_slice(&chunk);
            if body.len() > max_bytes {
                return Err(too_long().into());
            }
        }
        Ok(body)
    }
}

/// `Content-Length` as the server wrote it, for answers to `HEAD` too.
fn announced_length(response: &Response) -> Option<u64> {
    header_text(response.headers(), header::CONTENT_LENGTH)?
        .parse()
        .ok()
}
