//! The beginning of an object, which comes with the answer by which the object is found.
//!
//! ```text
//! find: GET bytes=0- --> size and version ----> cache, plan, volume
//!          |                                      ^
//!          '--> the first 4 MiB, kept here -------+----> the stream, which goes on with the same answer
//! ```
//!
//! All of the object is asked for, as only the answer shows how long the server needs for a request and how fast it
//! sends. The stream decides from that how far it reads this answer: to the object's end where further requests
//! would be slower, otherwise to the end of the first range. Until it decides, no more than [`BUFFER_BYTES`] are read.
//!
//! Metadata and bytes are of one answer. After a cut, the rest is requested as that of any range is, of the
//! same version only.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::error::{Result, SourceError};
use super::fetch::{Fetch, Mode};
use super::gate::Place;
use super::pace::{FIRST_RANGE_BYTES, MAX_STANDSTILL, MIN_RANGE_BYTES};
use super::reader::BLOCK_BYTES;
use super::round::{Together, Unanswered, Waiting};
use super::{ObjectMeta, Source};

/// How much is read before the stream begins.
pub(super) const BUFFER_BYTES: u64 = FIRST_RANGE_BYTES;

/// How long other requests may wait for the end of one that stands still, or twice as long as this one had to wait: some
/// servers serve one at a time, and have the others wait.
const PATIENCE: Duration = Duration::from_secs(2);

/// An answer that is being read.
pub(super) struct Answer {
    pub(super) response: Response,
    /// The object's offset of its next byte.
    pub(super) offset: u64,
    /// Whether it goes on to the object's end, of which only a part may be wanted.
    pub(super) is_to_end: bool,
}

/// Without the response, which has the URL with its signature.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

/// Where an object's opening is until the stream takes it.
#[derive(Debug, Default)]
pub(super) struct OpeningSlot(Mutex<Option<Opening>>);

/// The beginning of an object. Dropping it ends the request.
#[derive(Debug)]
pub(super) struct Opening {
    shared: Arc<Shared>,
    /// How much of the object is kept.
    pub(super) end: u64,
    /// Whether the server has shown that it serves ranges.
    pub(super) serves_ranges: bool,
    /// The requests that are kept waiting if the server serves one at a time.
    waiting: Arc<Waiting>,
    task: AbortOnDropHandle<Begun>,
}

#[derive(Debug, Default)]
struct Shared {
    kept: watch::Sender<Kept>,
    /// The stream goes on with the answer.
    wanted: CancellationToken,
}

#[derive(Debug, Default)]
struct Kept {
    /// Of [`BLOCK_BYTES`] each, the object's last one excepted.
    blocks: Vec<Bytes>,
    bytes: u64,
    /// Bytes that came after the first chunk, and how long they took.
    measured: Option<(u64, Duration)>,
    /// There will not be more.
    is_over: bool,
}

/// What a stream goes on with.
#[derive(Debug, Default)]
pub(super) struct Begun {
    /// The object's first bytes.
    pub(super) chunks: Vec<Bytes>,
    /// How many these are.
    pub(super) bytes: u64,
    pub(super) answer: Option<Answer>,
    /// Why there are no more.
    pub(super) error: Option<SourceError>,
}

/// Reads an answer until the stream wants it.
pub(super) struct Reading {
    pub(super) source: Source,
    pub(super) meta: ObjectMeta,
    pub(super) together: Arc<Together>,
}

impl OpeningSlot {
    pub(super) fn put(&self, opening: Opening) {
        *self.lock() = Some(opening);
    }

    /// The opening, for the stream; once.
    pub(super) fn take(&self) -> Option<Opening> {
        self.lock().take()
    }

    /// Bytes of the opening, as soon as they are there. None if it has none, or will never have these.
    pub(super) async fn read(&self, range: &Range<u64>) -> Option<Vec<u8>> {
        let mut kept = {
            let opening = self.lock();
            let opening = opening.as_ref().filter(|found| range.end <= found.end)?;
            opening.shared.kept.subscribe()
        };
        let has_come = |kept: &Kept| kept.is_over || kept.bytes >= range.end;
        let kept = kept.wait_for(has_come).await.ok()?;
        kept.copy(range)
    }

    /// Another request for the object is sent, as long as the result is held.
    pub(super) fn waits(&self) -> Option<Unanswered> {
        self.lock().as_ref().map(|opening| opening.waiting.begin())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Opening>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opening {
    /// What was measured of the connection until now.
    pub(super) fn measured(&self) -> Option<(u64, Duration)> {
        self.shared.kept.borrow().measured
    }

    /// Where the first range ends that this is the beginning of, if a range of its own would end here.
    pub(super) fn range_end(&self, end: u64, size: u64) -> u64 {
        let kept = self.shared.kept.borrow().bytes.min(self.end);
        let end = end.max(kept.next_multiple_of(MIN_RANGE_BYTES));
        // A further request for so little would take longer.
        let is_rest_small = size.saturating_sub(end) < BUFFER_BYTES;
        if is_rest_small || !self.serves_ranges {
            size
        } else {
            end
        }
    }

    /// What has come, and the answer to go on with.
    pub(super) async fn go_on(self) -> Begun {
        self.shared.wanted.cancel();
        // Only a runtime that shuts down ends the task early.
        self.task.await.unwrap_or_default()
    }
}

/// Bytes that were there before the stream, and the error that came after them.
#[derive(Debug, Default)]
pub(super) struct Early {
    chunks: VecDeque<Bytes>,
    left: u64,
    error: Option<SourceError>,
}

impl Early {
    /// At most so many bytes.
    pub(super) fn of(chunks: Vec<Bytes>, bytes: u64, error: Option<SourceError>) -> Self {
        Self {
            chunks: chunks.into(),
            left: bytes,
            error,
        }
    }

    /// The next chunk, then the error.
    pub(super) fn next(&mut self) -> Option<Result<Bytes>> {
        match self.chunks.pop_front() {
            Some(mut chunk) if self.left > 0 => {
                chunk.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= chunk.len() as u64;
                Some(Ok(chunk))
            }
            _ => self.error.take().map(Err),
        }
    }
}

impl Begun {
    /// The same, if all of it and what is to come is from one answer.
    pub(super) fn of_one_answer(self, size: u64) -> Option<Self> {
        let is_one = self.answer.is_some() || self.error.is_some() || self.bytes == size;
        is_one.then_some(self)
    }
}

impl Reading {
    /// Begins to read an answer of the whole object.
    pub(super) fn begin(self, response: Response, serves_ranges: bool, place: Place) -> Opening {
        let shared = Arc::<Shared>::default();
        // What is read before the stream begins must not take the plan's share of a limited rate.
        let is_limited = self.source.inner.limit.is_some() || self.source.limit.is_some();
        let end = match is_limited {
            true => self.meta.size.min(BLOCK_BYTES),
            false => self.meta.size.min(BUFFER_BYTES),
        };
        let answer = Answer {
            response,
            offset: 0,
            is_to_end: true,
        };
        let mover = self.source.mover().clone();
        let waiting = Arc::clone(&self.together.waiting);
        self.together.set_opening_read(true);
        let reading = self.run(answer, place, Arc::clone(&shared), end);
        Opening {
            shared,
            end,
            serves_ranges,
            waiting,
            task: AbortOnDropHandle::new(mover.spawn(reading)),
        }
    }

    async fn run(self, answer: Answer, place: Place, shared: Arc<Shared>, end: u64) -> Begun {
        let Self {
            source,
            meta,
            together,
        } = self;
        let gate = &together.gate;
        let size = meta.size;
        let mode = match meta.strong_validator() {
            Some(_) => Mode::Ranged,
            None => Mode::Once,
        };
        let mut fetch = Fetch::new(&source, &meta, 0..size, mode)
            .through(Arc::clone(gate))
            .going_on(0, Some(answer), place);
        let mut filling = Filling::default();
        let ended = loop {
            // At the object's end it is checked that the answer ends as well.
            if filling.bytes >= end && filling.bytes < size || shared.wanted.is_cancelled() {
                break Ok(());
            }
            match fetch.next().await {
                Ok(Some(chunk)) => filling.add(&chunk, size, &shared.kept),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        shared.kept.send_modify(|kept| kept.is_over = true);
        if ended.is_err() || filling.bytes == size {
            together.set_opening_read(false);
        }
        // Servers and firewalls permit a standstill for a while only, and one that serves few connections needs this one.
        tokio::select! {
            () = shared.wanted.cancelled() => {}
            () = tokio::time::sleep(MAX_STANDSTILL) => fetch.let_go(),
            () = gate.narrows() => fetch.let_go(),
            () = together.waiting.for_long(PATIENCE.max(2 * meta.pace.cost())) => fetch.let_go(),
        }
        together.set_opening_read(false);
        shared.wanted.cancelled().await;
        let mut chunks = Vec::new();
        shared
            .kept
            .send_modify(|kept| chunks = std::mem::take(&mut kept.blocks));
        chunks.extend((!filling.open.is_empty()).then(|| filling.open.freeze()));
        Begun {
            chunks,
            bytes: filling.bytes,
            answer: fetch.into_answer(),
            error: ended.err(),
        }
    }
}

impl Kept {
    fn copy(&self, range: &Range<u64>) -> Option<Vec<u8>> {
        if self.bytes < range.end {
            return None;
        }
        let mut copy = Vec::new();
        for (start, block) in (0..).step_by(BLOCK_BYTES as usize).zip(&self.blocks) {
            let within = |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
            let (from, to) = (within(range.start), within(range.end).min(block.len()));
            if from < to {
                copy.extend_from_slice(&block[from..to]);
            }
        }
        (copy.len() as u64 == range.end - range.start).then_some(copy)
    }
}

/// Joins chunks to blocks.
#[derive(Default)]
struct Filling {
    bytes: u64,
    open: BytesMut,
    /// When the first chunk came, and how long it was.
    first: Option<(Instant, u64)>,
}

impl Filling {
    fn add(&mut self, chunk: &Bytes, size: u64, kept: &watch::Sender<Kept>) {
        let length = chunk.len() as u64;
        self.first.get_or_insert_with(|| (Instant::now(), length));
        self.bytes += length;
        let mut rest = &chunk[..];
        let mut full = Vec::new();
        while !rest.is_empty() {
            if self.open.capacity() == 0 {
                self.open.reserve(BLOCK_BYTES as usize);
            }
            let room = BLOCK_BYTES as usize - self.open.len();
            let (now, later) = rest.split_at(rest.len().min(room));
            self.open.extend_from_slice(now);
            rest = later;
            if now.len() == room {
                full.push(std::mem::take(&mut self.open).freeze());
            }
        }
        if self.bytes == size && !self.open.is_empty() {
            full.push(std::mem::take(&mut self.open).freeze());
        }
        let measured = self.rate();
        if !full.is_empty() {
            kept.send_modify(|kept| {
                kept.measured = measured;
                kept.bytes += full.iter().map(|block| block.len() as u64).sum::<u64>();
                kept.blocks.extend(full);
            });
        }
    }

    /// Bytes that came after the first chunk, and how long they took. None of so few that they say nothing.
    fn rate(&self) -> Option<(u64, Duration)> {
        let (began, first) = self.first?;
        let bytes = self.bytes - first;
        (bytes >= BLOCK_BYTES).then(|| (bytes, began.elapsed()))
    }
}
