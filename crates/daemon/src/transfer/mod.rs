//! One pass over an image's bytes: digest, cache file, decode and device writes overlap.
//!
//! ```text
//! source (async, ranges in flight) --> pump thread --+--> digest thread
//!        or: the durable part of an      (pieces)    +--> cache file thread --> sync thread
//!        earlier attempt, from the disk              '--> Copier (decode and write threads)
//! ```
//!
//! The pump joins the source's chunks into pieces of one size, in aligned memory from a fixed pool.
//! So memory does not grow with the image, the cache file is written with direct I/O, and the three
//! consumers are woken once per piece instead of about once per packet. All three get the same
//! reference-counted pieces, and the slowest sets the pace. The bytes that are hashed are the same
//! bytes that are cached and decoded, and they are compared with those that the plan was made from,
//! which were fetched by separate requests.

mod cachefile;
mod digests;
mod error;
mod fetching;
mod outlet;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lvp_api::{Cause, Lane};
use lvp_image::buffer::{BufferPool, PooledBuf};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

pub use digests::{Digests, Hashers, Wanted};
pub use error::TransferError;
pub use outlet::{Aims, CacheOnly, Outlet, ToVolume, Written};

use crate::cache::Lead;
use crate::job::account::{Pass, WaitsOn};
use crate::job::meter::Meter;
use crate::job::stop::{Stop, StopReason};
use crate::source::{PlanCheck, Source, SourceError};
use cachefile::GivingWay;
use fetching::Fetching;

/// Chunks that may wait in front of the pump. The HTTP library produces chunks of at most 400 KiB,
/// mostly far smaller ones, and a chunk that waits here no longer occupies a range's buffer.
const QUEUED_CHUNKS: usize = 16;

/// The size of a piece.
const PIECE_BYTES: usize = 2 << 20; // 2 MiB

/// Pieces in memory: one that is being filled, and enough for each consumer to work on some while
/// others wait for it. The copier holds on to up to three, since a cluster may begin in one and end
/// in the one after the next; more than three must be left.
const PIECES: usize = 8;

/// Pieces that may wait in front of the digest, and in front of the cache file.
const QUEUED_PIECES: usize = 2;

/// The result of a pass.
#[derive(Debug)]
pub struct Streamed<W> {
    /// Digests of every byte of the object, and what its signatures came to.
    pub digests: Digests,
    /// The complete partial file.
    pub file: File,
    /// From the first request for the object's bytes to its last byte.
    pub download: Duration,
    /// What was written besides the cache file: [`Written`], or nothing.
    pub written: W,
}

/// Reads the lead's object once, front to back, into the cache's partial file and wherever else its
/// bytes go.
pub async fn stream<O: Outlet>(
    source: &Source,
    lead: &mut Lead,
    aims: Aims<O>,
    meter: &Arc<Meter>,
    stop: &Stop,
) -> Result<Streamed<O::Written>, TransferError> {
    let object = lead.object().clone();
    let (start, size) = (lead.durable_bytes(), object.size);
    meter.download_from(start, size);
    meter.trail.go_on_to(Lane::Downloading);
    let (chunks, receiver) = mpsc::channel(QUEUED_CHUNKS);
    let (durable, mut durable_seen) = watch::channel(start);
    // A download that cannot be continued would be lost if the server ended the connection meanwhile.
    let may_be_paused = lead.can_be_joined() && aims.outlet.may_be_paused();
    let offer = may_be_paused.then(|| meter.pause.offer());
    let pump = Pump {
        path: lead.path(),
        file: lead.open().await?,
        start,
        size,
        durable,
        stop: stop.clone(),
        pass: meter.begin_pass(Cause::Network),
    };
    let pump = (source.mover()).spawn_blocking(move || pump.run(aims, receiver));
    let started = Instant::now();
    let fetching = Fetching {
        source: source.clone(),
        object,
        can_be_joined: lead.can_be_joined(),
        meter: Arc::clone(meter),
        stop: stop.clone(),
    };
    let fetching = fetching.run(start, chunks);
    let fetching = AbortOnDropHandle::new(source.mover().spawn(fetching.in_current_span()));
    let fetch = async {
        let fetched = fetching.await;
        meter.trail.end(Lane::Downloading);
        fetched??;
        Ok::<_, TransferError>(started.elapsed())
    };
    // Runs beside the fetch, which need not wait for the database. Ends with the pump.
    let note = async {
        while durable_seen.changed().await.is_ok() {
            let bytes = *durable_seen.borrow_and_update();
            // The end is noted below, if that is of use.
            if bytes < size {
                lead.durable(bytes).await?;
            }
        }
        Ok(())
    };
    let fetched = tokio::try_join!(fetch, note);
    // The pump always ends: its channel is closed, and a stop reaches its writers too.
    let pumped = pump.await?;
    drop(offer);
    meter.trail.end(Lane::Converting);
    let bytes = *durable_seen.borrow_and_update();
    // What is complete is published in a moment: a record of it would be removed at once.
    let is_published_next = pumped.is_ok() && fetched.is_ok() && !meter.pause.is_on();
    match bytes > lead.durable_bytes() {
        true if bytes == size && is_published_next => lead.has_all(),
        true => lead.durable(bytes).await?,
        false => {}
    }
    let (download, ()) = fetched?;
    let Pumped {
        digests,
        file,
        written,
    } = pumped?;
    // A pause that came after the last bytes: the slot is another job's. Whoever looks at the stop does so next.
    tokio::select! {
        () = meter.pause.over() => {}
        _ = stop.stopped() => {}
    }
    Ok(Streamed {
        digests,
        file,
        download,
        written,
    })
}

struct Pump {
    path: PathBuf,
    file: File,
    start: u64,
    size: u64,
    durable: watch::Sender<u64>,
    stop: Stop,
    pass: Arc<Pass>,
}

/// The result of the pump.
struct Pumped<W> {
    digests: Digests,
    file: File,
    written: W,
}

/// The pump's consumers.
struct Consumers<'a, O> {
    digest: SyncSender<Bytes>,
    cache: SyncSender<Bytes>,
    outlet: &'a mut O,
}

impl Pump {
    /// Runs until the channel is closed, on a dedicated thread.
    fn run<O: Outlet>(
        self,
        aims: Aims<O>,
        mut chunks: mpsc::Receiver<Bytes>,
    ) -> Result<Pumped<O::Written>, TransferError> {
        let file = self
            .file
            .try_clone()
            .map_err(|error| self.cache_failed(error))?;
        let durable = self.durable.clone();
        let start = self.start;
        let Aims {
            mut outlet,
            check,
            wanted,
            yielding,
        } = aims;
        let giving_way = GivingWay {
            limiter: yielding,
            stop: self.stop.clone(),
            pass: Arc::clone(&self.pass),
        };
        thread::scope(|scope| {
            let (to_digest, for_digest) = sync_channel::<Bytes>(QUEUED_PIECES);
            let (to_cache, for_cache) = sync_channel::<Bytes>(QUEUED_PIECES);
            let digest = scope.spawn(move || digest(for_digest, check, wanted));
            let cache = scope
                .spawn(move || cachefile::write(&file, start, for_cache, &durable, &giving_way));
            let moved = self.pump(
                &mut chunks,
                Consumers {
                    digest: to_digest,
                    cache: to_cache,
                    outlet: &mut outlet,
                },
            );
            // While the last part of the cache file is being synced.
            let is_complete = moved.as_ref().is_ok_and(|received| *received == self.size);
            let pass = &self.pass;
            let written = is_complete.then(|| pass.wait(WaitsOn::Copier, || outlet.finish()));
            let digest = pass.wait(WaitsOn::Digest, || digest.join());
            let cache = pass.wait(WaitsOn::CacheFile, || cache.join());
            // First, because a plan of another object may be the reason why the rest failed.
            let (digests, check) = digest.map_err(panicked)??;
            let received = moved?;
            cache
                .map_err(panicked)?
                .map_err(|error| self.cache_failed(error))?;
            let Some(written) = written else {
                return Err(TransferError::Incomplete {
                    received_bytes: received,
                    size_bytes: self.size,
                });
            };
            check.map(PlanCheck::finish).transpose()?;
            Ok(Pumped {
                digests,
                file: self.file,
                written: written?,
            })
        })
    }

    /// Passes everything to the consumers. Returns how far it came.
    fn pump<O: Outlet>(
        &self,
        chunks: &mut mpsc::Receiver<Bytes>,
        mut consumers: Consumers<'_, O>,
    ) -> Result<u64, TransferError> {
        let pool = BufferPool::new(PIECES, PIECE_BYTES);
        let Some(mut position) = self.replay(&pool, &mut consumers)? else {
            return Ok(0);
        };
        let mut piece = None;
        let mut filled = 0;
        let pass = &self.pass;
        while let Some(chunk) = pass.wait(WaitsOn::Source, || chunks.blocking_recv()) {
            let mut rest = &chunk[..];
            while !rest.is_empty() {
                let room = match &mut piece {
                    Some(piece) => piece,
                    none => none.insert(self.take(&pool)?),
                };
                let length = rest.len().min(PIECE_BYTES - filled);
                let (now, later) = rest.split_at(length);
                pass.work(|| room[filled..filled + length].copy_from_slice(now));
                filled += length;
                rest = later;
                if filled == PIECE_BYTES
                    && let Some(piece) = piece.take()
                {
                    filled = 0;
                    position += PIECE_BYTES as u64;
                    if !consumers.hand_out(Bytes::from_owner(piece), pass)? {
                        return Ok(position);
                    }
                }
            }
        }
        if let Some(piece) = piece.filter(|_| filled > 0) {
            position += filled as u64;
            consumers.hand_out(Bytes::from_owner(piece).slice(..filled), pass)?;
        }
        Ok(position)
    }

    /// Passes on the durable part of an earlier attempt, which is in the cache file already. None if a
    /// consumer has ended; joining it tells why.
    fn replay<O: Outlet>(
        &self,
        pool: &BufferPool,
        consumers: &mut Consumers<'_, O>,
    ) -> Result<Option<u64>, TransferError> {
        let mut offset = 0;
        while offset < self.start {
            let length = usize::try_from(self.start - offset)
                .map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let mut piece = self.take(pool)?;
            let read = || self.file.read_exact_at(&mut piece[..length], offset);
            (self.pass.wait(WaitsOn::CacheFile, read)).map_err(|error| self.cache_failed(error))?;
            let piece = Bytes::from_owner(piece).slice(..length);
            let pass = &self.pass;
            let to_digest = || consumers.digest.send(piece.clone());
            if pass.wait(WaitsOn::Digest, to_digest).is_err() {
                return Ok(None);
            }
            pass.wait(WaitsOn::Copier, || consumers.outlet.feed(piece))?;
            offset += length as u64;
        }
        Ok(Some(offset))
    }

    /// A free piece; waits until a consumer releases one.
    fn take(&self, pool: &BufferPool) -> Result<PooledBuf, TransferError> {
        // The copier alone may hold so many that none is left: the others have short queues.
        let take = || pool.take(|| self.stop.reason().is_some());
        match self.pass.wait(WaitsOn::Copier, take) {
            Ok(Some(piece)) => Ok(piece),
            Ok(None) => Err(TransferError::Stopped(
                self.stop.reason().unwrap_or(StopReason::Cancelled),
            )),
            Err(error) => Err(TransferError::Memory(error)),
        }
    }

    fn cache_failed(&self, source: io::Error) -> TransferError {
        let path = self.path.clone();
        TransferError::CacheFile { path, source }
    }
}

impl<O: Outlet> Consumers<'_, O> {
    /// Gives a piece to every consumer. False if one of them has failed and ended; joining it tells
    /// why.
    fn hand_out(&mut self, piece: Bytes, pass: &Pass) -> Result<bool, TransferError> {
        let to_cache = || self.cache.send(piece.clone());
        let to_digest = || self.digest.send(piece.clone());
        if pass.wait(WaitsOn::CacheFile, to_cache).is_err()
            || pass.wait(WaitsOn::Digest, to_digest).is_err()
        {
            return Ok(false);
        }
        pass.wait(WaitsOn::Copier, || self.outlet.feed(piece))?;
        Ok(true)
    }
}

/// Hashes all pieces, and ends early if they are not those that the plan was made from. Returns the
/// comparison, which is complete only at the end of the object.
fn digest(
    pieces: Receiver<Bytes>,
    mut check: Option<PlanCheck>,
    wanted: Wanted,
) -> Result<(Digests, Option<PlanCheck>), SourceError> {
    let mut hashers = Hashers::new(wanted);
    for piece in pieces {
        if let Some(check) = &mut check {
            check.push(&piece)?;
        }
        hashers.update(&piece);
    }
    Ok((hashers.finish(), check))
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> TransferError {
    // The panic itself is in the log.
    TransferError::Crashed
}
