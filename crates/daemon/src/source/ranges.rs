//! One object, read in order by several ranges at once.
//!
//! ```text
//! tasks    [ range 3 ][ range 4 ][ range 5 ]   each: its own connection, budget and exact resume
//!              |          |          |
//! reader   takes the chunks of the head range only; when it ends, its place goes to range 6
//! ```
//!
//! A task buffers at most its own range, so memory is bounded by `range_bytes x in_flight`
//! however slow the consumer is. Dropping the reader aborts the tasks, and with them their
//! connections.
//!
//! A server that answers 200 without a `Content-Range` ignores ranges. The first such answer at
//! the head makes the reader give up all ranges and read the whole object once, front to back, on one
//! connection; if that is cut, it begins again and skips what was already delivered.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::error::{Result, SourceError, SourceErrorKind};
use super::fetch::{Fetch, Mode};
use super::{ObjectMeta, RangeOptions, Source};

/// Chunks that a whole-object answer may run ahead of its consumer; the HTTP library cuts chunks
/// of at most 400 KiB, mostly far smaller ones.
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
}

#[derive(Debug)]
struct Task {
    chunks: mpsc::Receiver<Result<Bytes>>,
    end: u64,
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
        Self {
            source,
            meta,
            options,
            position: range.start,
            unclaimed: range.start,
            end,
            tasks: VecDeque::new(),
        }
    }

    /// The next chunk, never empty; `None` after the last byte of the range, and after an error.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// First byte that was not delivered yet.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Keeps `in_flight` ranges under way.
    fn claim(&mut self) {
        let range_bytes = self.options.range_bytes.max(1);
        while self.unclaimed < self.end && self.tasks.len() < self.options.in_flight.max(1) {
            let start = self.unclaimed;
            self.unclaimed = self.end.min(start.saturating_add(range_bytes));
            // A chunk has at least one byte: the task never waits for its consumer.
            let capacity = self.unclaimed - start;
            self.spawn(start..self.unclaimed, Mode::Ranged, capacity);
        }
    }

    /// Gives up ranges: everything that is left comes from one plain request.
    fn read_whole(&mut self) {
        tracing::warn!(
            image_url = %self.meta.url,
            "The server ignores ranges; reading the object on one connection"
        );
        self.tasks.clear();
        self.unclaimed = self.end;
        self.spawn(self.position..self.end, Mode::Whole, WHOLE_CHUNKS as u64);
    }

    fn spawn(&mut self, range: Range<u64>, mode: Mode, capacity: u64) {
        let capacity = usize::try_from(capacity)
            .unwrap_or(usize::MAX)
            .min(tokio::sync::Semaphore::MAX_PERMITS);
        let (sender, chunks) = mpsc::channel(capacity);
        let (source, meta, end) = (self.source.clone(), Arc::clone(&self.meta), range.end);
        let mover = self.source.mover().clone();
        let handle = mover.spawn(async move {
            let mut fetch = Fetch::new(&source, &meta, range, mode);
            while let Some(chunk) = fetch.next().await.transpose() {
                let failed = chunk.is_err();
                // Without a receiver the reader is gone, and this task is being aborted.
                if sender.send(chunk).await.is_err() || failed {
                    return;
                }
            }
        });
        self.tasks.push_back(Task {
            chunks,
            end,
            _handle: AbortOnDropHandle::new(handle),
        });
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
            match ready!(head.chunks.poll_recv(context)) {
                Some(Ok(chunk)) => {
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
                None if head.end == self.position => {
                    self.tasks.pop_front();
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
