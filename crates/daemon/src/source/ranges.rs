//! One object, read in order by several ranges at once.
//!
//! ```text
//! tasks    [ range 3 ][ range 4 ][ range 5 ]   each: its own connection, budget and exact resume
//!              |          |          |
//! reader   takes the chunks of the head range only; when it ends, its place goes to range 6
//! ```
//!
//! A task buffers at most its own range, and of a large one at most its share of the window (`pace.rs`): then it stops
//! reading until the reader has come to it. So memory is bounded however slow the consumer is, and however small the
//! chunks are in which the server sends (`queue.rs`). Dropping the reader aborts the tasks, and with them their
//! connections.
//!
//! A server that answers 200 without a `Content-Range` ignores ranges. The first such answer at the head makes
//! the reader abandon all ranges and read the whole object once, front to back, on one connection; if that is
//! cut, it begins again and skips what was already delivered. An object whose versions cannot be distinguished
//! is read this way from the start, and a cut is an error.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::error::{Result, SourceError, SourceErrorKind};
use super::fetch::{Fetch, Mode};
use super::gate::Gate;
use super::opening::{Early, Opening};
use super::pace::{Controller, Shape, WINDOW_BYTES, range_end};
use super::queue::{Ahead, range_queue};
use super::{ObjectMeta, RangeOptions, Source};

/// Chunks by which a whole-object answer may be ahead of its consumer; the HTTP library's chunks have at most
/// 400 KiB, and mostly far less.
const WHOLE_CHUNKS: usize = 32;

/// Chunks of an object, strictly in order, without gaps or overlaps.
#[derive(Debug)]
pub struct RangeReader {
    source: Source,
    meta: Arc<ObjectMeta>,
    options: RangeOptions,
    /// First byte that was not delivered yet.
    position: u64,
    /// First byte that no task was started for.
    unclaimed: u64,
    end: u64,
    tasks: VecDeque<Task>,
    gate: Arc<Gate>,
    /// Decides sizes and numbers, where they are measured.
    controller: Option<Controller>,
    /// Since when the reader has waited for the head range.
    waiting_since: Option<Instant>,
    /// The first range's first bytes, and the answer that goes on after them.
    opening: Option<Opening>,
}

#[derive(Debug)]
struct Task {
    chunks: mpsc::Receiver<Result<Bytes>>,
    start: u64,
    end: u64,
    ahead: Arc<Ahead>,
    _handle: AbortOnDropHandle<()>,
}

impl RangeReader {
    pub(super) fn new(
        source: Source,
        meta: Arc<ObjectMeta>,
        range: Range<u64>,
        options: RangeOptions,
    ) -> Self {
        let end = range.end.min(meta.size);
        // Who begins elsewhere needs no first bytes any more.
        let opening = meta.opening.take().filter(|_| range.start == 0);
        let in_flight = meta
            .most_at_once
            .map_or(options.in_flight, |most| most.min(options.in_flight));
        Self {
            source,
            meta,
            options,
            position: range.start,
            unclaimed: range.start,
            end,
            tasks: VecDeque::new(),
            gate: Arc::new(Gate::new(in_flight)),
            controller: (options.is_measured).then(|| Controller::new(in_flight, Instant::now())),
            waiting_since: None,
            opening,
        }
    }

    /// The whole object by one request.
    pub(super) fn once(source: Source, meta: Arc<ObjectMeta>) -> Self {
        let all = 0..meta.size;
        let mut reader = Self::new(source, meta, all.clone(), RangeOptions::default());
        reader.unclaimed = all.end;
        if !all.is_empty() {
            let opening = reader.opening.take();
            reader.read_on_one_connection(all, Mode::Once, opening);
        }
        reader
    }

    /// The next chunk, never empty; `None` after the last byte of the range, and after an error.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// First byte that was not delivered yet.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Keeps `in_flight` ranges in progress.
    fn claim(&mut self) {
        while self.unclaimed < self.end {
            if let Some((bytes, took)) = self.opening.as_ref().and_then(Opening::measured) {
                self.meta.pace.received(bytes, took);
            }
            let shape = match &mut self.controller {
                Some(controller) => controller.next(&self.meta.pace),
                None => {
                    let width = self.options.in_flight.max(1);
                    Shape {
                        range_bytes: self.options.range_bytes.max(1),
                        width,
                        ahead_bytes: WINDOW_BYTES / width as u64,
                    }
                }
            };
            if self.tasks.len() >= shape.width {
                return;
            }
            let start = self.unclaimed;
            let mut end = match self.controller {
                Some(_) => range_end(start, shape.range_bytes),
                None => start.saturating_add(shape.range_bytes),
            };
            let opening = self.opening.take();
            if let Some(opening) = &opening {
                end = opening.range_end(end, self.meta.size);
            }
            self.unclaimed = self.end.min(end);
            self.read_range(start..self.unclaimed, shape.ahead_bytes, opening);
        }
    }

    /// Abandons ranges: everything that is left comes from one plain request.
    fn read_whole(&mut self) {
        tracing::warn!(
            image_url = %self.meta.url,
            "The server ignores ranges; reading the object on one connection"
        );
        self.tasks.clear();
        self.unclaimed = self.end;
        self.read_on_one_connection(self.position..self.end, Mode::Whole, None);
    }

    /// Fetches a range completely, whether or not it is read yet.
    fn read_range(&mut self, range: Range<u64>, ahead_bytes: u64, opening: Option<Opening>) {
        let length = range.end - range.start;
        let (mut sender, chunks) = range_queue(length.min(ahead_bytes));
        let (source, meta) = (self.source.clone(), Arc::clone(&self.meta));
        let (gate, ahead) = (Arc::clone(&self.gate), Arc::<Ahead>::default());
        let held = Arc::clone(&ahead);
        self.spawn((range.clone(), chunks, ahead), async move {
            let through = Arc::clone(&gate);
            let mut fetch = Fetch::new(&source, &meta, range, Mode::Ranged).through(through);
            let mut first_byte = None;
            // What came before the reader was measured there.
            let mut has_stood_still = opening.is_some();
            let mut early = Early::default();
            if let Some(opening) = opening {
                let place = gate.enter().await;
                let begun = opening.go_on().await;
                // Without a tag the opening could not be continued after a cut; with a known digest, the range can be.
                // An error at the object's end is one of the whole answer.
                let is_wanted = match begun.bytes {
                    bytes if bytes == meta.size => true,
                    bytes => bytes < length && meta.strong_validator().is_some(),
                };
                // What has passed since then may have ended by now.
                let is_over = |error: &SourceError| error.is_transient() && begun.bytes < meta.size;
                let error = begun.error.filter(|error| is_wanted && !is_over(error));
                early = Early::of(begun.chunks, length, error);
                fetch = fetch.going_on(begun.bytes, begun.answer, place);
            }
            // Without a receiver the reader is gone, and this task is being aborted.
            let ended = loop {
                let next = match early.next() {
                    Some(chunk) => chunk.map(Some),
                    None => fetch.next().await,
                };
                match next {
                    Ok(Some(chunk)) => {
                        first_byte.get_or_insert_with(Instant::now);
                        held.add(chunk.len());
                        if sender.push(chunk).is_err() {
                            return;
                        }
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
                // A range that fits into its share is received whole, whether or not it is read.
                while length > ahead_bytes && held.is_full(ahead_bytes) {
                    has_stood_still = true;
                    if gate.is_narrow() {
                        fetch.let_go();
                        held.fewer().await;
                    } else {
                        tokio::select! {
                            () = held.fewer() => {}
                            () = gate.narrows() => {}
                        }
                    }
                    // What waits has to be taken before there can be fewer.
                    if sender.hand_on().is_err() {
                        return;
                    }
                }
            };
            if let (Ok(()), Some(began), false) = (&ended, first_byte, has_stood_still) {
                meta.pace.received(length, began.elapsed());
            }
            sender.finish(ended).await.ok();
        });
    }

    /// Fetches by requests for the whole object, no faster than it is read.
    fn read_on_one_connection(&mut self, range: Range<u64>, mode: Mode, opening: Option<Opening>) {
        let (sender, chunks) = mpsc::channel(WHOLE_CHUNKS);
        let (source, meta) = (self.source.clone(), Arc::clone(&self.meta));
        let ahead = Arc::<Ahead>::default();
        let held = Arc::clone(&ahead);
        self.spawn((range.clone(), chunks, ahead), async move {
            let mut fetch = Fetch::new(&source, &meta, range, mode);
            let mut early = Early::default();
            if let Some(opening) = opening
                && let Some(begun) = opening.go_on().await.of_one_answer(meta.size)
            {
                early = Early::of(begun.chunks, meta.size, begun.error);
                fetch = fetch.going_on(begun.bytes, begun.answer, None);
            }
            loop {
                let next = match early.next() {
                    Some(chunk) => Some(chunk),
                    None => fetch.next().await.transpose(),
                };
                let Some(chunk) = next else {
                    return;
                };
                let failed = chunk.is_err();
                held.add(chunk.as_ref().map_or(0, Bytes::len));
                if sender.send(chunk).await.is_err() || failed {
                    return;
                }
            }
        });
    }

    fn spawn(
        &mut self,
        (range, chunks, ahead): (Range<u64>, mpsc::Receiver<Result<Bytes>>, Arc<Ahead>),
        fetching: impl Future<Output = ()> + Send + 'static,
    ) {
        let handle = self.source.mover().spawn(fetching);
        self.tasks.push_back(Task {
            chunks,
            start: range.start,
            end: range.end,
            ahead,
            _handle: AbortOnDropHandle::new(handle),
        });
    }

    fn is_head_done(&self) -> bool {
        let head = self.tasks.front();
        head.is_some_and(|head| head.end == self.position)
    }

    fn stop(&mut self) {
        self.tasks.clear();
        self.end = self.position;
        self.unclaimed = self.end;
    }
}

impl Stream for RangeReader {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            self.claim();
            let Some(head) = self.tasks.front_mut() else {
                return Poll::Ready(None);
            };
            let polled = head.chunks.poll_recv(context);
            if polled.is_pending() {
                self.waiting_since.get_or_insert_with(Instant::now);
                return Poll::Pending;
            }
            let waited = self.waiting_since.take().map(|since| since.elapsed());
            if let (Some(controller), Some(waited)) = (&mut self.controller, waited) {
                controller.waited(waited);
            }
            match ready!(polled) {
                Some(Ok(chunk)) => {
                    if let Some(head) = self.tasks.front() {
                        head.ahead.taken(chunk.len());
                    }
                    self.position += chunk.len() as u64;
                    return Poll::Ready(Some(Ok(chunk)));
                }
                Some(Err(error)) if error.kind() == SourceErrorKind::RangesIgnored => {
                    self.read_whole();
                }
                Some(Err(error)) => {
                    self.stop();
                    return Poll::Ready(Some(Err(error)));
                }
                None if self.is_head_done() => {
                    let done = self.tasks.pop_front();
                    if let (Some(controller), Some(done)) = (&mut self.controller, done) {
                        controller.ended(done.end - done.start, Instant::now());
                    }
                }
                None => {
                    // Only a runtime that shuts down ends a task before its range.
                    let error = SourceError::new(
                        SourceErrorKind::Cancelled,
                        format!("Reading {} was interrupted by a shutdown", self.meta.url),
                    );
                    self.stop();
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}
