//! The chunks of one range on their way to the reader.
//!
//! A chunk costs more than its bytes: a place in the queue, and the network buffer that it is a part of. The
//! server decides how small its chunks are, so the queue is bounded in chunks as well as bytes: small chunks
//! are copied out of their buffer, and chunks that find no place in the queue are joined to blocks until there
//! is one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};

use super::error::Result;

/// Size of the blocks to which chunks are joined. As long as chunks have this size on average, a range fits in
/// its queue.
const BLOCK_BYTES: usize = 16 << 10; // 16 KiB

/// Chunks below this length are copied, to free the buffer that they came in.
const SMALL_BYTES: usize = 4 << 10; // 4 KiB

/// Bytes of a range that were received and not read yet.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    bytes: AtomicU64,
    freed: Notify,
}

impl Ahead {
    /// Waits until the reader has taken some since the last time.
    pub(super) async fn fewer(&self) {
        self.freed.notified().await;
    }

    pub(super) fn is_full(&self, most: u64) -> bool {
        self.bytes.load(Ordering::Acquire) >= most
    }

    /// These were received.
    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::AcqRel);
    }

    /// The reader has taken these.
    pub(super) fn taken(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes as u64, Ordering::AcqRel);
        self.freed.notify_one();
    }
}

/// The sending end, for a range that is fetched whether or not the reader has come to it.
#[derive(Debug)]
pub(super) struct RangeSender {
    queue: mpsc::Sender<Result<Bytes>>,
    /// Blocks that did not fit in the queue yet.
    waiting: VecDeque<Bytes>,
    /// The last block, which still grows.
    open: BytesMut,
}

/// The reader is gone.
#[derive(Debug)]
pub(super) struct Gone;

/// A queue for a range of this size.
pub(super) fn range_queue(range_bytes: u64) -> (RangeSender, mpsc::Receiver<Result<Bytes>>) {
    let places = usize::try_from(range_bytes.div_ceil(BLOCK_BYTES as u64))
        .unwrap_or(usize::MAX)
        .clamp(1, tokio::sync::Semaphore::MAX_PERMITS);
    let (queue, chunks) = mpsc::channel(places);
    let sender = RangeSender {
        queue,
        waiting: VecDeque::new(),
        open: BytesMut::new(),
    };
    (sender, chunks)
}

impl RangeSender {
    /// Takes a chunk; never waits.
    pub(super) fn push(&mut self, chunk: Bytes) -> Result<(), Gone> {
        self.hand_on()?;
        if self.waiting.is_empty() && self.open.is_empty() {
            let chunk = match chunk.len() {
                0..SMALL_BYTES => Bytes::copy_from_slice(&chunk),
                _ => chunk,
            };
            match self.queue.try_send(Ok(chunk)) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(Ok(chunk))) => self.join(&chunk),
                Err(_) => return Err(Gone),
            }
        } else {
            self.join(&chunk);
        }
        Ok(())
    }

    /// Ends the range, with success or an error: passes on what waits, however long that takes.
    pub(super) async fn finish(mut self, ended: Result<()>) -> Result<(), Gone> {
        let open = std::mem::take(&mut self.open).freeze();
        let last = (!open.is_empty()).then_some(open);
        for block in self.waiting.into_iter().chain(last) {
            self.queue.send(Ok(block)).await.map_err(|_| Gone)?;
        }
        match ended {
            Ok(()) => Ok(()),
            Err(error) => self.queue.send(Err(error)).await.map_err(|_| Gone),
        }
    }

    fn join(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.open.capacity() == 0 {
                self.open.reserve(BLOCK_BYTES);
            }
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.open.len()));
            self.open.extend_from_slice(now);
            bytes = later;
            if self.open.len() == BLOCK_BYTES {
                self.waiting
                    .push_back(std::mem::take(&mut self.open).freeze());
            }
        }
    }

    /// Fills the places that have become free.
    pub(super) fn hand_on(&mut self) -> Result<(), Gone> {
        loop {
            if self.waiting.is_empty() && !self.open.is_empty() && self.queue.capacity() > 0 {
                self.waiting
                    .push_back(std::mem::take(&mut self.open).freeze());
            }
            let Some(block) = self.waiting.pop_front() else {
                return Ok(());
            };
            match self.queue.try_send(Ok(block)) {
                Ok(()) => {}
                Err(TrySendError::Full(Ok(block))) => {
                    self.waiting.push_front(block);
                    return Ok(());
                }
                Err(_) => return Err(Gone),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tiny_chunks_take_no_more_places_than_large_ones_and_keep_their_order() {
        const RANGE: usize = 1 << 20;
        let (mut sender, mut chunks) = range_queue(RANGE as u64);
        let expected: Vec<u8> = (0..RANGE).map(|at| (at % 251) as u8).collect();
        for byte in expected.chunks(1) {
            sender
                .push(Bytes::copy_from_slice(byte))
                .expect("it is read");
        }
        let places = RANGE / BLOCK_BYTES;
        assert!(sender.waiting.len() <= places, "{}", sender.waiting.len());
        let reading = tokio::spawn(async move {
            let mut found = Vec::new();
            let mut count = 0;
            while let Some(chunk) = chunks.recv().await {
                found.extend_from_slice(&chunk.expect("no error"));
                count += 1;
            }
            (found, count)
        });
        sender.finish(Ok(())).await.expect("it is read");
        let (found, count) = reading.await.expect("it ends");
        assert!(found == expected);
        assert!(count <= 2 * places + 1, "{count} chunks");
    }

    #[tokio::test]
    async fn a_small_chunk_lets_go_of_the_buffer_that_it_came_in() {
        let (mut sender, mut chunks) = range_queue(1 << 20);
        let buffer = Bytes::from(vec![7; 400 << 10]);
        let (tiny, large) = (buffer.slice(..1), buffer.slice(1..1 + SMALL_BYTES));
        let place = large.as_ptr();
        sender.push(tiny.clone()).expect("it is read");
        sender.push(large).expect("it is read");
        let first = chunks.recv().await.expect("a chunk").expect("no error");
        assert_ne!(first.as_ptr(), tiny.as_ptr());
        let second = chunks.recv().await.expect("a chunk").expect("no error");
        assert_eq!(second.as_ptr(), place, "large ones are not copied");
    }

    #[tokio::test]
    async fn an_error_comes_after_what_was_received_before_it() {
        use super::super::error::{SourceError, SourceErrorKind};
        let (mut sender, mut chunks) = range_queue(1);
        for byte in [b"a", b"b", b"c"] {
            sender.push(Bytes::from_static(byte)).expect("it is read");
        }
        let cut = SourceError::new(SourceErrorKind::Unavailable, "It broke");
        let finishing = tokio::spawn(sender.finish(Err(cut)));
        let mut found = Vec::new();
        let error = loop {
            match chunks.recv().await.expect("an error at last") {
                Ok(chunk) => found.extend_from_slice(&chunk),
                Err(error) => break error,
            }
        };
        assert_eq!(found, b"abc");
        assert_eq!(error.kind(), SourceErrorKind::Unavailable);
        finishing.await.expect("it ends").expect("it is read");
    }
}
