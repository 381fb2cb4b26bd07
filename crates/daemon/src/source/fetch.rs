//! One range of one object on one connection: resumed at the exact byte at which it was cut off, and never
//! mixed from two versions of the object.
//!
//! Every request carries `If-Match`, and every answer is checked as if the server had ignored it:
//! status, `Content-Range`, lengths, `ETag` (or `Last-Modified`, where there is no tag). An answer that
//! is longer than it may be is an error, whether a header says so or only its body does.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::Response;

use super::error::{Result, SourceError, SourceErrorKind};
use super::gate::{Gate, Place};
use super::http::{header_text, no_answer};
use super::limit::ReadLimit;
use super::mirrors::{Mirror, Route};
use super::opening::Answer;
use super::range_headers::{ContentRange, byte_range};
use super::refusal::refusal;
use super::retry::{Budget, Failure};
use super::{Inner, ObjectMeta, Source};

/// How the bytes are requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// By `Range`; what was received is not requested again.
    Ranged,
    /// The whole object, for servers that ignore `Range`; after a cut, it is read again from the start and the
    /// received part is skipped.
    Whole,
    /// The whole object by one request: it is unknown whether the answer to another one would be of the same
    /// version, so a cut is final.
    Once,
}

/// Yields the bytes of one range.
pub(super) struct Fetch<'a> {
    inner: &'a Inner,
    limit: Option<&'a ReadLimit>,
    meta: &'a ObjectMeta,
    mode: Mode,
    /// Which place is asked.
    route: Route<'a>,
    /// First byte of the range.
    begin: u64,
    /// What has not been yielded yet.
    left: Range<u64>,
    answer: Option<Answer>,
    budget: Budget<'a>,
    gate: Option<Arc<Gate>>,
    /// The answer's permit of the gate.
    place: Place,
}

impl<'a> Fetch<'a> {
    pub(super) fn new(
        source: &'a Source,
        meta: &'a ObjectMeta,
        range: Range<u64>,
        mode: Mode,
    ) -> Self {
        let mut route = Route::new(&source.inner.mirrors, &source.detours, meta);
        if mode != Mode::Ranged {
            route.close();
        }
        Self {
            inner: &source.inner,
            limit: source.limit.as_deref(),
            meta,
            mode,
            route,
            begin: range.start,
            left: range,
            answer: None,
            budget: source.budget(),
            gate: None,
            place: None,
        }
    }

    /// Limits its requests together with the others of the same gate.
    pub(super) fn through(mut self, gate: Arc<Gate>) -> Self {
        self.gate = Some(gate);
        self
    }

    /// Goes on at this offset, with an answer that was read up to it.
    pub(super) fn going_on(mut self, offset: u64, answer: Option<Answer>, place: Place) -> Self {
        self.left.start = offset;
        self.answer = answer;
        self.place = place;
        self
    }

    /// The answer that is being read, for another fetch to go on with.
    pub(super) fn into_answer(self) -> Option<Answer> {
        self.answer
    }

    /// Ends the request, and gives its place to others. What is left is requested again when it is wanted.
    pub(super) fn let_go(&mut self) {
        self.answer = None;
        self.place = None;
    }

    /// The next chunk, never empty; `None` after the last one. Retries within its own budget.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        while !self.left.is_empty() {
            match self.attempt().await {
                Ok(chunk) => {
                    self.budget.succeeded();
                    self.budget.received(length(&chunk));
                    self.left.start += length(&chunk);
                    return Ok(Some(chunk));
                }
                Err(failure) if self.mode == Mode::Once && self.left.start > self.begin => {
                    return Err(self.broken_off(failure.error));
                }
                Err(failure) if self.route.failed(&failure.error) => self.answer = None,
                Err(failure) => {
                    self.answer = None;
                    if failure.error.is_overload()
                        && let Some(gate) = &self.gate
                    {
                        gate.narrow(&mut self.place);
                    }
                    self.place = None;
                    self.budget.pause(failure).await?;
                }
            }
        }
        // Waiting for the end of the answer must not delay the range that is read first.
        self.place = None;
        match self.answer.take() {
            Some(answer) => match self.check_end(answer).await {
                // All that was asked for has arrived.
                Err(error) if self.route.failed(&error) => Ok(None),
                ended => ended.map(|()| None),
            },
            None => Ok(None),
        }
    }

    /// Checks that an answer ends where it should: without a `Content-Length`, only its end shows that.
    async fn check_end(&self, answer: Answer) -> Result<()> {
        let mut response = answer.response;
        // Only a part of an answer to the object's end was wanted, or the announced length has arrived.
        if answer.is_to_end && answer.offset < self.meta.size
            || response.content_length() == Some(0)
        {
            return Ok(());
        }
        loop {
            let chunk = response.chunk().await;
            match chunk.map_err(|error| no_answer(&self.meta.location, error).error)? {
                None => return Ok(()),
                Some(more) if more.is_empty() => {}
                Some(_) => return Err(self.too_long().error),
            }
        }
    }

    fn too_long(&self) -> Failure {
        match self.mode {
            Mode::Ranged => Failure::passing(self.error(
                SourceErrorKind::Protocol,
                "has more bytes than were requested",
            )),
            Mode::Whole | Mode::Once => self.changed(&format!(
                "it has more than the announced {} bytes",
                self.meta.size
            )),
        }
    }

    fn broken_off(&self, cause: SourceError) -> SourceError {
        SourceError::new(
            cause.kind(),
            format!(
                "The download of {} was cut off after {} of {} bytes; without a strong ETag or a \
                 .sha256 object it cannot be continued",
                self.meta.url, self.left.start, self.meta.size
            ),
        )
        .with_source(cause)
    }

    async fn attempt(&mut self) -> Result<Bytes, Failure> {
        let Answer {
            mut response,
            mut offset,
            is_to_end,
        } = match self.answer.take() {
            Some(answer) => answer,
            None => {
                if let (Some(gate), None) = (&self.gate, &self.place) {
                    self.place = self.budget.server(gate.enter()).await;
                }
                let mirror = self.route.choose();
                self.budget.server(self.open(mirror)).await?
            }
        };
        loop {
            let asked = Instant::now();
            let chunk = self.budget.server(response.chunk()).await;
            let chunk = chunk.map_err(|error| no_answer(&self.meta.location, error))?;
            let Some(mut chunk) = chunk else {
                return Err(Failure::passing(self.error(
                    SourceErrorKind::Unavailable,
                    "ended before its announced length",
                )));
            };
            self.inner
                .client
                .counters
                .received_bytes
                .fetch_add(length(&chunk), Ordering::Relaxed);
            self.route.received(length(&chunk), asked.elapsed())?;
            for limit in [self.limit, self.inner.limit.as_ref()]
                .into_iter()
                .flatten()
            {
                self.budget.limit(limit.take(chunk.len())).await;
            }
            if let Some(network) = &self.inner.network {
                self.budget.give_way(network.take(chunk.len())).await;
            }
            let start = offset;
            offset += length(&chunk);
            // Only a whole-object answer begins before what is left.
            let skipped = self.left.start.saturating_sub(start);
            if skipped >= length(&chunk) {
                continue;
            }
            chunk = chunk.slice(index(skipped)..);
            if offset > self.left.end {
                if !is_to_end || offset > self.meta.size {
                    return Err(self.too_long());
                }
                // The answer goes on to the object's end, and only a part was wanted.
                chunk.truncate(index(self.left.end - self.left.start));
            }
            self.answer = Some(Answer {
                response,
                offset,
                is_to_end,
            });
            return Ok(chunk);
        }
    }

    async fn open(&self, mirror: Option<&Mirror>) -> Result<Answer, Failure> {
        let mut headers = match_version(self.meta);
        if self.mode == Mode::Ranged {
            headers.insert(header::RANGE, byte_range(&self.left));
        }
        let asked = Instant::now();
        let response = self
            .inner
            .client
            .send_to(
                self.budget.observer(),
                mirror,
                Method::GET,
                &self.meta.location,
                headers,
            )
            .await?;
        if response.status().is_success() {
            self.meta.pace.answered(asked.elapsed());
        }
        // Some S3 servers (rclone's, lakeFS, older versitygw) serve the range with status 200. That
        // is taken for a range if Content-Range and Content-Length say so in full.
        let is_range = response.headers().contains_key(header::CONTENT_RANGE)
            && response.content_length().is_some();
        match (self.mode, response.status()) {
            (Mode::Ranged, status)
                if status == StatusCode::PARTIAL_CONTENT
                    || status == StatusCode::OK && is_range =>
            {
                self.check_version(&response)?;
                self.check_range(&response)?;
                Ok(Answer {
                    response,
                    offset: self.left.start,
                    is_to_end: self.left.end == self.meta.size,
                })
            }
            (Mode::Ranged, StatusCode::OK) => Err(Failure::last(self.error(
                SourceErrorKind::RangesIgnored,
                "ignores the requested range",
            ))),
            (Mode::Whole | Mode::Once, StatusCode::OK) => {
                self.check_version(&response)?;
                self.check_length(&response, 0..self.meta.size)?;
                Ok(Answer {
                    response,
                    offset: 0,
                    is_to_end: true,
                })
            }
            (_, status) if status.is_success() => Err(Failure::passing(self.error(
                SourceErrorKind::Protocol,
                &format!("has the unexpected status {status}"),
            ))),
            _ => Err(refusal(&self.meta.location, response).await),
        }
    }

    fn check_version(&self, response: &Response) -> Result<(), Failure> {
        let (name, expected) = match (&self.meta.etag, &self.meta.last_modified) {
            (Some(etag), _) => (header::ETAG, etag),
            (None, Some(date)) => (header::LAST_MODIFIED, date),
            (None, None) => return Ok(()),
        };
        match header_text(response.headers(), name.clone()) {
            Some(found) if found == expected => Ok(()),
            Some(found) => Err(self.changed(&format!("its {name} is {found} and was {expected}"))),
            None => Err(Failure::passing(self.error(
                SourceErrorKind::Protocol,
                &format!("lacks the {name} that the object has"),
            ))),
        }
    }

    fn check_range(&self, response: &Response) -> Result<(), Failure> {
        let text = header_text(response.headers(), header::CONTENT_RANGE);
        let Some(found) = text.and_then(ContentRange::parse) else {
            return Err(Failure::passing(self.error(
                SourceErrorKind::Protocol,
                &format!("has the Content-Range {:?}", text.unwrap_or_default()),
            )));
        };
        if let Some(total) = found.total
            && total != self.meta.size
        {
            return Err(self.changed(&format!("it has {total} bytes and had {}", self.meta.size)));
        }
        // A server may send less than was requested, but must begin at the requested byte.
        if found.first != self.left.start || found.last >= self.left.end {
            return Err(Failure::passing(self.error(
                SourceErrorKind::Protocol,
                &format!("is for the bytes {}-{}", found.first, found.last),
            )));
        }
        self.check_length(response, found.first..found.last + 1)
    }

    fn check_length(&self, response: &Response, range: Range<u64>) -> Result<(), Failure> {
        let expected = range.end - range.start;
        match response.content_length() {
            Some(found) if found != expected && self.mode != Mode::Ranged => {
                Err(self.changed(&format!("it has {found} bytes and had {expected}")))
            }
            Some(found) if found != expected => Err(Failure::passing(self.error(
                SourceErrorKind::Protocol,
                &format!("announces {found} bytes for a range of {expected}"),
            ))),
            _ => Ok(()),
        }
    }

    fn error(&self, kind: SourceErrorKind, what: &str) -> SourceError {
        let Range { start, end } = &self.left;
        SourceError::new(
            kind,
            format!(
                "The answer for bytes {start:#x}..{end:#x} of {} {what}",
                self.meta.location
            ),
        )
    }

    fn changed(&self, how: &str) -> Failure {
        Failure::last(SourceError::new(
            SourceErrorKind::ObjectChanged,
            format!("{} was replaced while it was read: {how}", self.meta.url),
        ))
    }
}

/// Requests the resolved version only. Weak tags never match, and are only compared in the answer.
fn match_version(meta: &ObjectMeta) -> HeaderMap {
    let tag = meta.strong_validator();
    let value = tag.and_then(|tag| HeaderValue::from_str(tag).ok());
    HeaderMap::from_iter(value.map(|value| (header::IF_MATCH, value)))
}

fn length(chunk: &Bytes) -> u64 {
    chunk.len() as u64
}

/// An offset within a chunk, which is in memory.
fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
