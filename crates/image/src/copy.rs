//! Copies an image to a target, in one pass and in host order.
//!
//! ```text
//!  feed(chunk) --.                                .-> worker: decode, join --.
//!                 >-- pieces of work, a bounded --+-> worker                 +--> target
//!  local file ---'    queue                       '-> worker                 |    (past the page
//!                                                                            |     cache)
//!                                     first and last MiB of the disk  <------'
//!                                          held in memory until commit()
//! ```
//!
//! The order of a copy, of which no step is ever skipped or swapped:
//!
//! 1. The target is checked for its size; the places that would make it look like a disk are
//!    cleared (its first MiB, the disk's last MiB, the device's last MiB), and that is flushed.
//! 2. Data is written, and what the image leaves out is zeroed, in any order. What belongs to the
//!    first and last MiB of the disk stays in memory.
//! 3. The device's tail beyond the disk is zeroed as [`TailPolicy`] says; all is flushed. The
//!    caller now has a [`Body`], and time to find out whether the image is the right one.
//! 4. [`Body::commit`] writes the last MiB, then the first, and flushes. A copy that fails, is
//!    cancelled, is dropped or dies before this leaves the places of step 1 cleared.
//!
//! Memory is bounded whatever the image: 16 MiB of image bytes in the queue, and for each of at most
//! five workers three buffers of 2 MiB: one that it reads, one that it fills, one that is being
//! written meanwhile.

mod crew;
mod cut;
mod feed;
mod flight;
mod held;
mod limit;
mod local;
mod output;
mod stop;
mod worker;
mod zero;

pub use limit::RateLimiter;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};

use crate::device::{Target, ZeroMethod};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Format;
use crate::plan::{Batch, ImageInfo, Planner};
use crate::source::{FileSource, ReadAt};
use crew::{Crew, SpanBytes, Work};
use cut::{Cutter, Select};
use feed::{MapFeeder, StreamFeeder};
use local::LocalSource;
use output::{Nowhere, Output, Sink};
use stop::Stop;

/// Each takes 6 MiB, and decodes some 0.8 GiB/s of zlib on a core of its own (docs/benchmarks.md).
const MAX_WORKERS: usize = 5;

/// How a compressed raw file is read: in pieces that decode in a moment.
const STREAM_READ_BYTES: usize = 1 << 20; // 1 MiB

/// A hole in a sparse raw image is skipped from this length on.
const MIN_HOLE_BYTES: u64 = 1 << 20; // 1 MiB

/// What happens to a target's bytes beyond the end of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TailPolicy {
    /// They read as zero afterwards.
    #[default]
    Zero,
    /// The first and last MiB of them read as zero, so that nothing finds a partition table or a
    /// file system's label there; the rest keeps what it held.
    Edges,
    /// They stay as they are, but for the rest of the block that the disk ends in.
    Keep,
}

/// What a copy has done so far, for whoever watches. Values only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes of the image that were taken in.
    pub source_bytes: AtomicU64,
    /// Bytes of the disk that are settled: written, zeroed, held back, or known to be zero. Equals
    /// the virtual size when the copy is complete.
    pub guest_bytes: AtomicU64,
    /// Bytes written to the target, zeros in the middle of data included.
    pub written_bytes: AtomicU64,
    /// Bytes of the target that were zeroed, its tail included.
    pub zeroed_bytes: AtomicU64,
}

/// How to copy.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Threads that decode and write.
    pub workers: usize,
    /// Where progress is counted.
    pub counters: Arc<Counters>,
    /// Set by the owner to stop the copy.
    pub cancel: Arc<AtomicBool>,
    /// What happens beyond the end of the disk.
    pub tail: TailPolicy,
    /// Holds writes to a rate; shared by several copies, they share it.
    pub limiter: Option<Arc<RateLimiter>>,
}

impl CopyOptions {
    /// Options for a target of its own device, with the number of threads that suits the machine.
    pub fn new(tail: TailPolicy) -> Self {
        Self {
            workers: default_workers(),
            counters: Arc::default(),
            cancel: Arc::default(),
            tail,
            limiter: None,
        }
    }
}

/// One thread more than cores: while it waits for the disk that it reads, the others decode.
fn default_workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores + 1).min(MAX_WORKERS)
}

/// Bytes that were zeroed in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zeroed {
    /// How.
    pub method: ZeroMethod,
    /// How many.
    pub bytes: u64,
}

/// What became of a target's bytes beyond the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tail {
    /// How many there are.
    pub bytes: u64,
    /// How many of them read as zero for certain; the others hold what they held before.
    pub zero_bytes: u64,
}

/// What a copy did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Size of the disk.
    pub virtual_size: u64,
    /// Image bytes that were taken in.
    pub source_bytes: u64,
    /// Bytes written to the target.
    pub written_bytes: u64,
    /// What was zeroed, by method; empty where everything was known to be zero.
    pub zeroed: Vec<Zeroed>,
    /// What became of the bytes beyond the disk.
    pub tail: Tail,
    /// Whether writes bypassed the page cache.
    pub direct: bool,
}

/// An image that can be read once, front to back: what [`Copier::start`] needs of a [`Planner`].
#[derive(Debug)]
pub struct PlannedImage {
    info: ImageInfo,
    /// `None` for a compressed stream, which has no map.
    batch: Option<Batch>,
}

impl PlannedImage {
    /// Takes the map out of a planner that was just opened. [`ErrorKind::NotOnePass`] when the map
    /// is too large for one batch: such an image is copied from a local file.
    pub fn take<S: ReadAt>(planner: &mut Planner<S>) -> Result<Self> {
        if !planner.is_one_pass() {
            return Err(Error::new(
                ErrorKind::NotOnePass,
                "The image is too fragmented to be read in one pass: copy it from a local file",
            ));
        }
        let batch = planner.next_batch()?;
        Ok(Self {
            info: planner.info().clone(),
            batch,
        })
    }

    /// What the image is.
    pub fn info(&self) -> &ImageInfo {
        &self.info
    }
}

enum Feeder {
    Map(MapFeeder),
    Stream(Box<StreamFeeder>),
}

/// A copy in progress. Dropping it stops it; the target then does not look like a disk.
pub struct Copier {
    // Before `output`: the workers are stopped and joined first.
    crew: Crew,
    feeder: Feeder,
    output: Arc<Output>,
    virtual_size: Option<u64>,
    tail: TailPolicy,
    failed: bool,
}

impl Copier {
    /// Clears the target's head and starts the workers; the image's bytes are then fed in order.
    pub fn start(image: PlannedImage, target: Target, options: CopyOptions) -> Result<Self> {
        let (output, stop) = open_output(&image.info, target, &options)?;
        let crew = start_crew(&image.info, &options, output.clone(), &stop)?;
        let feeder = match (image.batch, &image.info.format) {
            (Some(batch), _) => {
                let batch = Arc::new(batch);
                settle_zero_ranges(&batch, &output, &crew);
                Feeder::Map(MapFeeder::new(Some(batch)))
            }
            (None, Format::RawStream(codec)) => {
                let feeder = StreamFeeder::new(*codec, Arc::clone(&output), stop)?;
                Feeder::Stream(Box::new(feeder))
            }
            // A disk of no bytes needs no batch.
            (None, _) => Feeder::Map(MapFeeder::new(None)),
        };
        Ok(Self {
            crew,
            feeder,
            output,
            virtual_size: image.info.virtual_size,
            tail: options.tail,
            failed: false,
        })
    }

    /// Takes the next bytes of the image, in chunks of any size. Waits while the workers are
    /// behind. Fails as soon as a worker has failed or the copy was cancelled; after that, every
    /// call fails.
    pub fn feed(&mut self, chunk: Bytes) -> Result<()> {
        if self.failed {
            return Err(stop::cancelled());
        }
        let len = chunk.len() as u64;
        let result = match &mut self.feeder {
            Feeder::Map(feeder) => feeder.feed(chunk, &self.crew),
            Feeder::Stream(feeder) => feeder.feed(&chunk, &self.crew),
        };
        self.failed = result.is_err();
        self.output.count_source(len);
        result
    }

    /// The image has ended: waits until everything but the held head is on stable storage.
    pub fn finish(self) -> Result<Body> {
        if self.failed {
            return Err(stop::cancelled());
        }
        let virtual_size = match self.feeder {
            Feeder::Map(feeder) => {
                feeder.finish(&self.crew)?;
                self.virtual_size.unwrap_or_default()
            }
            Feeder::Stream(feeder) => feeder.finish(&self.crew)?,
        };
        self.crew.finish()?;
        Body::complete(self.output, virtual_size, self.tail)
    }

    /// Copies a local image; the workers read it themselves. Takes images whose map does not fit
    /// one batch as well.
    pub fn copy_file(
        mut planner: Planner<FileSource>,
        target: Target,
        options: CopyOptions,
    ) -> Result<Body> {
        if let Format::RawStream(_) = planner.info().format {
            let image = PlannedImage::take(&mut planner)?;
            let mut copier = Self::start(image, target, options)?;
            feed_file(planner.source(), |chunk| copier.feed(chunk))?;
            return copier.finish();
        }
        let source = Arc::new(LocalSource::new(planner.source())?);
        let (output, stop) = open_output(planner.info(), target, &options)?;
        let crew = start_crew(planner.info(), &options, output.clone(), &stop)?;
        let virtual_size = planner.info().virtual_size.unwrap_or_default();
        while let Some(batch) = planner.next_batch()? {
            let batch = Arc::new(batch);
            settle_zero_ranges(&batch, &output, &crew);
            hand_out(Cutter::new(batch, Select::All), &source, &output, &crew)?;
            // Before the next batch, so that only one is in memory.
            crew.drain()?;
        }
        crew.finish()?;
        Body::complete(output, virtual_size, options.tail)
    }

    /// Decodes everything whose soundness shows only then, and writes nothing. Returns the size of
    /// the disk.
    pub(crate) fn verify_file(
        planner: &mut Planner<FileSource>,
        options: &CopyOptions,
    ) -> Result<u64> {
        let stop = Arc::new(Stop::new(Arc::clone(&options.cancel)));
        if let Format::RawStream(codec) = planner.info().format {
            let mut decoder = crate::stream::StreamDecoder::new(codec)?;
            let mut nowhere = |_: &[u8]| stop.check();
            feed_file(planner.source(), |chunk| decoder.push(&chunk, &mut nowhere))?;
            return decoder.finish(&mut nowhere);
        }
        let virtual_size = planner.info().virtual_size.unwrap_or_default();
        if planner.info().compressed_clusters == 0 {
            return Ok(virtual_size);
        }
        let source = Arc::new(LocalSource::new(planner.source())?);
        let crew = start_crew(planner.info(), options, Arc::new(Nowhere), &stop)?;
        while let Some(batch) = planner.next_batch()? {
            let mut cutter = Cutter::new(Arc::new(batch), Select::Compressed);
            while let Some(span) = cutter.next(u64::MAX, true) {
                let bytes = SpanBytes::Read(Arc::clone(&source));
                crew.submit(Work::Extents { span, bytes })?;
            }
            crew.drain()?;
        }
        crew.finish()?;
        Ok(virtual_size)
    }
}

impl fmt::Debug for Copier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copier")
            .field("target", self.output.target())
            .field("virtual_size", &self.virtual_size)
            .finish_non_exhaustive()
    }
}

/// A copy that is complete but for what was held back.
#[derive(Debug)]
#[must_use = "the disk is complete only after `commit`"]
pub struct Body {
    output: Arc<Output>,
    summary: Summary,
}

impl Body {
    fn complete(output: Arc<Output>, virtual_size: u64, policy: TailPolicy) -> Result<Self> {
        let (ranges, tail) = output.tail(virtual_size, policy);
        for range in ranges {
            output.clear(range)?;
        }
        let target = output.target();
        target.set_final_size(virtual_size)?;
        target.sync()?;
        let counters = output.counters();
        let summary = Summary {
            virtual_size,
            source_bytes: counters.source_bytes.load(Ordering::Relaxed),
            written_bytes: counters.written_bytes.load(Ordering::Relaxed),
            zeroed: output.zeroed(),
            tail,
            direct: target.is_direct(),
        };
        Ok(Self { output, summary })
    }

    /// What was done so far.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Where it was written.
    pub fn target(&self) -> &Target {
        self.output.target()
    }

    /// Writes what was held back and waits until it is on stable storage. When that fails, the
    /// places are cleared again as well as the target still permits.
    pub fn commit(mut self) -> Result<Summary> {
        if let Err(error) = self.output.release(self.summary.virtual_size) {
            // The error that is reported is the one that has the cause.
            self.output.disarm_failed_release().ok();
            return Err(error);
        }
        let written = &self.output.counters().written_bytes;
        self.summary.written_bytes = written.load(Ordering::Relaxed);
        Ok(self.summary)
    }
}

/// Prepares and arms the target.
fn open_output(
    info: &ImageInfo,
    mut target: Target,
    options: &CopyOptions,
) -> Result<(Arc<Output>, Arc<Stop>)> {
    let stop = Arc::new(Stop::new(Arc::clone(&options.cancel)));
    stop.check()?;
    let keep_tail = options.tail == TailPolicy::Keep;
    target.prepare(info.virtual_size, info.alignment, keep_tail)?;
    let output = Output::new(
        target,
        Arc::clone(&options.counters),
        options.limiter.clone(),
        Arc::clone(&stop),
    );
    output.arm(info.virtual_size, options.tail)?;
    Ok((Arc::new(output), stop))
}

fn start_crew(
    info: &ImageInfo,
    options: &CopyOptions,
    sink: Arc<dyn Sink>,
    stop: &Arc<Stop>,
) -> Result<Crew> {
    let cluster_bytes = match &info.format {
        Format::Qcow2(features) => usize::try_from(features.cluster_size).unwrap_or(usize::MAX),
        Format::Raw | Format::RawStream(_) => 0,
    };
    let workers = options.workers.clamp(1, MAX_WORKERS);
    Crew::start(workers, cluster_bytes, sink, Arc::clone(stop))
}

/// Sees to it that what the batch leaves out reads as zero.
fn settle_zero_ranges(batch: &Arc<Batch>, output: &Output, crew: &Crew) {
    if output.is_known_zero() {
        let bytes = batch.zero_ranges().map(|range| range.end - range.start);
        output.count_settled(bytes.sum());
    } else {
        crew.submit_zeroing(batch, output.target().zero_step_bytes());
    }
}

/// Gives the workers a batch of a local file, without the holes that the file has itself.
fn hand_out(
    mut cutter: Cutter,
    source: &Arc<LocalSource>,
    output: &Output,
    crew: &Crew,
) -> Result<()> {
    let mut data = 0..0;
    loop {
        if let Some(hole) = hole_ahead(&cutter, source, &mut data)
            && let Some(guest) = cutter.skip_plain(hole.end)
        {
            if output.is_known_zero() {
                output.count_settled(guest.end - guest.start);
            } else {
                crew.submit(Work::Zero(guest))?;
            }
            continue;
        }
        let Some(span) = cutter.next(u64::MAX, true) else {
            return Ok(());
        };
        output.count_source(span.host.end - span.host.start);
        let bytes = SpanBytes::Read(Arc::clone(source));
        crew.submit(Work::Extents { span, bytes })?;
    }
}

/// The hole of the image file that the next extent begins with. `data` is the run of data that was
/// last asked for.
fn hole_ahead(cutter: &Cutter, source: &LocalSource, data: &mut Range<u64>) -> Option<Range<u64>> {
    let host = cutter.plain_ahead()?;
    if host.end - host.start < MIN_HOLE_BYTES || data.contains(&host.start) {
        return None;
    }
    let next_data = source.next_data(host.start);
    *data = next_data..source.next_hole(next_data);
    let hole = host.start..host.end.min(next_data);
    (hole.end - hole.start >= MIN_HOLE_BYTES).then_some(hole)
}

/// Reads a file front to back, in chunks.
fn feed_file(source: &FileSource, mut feed: impl FnMut(Bytes) -> Result<()>) -> Result<()> {
    let local = LocalSource::new(source)?;
    let mut buffer = crate::buffer::AlignedBuf::new(2 * STREAM_READ_BYTES)
        .map_err(|e| Error::io(ErrorKind::Read, "Allocating a buffer failed", e))?;
    let mut chunk = BytesMut::new();
    let mut offset = 0;
    while offset < source.len() {
        let end = source.len().min(offset + STREAM_READ_BYTES as u64);
        let inside = local.read(&(offset..end), &mut buffer)?;
        chunk.extend_from_slice(&buffer[inside]);
        feed(chunk.split().freeze())?;
        offset = end;
    }
    Ok(())
}
