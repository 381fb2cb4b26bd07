//! What an object is, by requests that go out together where they do not need each other.

use std::sync::Arc;
use std::time::Instant;

use ::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use lvp_api::Checksum;
use reqwest::Response;

use super::checksums::{self, Checksums};
use super::error::{Result, SourceError, SourceErrorKind};
use super::evidence::SIGNATURES;
use super::http::{Location, header_text};
use super::opening::Reading;
use super::range_headers::{ContentRange, total_size};
use super::refusal::refusal;
use super::retry::{Failure, Observer};
use super::round::Together;
use super::{ImageUrl, Inner, ObjectMeta, Source};
use crate::config::SignaturePolicy;

/// What is wanted of an object when it is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Its size and version.
    Version,
    /// Its first bytes as well, for whoever reads it next.
    Bytes,
}

/// An answer to a request for an object.
struct Found {
    meta: ObjectMeta,
    /// The answer, if it has all of the object, and whether its server serves ranges.
    whole: Option<(Response, bool)>,
}

impl Source {
    /// Finds the object's size and version, following redirects.
    ///
    /// Sends a `HEAD` request. If that is refused (a URL pre-signed for `GET`) or its answer is not enough
    /// (error answers to `HEAD` have no body with the reason), a `GET` decides.
    pub async fn resolve(&self, url: &ImageUrl) -> Result<ObjectMeta> {
        let mut budget = self.budget();
        loop {
            match self.inner.resolve(url, self.observer()).await {
                Ok(meta) => {
                    budget.succeeded();
                    return Ok(meta);
                }
                Err(failure) => budget.pause(failure).await?,
            }
        }
    }

    /// Finds the object and the digests that it must have, by one round of requests. If its bytes are wanted, the
    /// request is the one for the bytes; with mirrors, which are asked for bytes first, it is not.
    ///
    /// If both fail, the object's error is returned: that of its checksum files may have the same reason.
    pub async fn find(
        &self,
        url: &ImageUrl,
        requested: Option<Checksum>,
        want: Want,
    ) -> Result<(ObjectMeta, Checksums)> {
        let signatures = match self.inner.trust.policy(&url.trust_name()) {
            SignaturePolicy::Off => 0,
            SignaturePolicy::Required | SignaturePolicy::IfPresent => SIGNATURES.len(),
        };
        let together = Arc::new(Together::new(1 + checksums::FILES.len() + signatures));
        let beside = Self {
            together: Some(Arc::clone(&together)),
            ..self.clone()
        };
        let checksums = beside.checksums(url, requested);
        let object = async {
            let found = match want {
                Want::Bytes if !self.has_mirrors() => self.open(url, &together).await?,
                Want::Bytes | Want::Version => self.resolve(url).await?,
            };
            together.found.cancel();
            Ok::<_, SourceError>(found)
        };
        tokio::pin!(object, checksums);
        let (mut object, checksums) = tokio::select! {
            biased;
            object = &mut object => (object?, checksums.await?),
            checksums = &mut checksums => (object.await?, checksums?),
        };
        object.most_at_once = together.most_at_once();
        Ok((object, checksums))
    }

    /// Finds the object by a request for all of it, and keeps its first bytes for the reader and the stream.
    async fn open(&self, url: &ImageUrl, together: &Arc<Together>) -> Result<ObjectMeta> {
        let gate = &together.gate;
        let mut budget = self.budget();
        loop {
            let mut place = budget.server(gate.enter()).await;
            let asked = together.asked();
            let found = self.inner.find(url, self.observer());
            match budget.server(found).await {
                Ok(Found { meta, whole }) => {
                    budget.succeeded();
                    together.answered(asked);
                    if let Some((response, serves_ranges)) = whole {
                        let reading = Reading {
                            source: self.clone(),
                            meta: meta.without_opening(),
                            together: Arc::clone(together),
                        };
                        (meta.opening).put(reading.begin(response, serves_ranges, place));
                    }
                    return Ok(meta);
                }
                Err(failure) => {
                    if failure.error.is_overload() {
                        together.refused();
                        gate.narrow(&mut place);
                    }
                    drop(place);
                    budget.pause(failure).await?;
                }
            }
        }
    }

    pub(super) fn observer(&self) -> Option<&dyn Observer> {
        self.observer.as_deref()
    }
}

impl Inner {
    async fn resolve(
        &self,
        url: &ImageUrl,
        observer: Option<&dyn Observer>,
    ) -> Result<ObjectMeta, Failure> {
        let mut location = Location::of(url);
        let none = HeaderMap::new();
        let head = self
            .client
            .follow(observer, &self.policy, Method::HEAD, &mut location, &none)
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
        let found = self.get(url, "bytes=0-0", observer).await?;
        Ok(found.meta)
    }

    /// Asks for all of the object. Some servers refuse a range without an end, or do not tell the size in their
    /// answer, and tell it to `HEAD`.
    async fn find(
        &self,
        url: &ImageUrl,
        observer: Option<&dyn Observer>,
    ) -> Result<Found, Failure> {
        match self.get(url, "bytes=0-", observer).await {
            Err(failure) if may_be_the_range(&failure.error) => {
                let meta = self.resolve(url, observer).await?;
                Ok(Found { meta, whole: None })
            }
            found => found,
        }
    }

    async fn get(
        &self,
        url: &ImageUrl,
        range: &'static str,
        observer: Option<&dyn Observer>,
    ) -> Result<Found, Failure> {
        let mut location = Location::of(url);
        let range = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static(range))]);
        let asked = Instant::now();
        let response = self
            .client
            .follow(observer, &self.policy, Method::GET, &mut location, &range)
            .await?;
        let took = asked.elapsed();
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
            let range = header_text(response.headers(), header::CONTENT_RANGE);
            let range = range.map_or_else(String::new, |range| {
                format!("; its answer has the Content-Range {range:?}")
            });
            Failure::passing(SourceError::new(
                SourceErrorKind::Protocol,
                format!("The server does not report the size of {url}{range}"),
            ))
        })?;
        let meta = ObjectMeta::read(url, location, size, response.headers())?;
        meta.pace.answered(took);
        let whole = whole_of(&response, size).map(|serves_ranges| (response, serves_ranges));
        Ok(Found { meta, whole })
    }
}

/// Whether another request for the object may succeed: this one lacks the size, or its range was refused.
fn may_be_the_range(error: &SourceError) -> bool {
    match error.status() {
        None => error.kind() == SourceErrorKind::Protocol,
        Some(401 | 403 | 404 | 408 | 429) => false,
        Some(status) => status == 501 || (400..500).contains(&status),
    }
}

/// Whether the server serves ranges, if this answer is all of an object of this size and says so in full.
fn whole_of(response: &Response, size: u64) -> Option<bool> {
    let is_whole = size > 0 && response.content_length() == Some(size);
    if !is_whole {
        return None;
    }
    let range = header_text(response.headers(), header::CONTENT_RANGE);
    match (response.status(), range) {
        // Some ignore a range of the whole object only. Of those that ignore others too, the first one shows that.
        (StatusCode::OK, None) => {
            let accepted = header_text(response.headers(), header::ACCEPT_RANGES);
            Some(accepted.is_some_and(|unit| unit.trim().eq_ignore_ascii_case("bytes")))
        }
        (StatusCode::OK | StatusCode::PARTIAL_CONTENT, Some(range)) => {
            let found = ContentRange::parse(range)?;
            (found.first == 0 && found.last + 1 == size && found.total == Some(size))
                .then_some(true)
        }
        _ => None,
    }
}

/// `Content-Length` as the server wrote it, for answers to `HEAD` too.
fn announced_length(response: &Response) -> Option<u64> {
    header_text(response.headers(), header::CONTENT_LENGTH)?
        .parse()
        .ok()
}
