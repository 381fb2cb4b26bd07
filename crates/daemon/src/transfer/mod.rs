//! One pass over an image's bytes: digest, cache file, decode and device writes overlap.
//!
//! ```text
//! source (async, ranges in flight) --> pump thread --+--> digest thread
//!        or: the durable part of an                  +--> cache file thread --> sync thread
//!        earlier attempt, from the disk              '--> Copier (decode and write threads)
//! ```
//!
//! Every arrow is a bounded channel of the same reference-counted chunks, so memory does not
//! grow with the image, and the slowest of them sets the pace. The bytes that are hashed are the
//! very bytes that are cached and decoded.

mod cachefile;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lvp_api::{ErrorCode, Sha256Digest};
use lvp_image::copy::{Body, Copier};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};

use crate::cache::Lead;
use crate::jobs::error::JobError;
use crate::jobs::progress::Meter;
use crate::jobs::stop::Stop;
use crate::source::{RangeOptions, Source};

/// Chunks that may wait before each consumer. Chunks are at most one range (4 MiB), so that all
/// queues of a job together hold a few dozen MiB at worst.
const QUEUED_CHUNKS: usize = 2;

/// How far the digest stands back behind the threads that answer requests, as the copier's do.
const DIGEST_NICENESS: i32 = 5;

/// How much of an earlier attempt's file is read at a time.
const REPLAY_BYTES: usize = 4 << 20; // 4 MiB

/// What a pass yields.
pub struct Streamed {
    /// SHA-256 of every byte of the object.
    pub digest: Sha256Digest,
    /// The complete partial file.
    pub file: File,
    /// The written volume whose head is still held back, if there was a volume.
    pub body: Option<Body>,
    /// From the first request for the object's bytes to its last byte.
    pub download: Duration,
    /// From the start of the copy to the last byte settled on the volume.
    pub convert: Option<Duration>,
}

/// Reads the lead's object once, front to back, into the cache's partial file and, when there
/// is a copier, onto its target.
pub async fn stream(
    source: &Source,
    lead: &mut Lead,
    copier: Option<Copier>,
    meter: &Arc<Meter>,
    stop: &Stop,
) -> Result<Streamed, JobError> {
    let object = lead.object().clone();
    let start = lead.durable_bytes();
    meter.source_total.store(object.size, Ordering::Relaxed);
    meter.source_done.store(start, Ordering::Relaxed);
    let (chunks, receiver) = mpsc::channel(QUEUED_CHUNKS);
    let (durable, mut durable_seen) = watch::channel(start);
    let pump = Pump {
        path: lead.path(),
        file: lead.open()?,
        start,
        size: object.size,
        copier,
        durable,
    };
    let mut pump = tokio::task::spawn_blocking(move || pump.run(receiver));
    let started = Instant::now();
    let mut reader = source.read_ranges(&object, start..object.size, RangeOptions::default());
    let fetched: Result<(), JobError> = async {
        loop {
            let chunk = tokio::select! {
                biased;
                reason = stop.stopped() => return Err(JobError::stopped(reason)),
                Ok(()) = durable_seen.changed() => {
                    let bytes = *durable_seen.borrow_and_update();
                    lead.durable(bytes).await?;
                    continue;
                }
                chunk = reader.next() => chunk,
            };
            let Some(chunk) = chunk.transpose()? else {
                return Ok(());
            };
            let length = chunk.len() as u64;
            tokio::select! {
                biased;
                reason = stop.stopped() => return Err(JobError::stopped(reason)),
                sent = chunks.send(chunk) => {
                    if sent.is_err() {
                        // The pump has stopped; joining it below tells why.
                        return Ok(());
                    }
                }
            }
            meter.fetched_bytes.fetch_add(length, Ordering::Relaxed);
            meter.source_done.fetch_add(length, Ordering::Relaxed);
        }
    }
    .await;
    let download = started.elapsed();
    drop(chunks);
    drop(reader);
    // The pump always ends: its channel is closed, and a stop reaches its writers too.
    let pumped = (&mut pump).await.map_err(|error| {
        JobError::new(ErrorCode::Internal, "internal", "The transfer broke off").because(error)
    })?;
    let bytes = *durable_seen.borrow_and_update();
    if bytes > lead.durable_bytes() {
        lead.durable(bytes).await?;
    }
    match (fetched, pumped) {
        (Err(error), _) => Err(error),
        (Ok(()), pumped) => pumped.map(|streamed| Streamed {
            download,
            ..streamed
        }),
    }
}

struct Pump {
    path: PathBuf,
    file: File,
    start: u64,
    size: u64,
    copier: Option<Copier>,
    durable: watch::Sender<u64>,
}

impl Pump {
    /// Runs until the channel closes, on a thread of its own.
    fn run(mut self, mut chunks: mpsc::Receiver<Bytes>) -> Result<Streamed, JobError> {
        let started = Instant::now();
        let file = self
            .file
            .try_clone()
            .map_err(|error| self.cache_failed(error))?;
        let durable = self.durable.clone();
        let start = self.start;
        thread::scope(|scope| {
            let (to_digest, for_digest) = sync_channel::<Bytes>(QUEUED_CHUNKS);
            let (to_cache, for_cache) = sync_channel::<Bytes>(QUEUED_CHUNKS);
            let digest = scope.spawn(move || {
                // A thread's own nice value. Where it cannot be set, all goes on as before.
                rustix::process::nice(DIGEST_NICENESS).ok();
                let mut hasher = Sha256::new();
                for chunk in for_digest {
                    hasher.update(&chunk);
                }
                Sha256Digest::new(hasher.finalize().into())
            });
            let cache = scope.spawn(move || cachefile::write(&file, start, for_cache, &durable));
            let moved = self.replay(&to_digest).and_then(|()| {
                let mut received = self.start;
                while let Some(chunk) = chunks.blocking_recv() {
                    received += chunk.len() as u64;
                    // A consumer that is gone has failed; joining it below tells why.
                    let alive = to_cache.send(chunk.clone()).is_ok();
                    if !alive || to_digest.send(chunk.clone()).is_err() {
                        break;
                    }
                    self.feed(chunk)?;
                }
                Ok(received)
            });
            drop((to_digest, to_cache));
            let digest = digest.join();
            let cache = cache.join();
            cache
                .map_err(panicked)?
                .map_err(|error| self.cache_failed(error))?;
            let received = moved?;
            if received != self.size {
                return Err(JobError::new(
                    ErrorCode::Unavailable,
                    "incomplete",
                    format!("The transfer ended after {received} of {} bytes", self.size),
                ));
            }
            let body = self.copier.take().map(Copier::finish).transpose()?;
            Ok(Streamed {
                digest: digest.map_err(panicked)?,
                file: self.file,
                convert: body.is_some().then(|| started.elapsed()),
                body,
                // The caller knows.
                download: Duration::ZERO,
            })
        })
    }

    /// Feeds the durable part of an earlier attempt, which is in the cache file already.
    fn replay(&mut self, to_digest: &SyncSender<Bytes>) -> Result<(), JobError> {
        let mut offset = 0;
        while offset < self.start {
            let length = usize::try_from(self.start - offset)
                .map_or(REPLAY_BYTES, |left| left.min(REPLAY_BYTES));
            let mut block = vec![0; length];
            self.file
                .read_exact_at(&mut block, offset)
                .map_err(|error| self.cache_failed(error))?;
            let chunk = Bytes::from(block);
            offset += length as u64;
            if to_digest.send(chunk.clone()).is_err() {
                break;
            }
            self.feed(chunk)?;
        }
        Ok(())
    }

    fn feed(&mut self, chunk: Bytes) -> Result<(), JobError> {
        match &mut self.copier {
            Some(copier) => Ok(copier.feed(chunk)?),
            None => Ok(()),
        }
    }

    fn cache_failed(&self, error: io::Error) -> JobError {
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        let (code, error_type) = if full {
            (ErrorCode::InsufficientStorage, "cache_full")
        } else {
            (ErrorCode::Unavailable, "cache")
        };
        let what = format!("Cannot write the cache file {}", self.path.display());
        JobError::new(code, error_type, what).because(error)
    }
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> JobError {
    JobError::new(
        ErrorCode::Internal,
        "internal",
        "A transfer thread broke off; see the log",
    )
}
