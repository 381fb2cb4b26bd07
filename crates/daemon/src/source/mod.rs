//! Image bytes from object storage and, where the configuration allows, plain HTTP hosts.
//!
//! ```text
//! text --parse_url--> ImageUrl --find--> ObjectMeta --read_ranges--> chunks in order
//!   url.rs: no packet     |   HEAD or GET    |         ranges.rs + fetch.rs
//!                         |                  +-reader--> ReadAt for the image crate
//!                         +--checksums--> digests        reader.rs
//! ```
//!
//! # Who owns what
//!
//! - [`url`] decides which hosts are contacted, before any name lookup; redirects are checked the same way.
//!   They are followed once, by [`Source::find`]: the [`ObjectMeta`] has the location where they ended.
//! - `resolve` sends what does not need each other together: the request for the object and those for the files
//!   beside it. If its bytes are wanted, they come with the answer that says what the object is (`opening`).
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
mod opening;
mod pace;
mod queue;
mod range_headers;
mod ranges;
mod reader;
mod record;
mod refusal;
mod resolve;
mod retry;
mod round;
mod settings;
mod small;
mod sums;
mod trust;
pub mod url;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use checksums::{Checksums, is_checksum_file, own_checksum_files};
pub use credentials::Lender;
pub use error::{Result, SourceError, SourceErrorKind};
use http::Client;
pub use http::Counters;
pub use limit::ReadLimit;
pub use listing::{ListedObject, Listing};
pub use look::Look;
use lvp_image::copy::RateLimiter;
pub use mirrors::MirrorCounters;
use mirrors::{Detours, Mirrors};
use mover::Mover;
pub use object::ObjectMeta;
pub use ranges::RangeReader;
pub use reader::RemoteReader;
pub use record::PlanCheck;
pub use resolve::Want;
use retry::Budget;
pub use retry::{Observer, RequestId, WaitReason};
use round::Together;
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
    /// What its requests go out together with.
    together: Option<Arc<Together>>,
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
    /// What others on the network leave room for.
    network: Option<ReadLimit>,
    trust: Trust,
    parallel_ranges: usize,
}

impl Source {
    /// Checks the settings and loads the certificates; sends nothing.
    pub fn new(settings: &SourceSettings) -> Result<Self> {
        Self::yielding(settings, None)
    }

    /// The same, with a rate of all reads that somebody else sets as others need the network.
    pub fn yielding(settings: &SourceSettings, network: Option<Arc<RateLimiter>>) -> Result<Self> {
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
            network: network.map(ReadLimit::shared),
            trust: settings.trust.clone(),
            parallel_ranges: settings.parallel_ranges,
        };
        Ok(Self {
            inner: Arc::new(inner),
            observer: None,
            detours: Arc::default(),
            together: None,
            limit: None,
        })
    }

    /// The same source, which tells this observer how its requests fare.
    pub fn observed(&self, observer: Arc<dyn Observer>) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            observer: Some(observer),
            detours: Arc::default(),
            together: None,
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
