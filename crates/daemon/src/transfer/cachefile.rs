//! Writing the cache's partial file without filling the page cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use bytes::Bytes;
use rustix::fs::Advice;
use tokio::sync::watch;

/// How much is written between two syncs. A sync makes the bytes durable, so that an
/// interrupted download need not fetch them again, and lets go of their pages. At most three such
/// portions (one being written, one waiting, one being synced) are in memory at a time.
const SYNC_BYTES: u64 = 16 << 20; // 16 MiB

/// Appends chunks from `start` on; tells how many bytes are durable.
pub(super) fn write(
    file: &File,
    start: u64,
    chunks: Receiver<Bytes>,
    durable: &watch::Sender<u64>,
) -> io::Result<()> {
    thread::scope(|scope| {
        let (to_sync, for_sync) = sync_channel::<(u64, u64)>(1);
        let sync = scope.spawn(move || -> io::Result<()> {
            for (from, to) in for_sync {
                file.sync_data()?;
                // A hint to the kernel; that it may be refused changes nothing.
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
        let mut offset = start;
        let mut unsynced = start;
        let mut written = Ok(());
        for chunk in chunks {
            written = file.write_all_at(&chunk, offset);
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
            // When the sync thread is gone, its own error is the answer.
            to_sync.send((unsynced, offset)).ok();
        }
        drop(to_sync);
        let synced = sync
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the sync thread broke off")));
        written.and(synced)
    })
}
