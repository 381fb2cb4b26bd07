//! Writes the cache's partial file without filling the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use lvp_api::Cause;
use lvp_image::copy::RateLimiter;
use rustix::fs::{Advice, OFlags};
use tokio::sync::watch;

use crate::job::account::Pass;
use crate::job::stop::Stop;

/// How much is written between two syncs. A sync makes the bytes durable, so that an interrupted
/// download need not fetch them again. Without direct I/O it also releases their pages: at most
/// three such portions (one being written, one waiting, one being synced) are in the page cache at
/// a time.
const SYNC_BYTES: u64 = 16 << 20; // 16 MiB

/// Alignment of direct writes in memory and in the file: enough for every file system.
const BLOCK_BYTES: usize = 4096;

/// Appends chunks from `start` on, and reports how many bytes are durable.
pub(super) fn write(
    file: &File,
    start: u64,
    chunks: Receiver<Bytes>,
    durable: &watch::Sender<u64>,
    giving_way: &GivingWay,
) -> io::Result<()> {
    thread::scope(|scope| {
        let (to_sync, for_sync) = sync_channel::<(u64, u64)>(1);
        let sync = scope.spawn(move || -> io::Result<()> {
            for (from, to) in for_sync {
                file.sync_data()?;
                // A hint to the kernel; nothing changes if it is refused.
                rustix::fs::fadvise(
                    file,
                    from,
                    std::num::NonZeroU64::new(to - from),
                    Advice::DontNeed,
                )
                .ok();
                durable.send_replace(to);
            }
            Ok(())
        });
        let mut writer = Writer::new(file, giving_way);
        let mut offset = start;
        let mut unsynced = start;
        let mut written = Ok(());
        for chunk in chunks {
            written = writer.write_all_at(&chunk, offset);
            if written.is_err() {
                break;
            }
            offset += chunk.len() as u64;
            if offset - unsynced >= SYNC_BYTES {
                if to_sync.send((unsynced, offset)).is_err() {
                    break;
                }
                unsynced = offset;
            }
        }
        if written.is_ok() && offset > unsynced {
            // If the sync thread has ended, its own error is reported.
            to_sync.send((unsynced, offset)).ok();
        }
        drop(to_sync);
        let synced = sync
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the sync thread crashed")));
        written.and(synced)
    })
}

/// Lets others come first on the cache's disk, and measures what for the writer waits.
pub(super) struct GivingWay {
    pub(super) limiter: Option<Arc<RateLimiter>>,
    pub(super) stop: Stop,
    pub(super) pass: Arc<Pass>,
}

impl GivingWay {
    /// How much of these bytes is written at a time.
    fn portion(&self, bytes: usize) -> usize {
        let portion = self
            .limiter
            .as_ref()
            .and_then(|limiter| limiter.portion_bytes());
        portion.unwrap_or(bytes).min(bytes)
    }

    /// Waits until others leave room for these bytes. A job that is stopped does not wait: what it writes is of no use,
    /// and does no harm.
    fn wait(&self, bytes: usize) {
        if let Some(limiter) = &self.limiter {
            let started = Instant::now();
            limiter.wait_unless(bytes as u64, || self.stop.reason().is_some());
            self.pass.cache_waited(Cause::Guests, started.elapsed());
        }
    }

    fn measured<T>(&self, write: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let value = write();
        self.pass.cache_waited(Cause::Device, started.elapsed());
        value
    }
}

/// Writes the aligned part with direct I/O, and the rest through the page cache.
struct Writer<'a> {
    cached: &'a File,
    /// `None` if the file system does not support direct I/O.
    direct: Option<File>,
    giving_way: &'a GivingWay,
}

impl<'a> Writer<'a> {
    fn new(file: &'a File, giving_way: &'a GivingWay) -> Self {
        // O_DIRECT belongs to an open file, so a second one is needed. It is the same file, even if
        // another file has taken its name since.
        let direct = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::DIRECT.bits().cast_signed())
            .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .ok();
        Self {
            cached: file,
            direct,
            giving_way,
        }
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut rest, mut offset) = (bytes, offset);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.giving_way.portion(rest.len()));
            let giving_way = self.giving_way;
            giving_way.wait(now.len());
            giving_way.measured(|| self.write_portion(now, offset))?;
            offset += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn write_portion(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let aligned = offset.is_multiple_of(BLOCK_BYTES as u64)
            && bytes.as_ptr().align_offset(BLOCK_BYTES) == 0;
        let (blocks, rest) = match &self.direct {
            Some(_) if aligned => bytes.split_at(bytes.len() - bytes.len() % BLOCK_BYTES),
            _ => bytes.split_at(0),
        };
        if let Some(direct) = &self.direct
            && let Err(error) = direct.write_all_at(blocks, offset)
        {
            if error.kind() != io::ErrorKind::InvalidInput {
                return Err(error);
            }
            // The file system accepted O_DIRECT and then refused the write.
            self.direct = None;
            return self.cached.write_all_at(bytes, offset);
        }
        self.cached.write_all_at(rest, offset + blocks.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use lvp_image::buffer::BufferPool;

    use super::*;
    use crate::transfer::PIECE_BYTES;

    /// Writes pieces of these lengths from `start` on, as the pump does. Returns the file's bytes.
    fn written(start: usize, lengths: &[usize], limiter: Option<RateLimiter>) -> Vec<u8> {
        let file = tempfile::tempfile().unwrap();
        let longest = lengths.iter().copied().max().unwrap_or_default();
        let pool = BufferPool::new(lengths.len(), longest.max(2 * BLOCK_BYTES));
        let (sender, pieces) = sync_channel(lengths.len());
        let (durable, seen) = watch::channel(0);
        let mut position = start;
        for length in lengths {
            let mut piece = pool.take(|| false).unwrap().unwrap();
            for (index, byte) in piece.iter_mut().enumerate() {
                *byte = pattern(position + index);
            }
            position += length;
            sender
                .send(Bytes::from_owner(piece).slice(..*length))
                .unwrap();
        }
        drop(sender);
        let giving_way = GivingWay {
            limiter: limiter.map(Arc::new),
            stop: Stop::default(),
            pass: Arc::new(Pass::new(Arc::default(), Cause::Device, Arc::default())),
        };
        write(&file, start as u64, pieces, &durable, &giving_way).unwrap();
        assert_eq!(*seen.borrow(), position as u64);
        let mut found = vec![0; position + 1];
        let len = file.read_at(&mut found, 0).unwrap();
        found.truncate(len);
        found
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the remainder is below 251"
    )]
    fn pattern(position: usize) -> u8 {
        (position % 251) as u8
    }

    #[test]
    fn aligned_pieces_a_ragged_end_and_a_ragged_start_are_written_where_they_belong() {
        for (start, lengths) in [
            (0, vec![8192, 8192, 8192]),
            (0, vec![8192, 5000]),
            (0, vec![700]),
            (4096, vec![8192, 4096, 1]),
            (777, vec![8192, 8192, 33]),
        ] {
            let found = written(start, &lengths, None);
            let end = start + lengths.iter().sum::<usize>();
            let expected: Vec<u8> = (start..end).map(pattern).collect();
            assert_eq!(found.len(), end, "{start} {lengths:?}");
            assert!(found[start..] == expected, "{start} {lengths:?}");
            assert!(found[..start].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_file_that_gives_way_is_written_in_portions_and_is_the_same() {
        // As fast as the test needs it, and as slow as makes portions.
        let limiter = RateLimiter::new(std::num::NonZeroU64::new(64 << 20).unwrap());
        let lengths = [PIECE_BYTES, PIECE_BYTES, 300_001];
        let end: usize = lengths.iter().sum();
        let found = written(0, &lengths, Some(limiter));
        assert!(found == (0..end).map(pattern).collect::<Vec<_>>());
    }
}
