//! Random access to a remote object, for the image crate's planner.
//!
//! Every block that is read is recorded, so that what a plan was made from can be compared with the object's
//! bytes when these are streamed (`record.rs`).

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::error::{Result, SourceError, SourceErrorKind};
use super::fetch::{Fetch, Mode};
use super::record::{PlanCheck, ReadRecord, changed};
use super::{ObjectMeta, Source};

/// Block size of the cache. A qcow2 file has its header and first tables together, and each further L2 table
/// (64 KiB at the default cluster size) alone among data: larger blocks would mostly read data, smaller ones
/// would cost more round trips.
pub(super) const BLOCK_BYTES: u64 = 256 << 10; // 256 KiB
/// Blocks that are kept: 4 MiB.
const CACHED_BLOCKS: usize = 16;
/// Neighbouring blocks that one request fetches for a large read: 2 MiB.
const MAX_RUN_BLOCKS: u64 = 8;

/// An object as [`lvp_image`] reads it: blocking, random access, with a small cache.
///
/// Only for threads outside the async runtime (`spawn_blocking`): reads block on requests.
#[derive(Debug)]
pub struct RemoteReader {
    source: Source,
    meta: Arc<ObjectMeta>,
    cancel: CancellationToken,
    /// Most recently used first.
    cache: Mutex<VecDeque<(u64, Bytes)>>,
    record: Mutex<ReadRecord>,
}

impl RemoteReader {
    pub(super) fn new(source: Source, meta: Arc<ObjectMeta>, cancel: CancellationToken) -> Self {
        Self {
            source,
            meta,
            cancel,
            cache: Mutex::default(),
            record: Mutex::default(),
        }
    }

    /// A comparison of everything that was read with the object's bytes as they will be streamed. None if the
    /// object's metadata is so scattered that not all of it was recorded: then the plan must not be used.
    pub fn into_check(self) -> Option<PlanCheck> {
        let record = self
            .record
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        record.into_check(&self.meta)
    }

    /// The object's bytes from the start of `block`: the cached block, or on a miss that block and
    /// as many of its missing neighbours up to `last` as one request fetches.
    fn blocks(&self, block: u64, last: u64) -> Result<Bytes> {
        let run_end = match self.cached_or_run_end(block, last) {
            Ok(cached) => return Ok(cached),
            Err(run_end) => run_end,
        };
        let range = block * BLOCK_BYTES..self.meta.size.min(run_end * BLOCK_BYTES);
        let bytes = Bytes::from(self.fetch(range)?);
        for (index, part) in (block..).zip(bytes.chunks(BLOCK_BYTES as usize)) {
            if !self.noted(index, part) {
                let start = index * BLOCK_BYTES;
                let shown = self.meta.url.to_string();
                return Err(changed(&shown, start, start + part.len() as u64));
            }
        }
        let mut cache = self.lock();
        for (index, part) in (block..).zip(bytes.chunks(BLOCK_BYTES as usize)) {
            // Another thread may have fetched the same block meanwhile.
            cache.retain(|(cached, _)| *cached != index);
            // A copy of its own, so that one cached block does not keep the whole run in memory.
            cache.push_front((index, Bytes::copy_from_slice(part)));
        }
        cache.truncate(CACHED_BLOCKS);
        Ok(bytes)
    }

    /// A cached block, or where the run of missing blocks that begins with it ends.
    fn cached_or_run_end(&self, block: u64, last: u64) -> Result<Bytes, u64> {
        let mut cache = self.lock();
        let position = |block: u64| cache.iter().position(|(cached, _)| *cached == block);
        let Some(position) = position(block) else {
            let limit = block + MAX_RUN_BLOCKS.min(last - block + 1);
            return Err((block + 1..limit)
                .find(|next| position(*next).is_some())
                .unwrap_or(limit));
        };
        cache.rotate_left(position);
        let (_, bytes) = &cache[0];
        Ok(bytes.clone())
    }

    /// Requests a range, without the cache and with a retry budget of its own.
    fn fetch(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0));
        let reading = async {
            if let Some(opening) = self.meta.opening.read(&range).await {
                buffer = opening;
                return Ok(());
            }
            let _unanswered = self.meta.opening.waits();
            let mut fetch = Fetch::new(&self.source, &self.meta, range, Mode::Ranged);
            while let Some(chunk) = fetch.next().await? {
                buffer.extend_from_slice(&chunk);
            }
            Ok(())
        };
        match self
            .source
            .mover()
            .block_on(self.cancel.run_until_cancelled(reading))
        {
            Some(result) => result.map(|()| buffer),
            None => Err(SourceError::new(
                SourceErrorKind::Cancelled,
                format!("Reading {} was cancelled", self.meta.url),
            )),
        }
    }

    /// False if this block was read before and had other bytes.
    fn noted(&self, block: u64, bytes: &[u8]) -> bool {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.note(block, bytes)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Bytes)>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl lvp_image::ReadAt for RemoteReader {
    fn len(&self) -> u64 {
        self.meta.size
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        let end = offset
            .checked_add(buf.len() as u64)
            .filter(|end| *end <= self.meta.size)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        while !buf.is_empty() {
            let block = offset / BLOCK_BYTES;
            let bytes = self.blocks(block, (end - 1) / BLOCK_BYTES)?;
            // Less than a block's length, so it fits.
            let skip = (offset % BLOCK_BYTES) as usize;
            let count = buf.len().min(bytes.len() - skip);
            let (now, rest) = buf.split_at_mut(count);
            now.copy_from_slice(&bytes[skip..skip + count]);
            offset += count as u64;
            buf = rest;
        }
        Ok(())
    }
}
