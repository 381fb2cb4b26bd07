//! A copy from its start to its commit.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::cut::{Cutter, Select};
use super::feed::{MapFeeder, StreamFeeder};
use super::limits::Limits;
use super::local::{LocalSource, feed_file};
use super::options::{CopyOptions, Layout, MAX_WORKERS, Summary, TailPolicy};
use super::output::Output;
use super::pool::WorkerPool;
use super::stop::{StopSignal, cancelled};
use super::verifier::Verifier;
use super::work::{SpanBytes, Work};
use super::writer::Writer;
use crate::device::Target;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Format;
use crate::map::Batch;
use crate::plan::{ImageInfo, Planner};
use crate::source::{FileSource, ReadAt};

/// A hole in a sparse raw image is skipped if it is at least this long.
const MIN_HOLE_BYTES: u64 = 1 << 20; // 1 MiB

/// An image that can be read once, front to back: the part of a [`Planner`] that [`Copier::start`]
/// needs.
#[derive(Debug)]
pub struct PlannedImage {
    info: ImageInfo,
    /// `None` for a compressed stream, which has no map.
    batch: Option<Batch>,
}

impl PlannedImage {
    /// Takes the map out of a planner that was just opened. Fails with [`ErrorKind::NotOnePass`] if
    /// the map is too large for one batch: such an image is copied from a local file.
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

    /// Whether it is a compressed stream.
    pub fn is_stream(&self) -> bool {
        matches!(self.info.format, Format::RawStream(_))
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
    workers: WorkerPool,
    feeder: Feeder,
    output: Arc<Output>,
    virtual_size: Option<u64>,
    tail: TailPolicy,
    layout: Layout,
    failed: bool,
}

impl Copier {
    /// Clears the target's head and starts the workers. The image's bytes are then fed in order.
    pub fn start(image: PlannedImage, target: Target, options: CopyOptions) -> Result<Self> {
        let (output, stop) = open_output(&image.info, target, &options)?;
        let workers = start_writers(&image.info, &options, &output, &stop)?;
        let feeder = match (image.batch, &image.info.format) {
            (Some(batch), _) => {
                let batch = Arc::new(batch);
                zero_the_rest(&batch, &output, &workers);
                Feeder::Map(MapFeeder::new(Some(batch)))
            }
            (None, Format::RawStream(codec)) => {
                let engine = &options.engine;
                let feeder = StreamFeeder::new(*codec, engine, Arc::clone(&output), stop)?;
                Feeder::Stream(Box::new(feeder))
            }
            // A disk without bytes needs no batch.
            (None, _) => Feeder::Map(MapFeeder::new(None)),
        };
        Ok(Self {
            workers,
            feeder,
            output,
            virtual_size: image.info.virtual_size,
            tail: options.tail,
            layout: options.layout,
            failed: false,
        })
    }

    /// Whether it holds memory that other copies may wait for: then it must not be held still.
    pub fn shares_memory(&self) -> bool {
        matches!(self.feeder, Feeder::Stream(_))
    }

    /// Accepts the next bytes of the image, in chunks of any size. Waits while the workers are
    /// behind. Fails as soon as a worker has failed or the copy was cancelled; after that, every
    /// call fails.
    pub fn feed(&mut self, chunk: Bytes) -> Result<()> {
        if self.failed {
            return Err(cancelled());
        }
        let len = chunk.len() as u64;
        let result = match &mut self.feeder {
            Feeder::Map(feeder) => feeder.feed(chunk, &self.workers),
            Feeder::Stream(feeder) => feeder.feed(&chunk, &self.workers),
        };
        self.failed = result.is_err();
        self.output.count_source(len);
        result
    }

    /// Ends the image, and waits until everything except the held-back parts is on stable storage.
    pub fn finish(self) -> Result<Body> {
        if self.failed {
            return Err(cancelled());
        }
        let virtual_size = match self.feeder {
            Feeder::Map(feeder) => {
                feeder.finish(&self.workers)?;
                self.virtual_size.unwrap_or_default()
            }
            Feeder::Stream(feeder) => feeder.finish(&self.workers)?,
        };
        self.workers.finish()?;
        Body::complete(self.output, virtual_size, (self.tail, self.layout))
    }

    /// Copies a local image, which the workers read themselves. Also works for images whose map
    /// does not fit in one batch.
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
        let workers = start_writers(planner.info(), &options, &output, &stop)?;
        let virtual_size = planner.info().virtual_size.unwrap_or_default();
        while let Some(batch) = planner.next_batch()? {
            let batch = Arc::new(batch);
            zero_the_rest(&batch, &output, &workers);
            submit_batch(Cutter::new(batch, Select::All), &source, &output, &workers)?;
            // Before the next batch is made, so that only one is in memory.
            workers.drain()?;
        }
        workers.finish()?;
        Body::complete(output, virtual_size, (options.tail, options.layout))
    }

    /// Decodes everything that can turn out to be damaged only then, and writes nothing. Returns
    /// the size of the disk.
    pub(crate) fn verify_file(
        planner: &mut Planner<FileSource>,
        options: &CopyOptions,
    ) -> Result<u64> {
        let stop = Arc::new(StopSignal::new(Arc::clone(&options.cancel)));
        if let Format::RawStream(codec) = planner.info().format {
            let waiting = Arc::clone(&stop);
            let is_stopped = move || waiting.is_set();
            let mut decoder = options.engine.stream_decoder(codec, is_stopped)?;
            let mut nowhere = |_: &[u8]| stop.check();
            feed_file(planner.source(), |chunk| decoder.push(&chunk, &mut nowhere))?;
            return decoder.finish(&mut nowhere);
        }
        let virtual_size = planner.info().virtual_size.unwrap_or_default();
        if planner.info().compressed_clusters == 0 {
            return Ok(virtual_size);
        }
        let source = Arc::new(LocalSource::new(planner.source())?);
        let cluster_bytes = cluster_bytes(planner.info());
        let verifier = || Verifier::new(options.engine.lease(), &stop, cluster_bytes);
        let workers = WorkerPool::start(worker_count(options), verifier, Arc::clone(&stop))?;
        while let Some(batch) = planner.next_batch()? {
            let mut cutter = Cutter::new(Arc::new(batch), Select::Compressed);
            while let Some(span) = cutter.next(u64::MAX, true) {
                let bytes = SpanBytes::Read(Arc::clone(&source));
                workers.submit(Work::Extents { span, bytes })?;
            }
            workers.drain()?;
        }
        workers.finish()?;
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

/// A copy that is complete except for what was held back.
#[derive(Debug)]
#[must_use = "the disk is complete only after `commit`"]
pub struct Body {
    output: Arc<Output>,
    layout: Layout,
    summary: Summary,
}

impl Body {
    fn complete(
        output: Arc<Output>,
        virtual_size: u64,
        (policy, layout): (TailPolicy, Layout),
    ) -> Result<Self> {
        let (ranges, tail) = output.tail(virtual_size, policy);
        let target = output.target();
        output.time().busy(|| {
            for range in ranges {
                output.clear(range)?;
            }
            target.set_final_size(virtual_size)?;
            output.time().device(|| target.sync())
        })?;
        let counters = output.counters();
        let summary = Summary {
            virtual_size,
            source_bytes: counters.source_bytes.load(Ordering::Relaxed),
            written_bytes: counters.written_bytes.load(Ordering::Relaxed),
            ignored_bytes: counters.ignored_bytes.load(Ordering::Relaxed),
            zeroed: output.zeroed(),
            tail,
            gpt: None,
            direct: target.is_direct(),
        };
        Ok(Self {
            output,
            layout,
            summary,
        })
    }

    /// Progress so far.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The target.
    pub fn target(&self) -> &Target {
        self.output.target()
    }

    /// Writes what was held back and waits until it is on stable storage. If that fails, the places
    /// are cleared again, as far as the target permits.
    pub fn commit(mut self) -> Result<Summary> {
        let mut disk_end = self.summary.virtual_size;
        if self.layout == Layout::ExpandGpt {
            // If this fails, nothing of what is held back has been written.
            let (outcome, end) = self.output.expand_gpt(disk_end)?;
            self.summary.gpt = Some(outcome);
            disk_end = end;
        }
        if let Err(error) = self.output.write_held(disk_end) {
            // The first error is reported, because it has the cause.
            self.output.clear_held().ok();
            return Err(error);
        }
        let written = &self.output.counters().written_bytes;
        self.summary.written_bytes = written.load(Ordering::Relaxed);
        Ok(self.summary)
    }
}

/// Prepares the target, and clears what would make it look like a disk.
fn open_output(
    info: &ImageInfo,
    mut target: Target,
    options: &CopyOptions,
) -> Result<(Arc<Output>, Arc<StopSignal>)> {
    let stop = Arc::new(StopSignal::new(Arc::clone(&options.cancel)));
    stop.check()?;
    let keep_tail = options.tail == TailPolicy::Keep;
    target.prepare(info.virtual_size, info.alignment, keep_tail)?;
    let output = Output::new(
        target,
        Arc::clone(&options.counters),
        Limits {
            limiter: options.limiter.clone(),
            yielding: options.yielding.clone(),
            yields_reads: options.yields_reads,
            brake: Arc::clone(&options.brake),
        },
        Arc::clone(&stop),
    );
    (output.time()).busy(|| output.clear_ends(info.virtual_size, options.tail))?;
    Ok((Arc::new(output), stop))
}

fn start_writers(
    info: &ImageInfo,
    options: &CopyOptions,
    output: &Arc<Output>,
    stop: &Arc<StopSignal>,
) -> Result<WorkerPool> {
    let cluster_bytes = match info.compressed_clusters {
        0 => 0,
        _ => cluster_bytes(info),
    };
    let writer = || Writer::new(Arc::clone(output), options.engine.lease(), cluster_bytes);
    WorkerPool::start(worker_count(options), writer, Arc::clone(stop))
}

fn worker_count(options: &CopyOptions) -> usize {
    options.workers.clamp(1, MAX_WORKERS)
}

/// The decoded size of a compressed cluster.
fn cluster_bytes(info: &ImageInfo) -> usize {
    info.cluster_size
        .map_or(0, |size| usize::try_from(size).unwrap_or(usize::MAX))
}

/// Zeroes what the batch leaves out.
fn zero_the_rest(batch: &Arc<Batch>, output: &Output, workers: &WorkerPool) {
    if output.is_known_zero() {
        let bytes = batch.zero_ranges().map(|range| range.end - range.start);
        output.count_done(bytes.sum());
    } else {
        workers.submit_zeroing(batch, output.target().zero_step_bytes());
    }
}

/// Passes a batch of a local file to the workers, without the file's own holes.
fn submit_batch(
    mut cutter: Cutter,
    source: &Arc<LocalSource>,
    output: &Output,
    workers: &WorkerPool,
) -> Result<()> {
    let mut data = 0..0;
    loop {
        if let Some(hole) = hole_ahead(&cutter, source, &mut data)
            && let Some(guest) = cutter.skip_plain(hole.end)
        {
            if output.is_known_zero() {
                output.count_done(guest.end - guest.start);
            } else {
                workers.submit(Work::Zero(guest))?;
            }
            continue;
        }
        let Some(span) = cutter.next(u64::MAX, true) else {
            return Ok(());
        };
        output.count_source(span.host.end - span.host.start);
        let bytes = SpanBytes::Read(Arc::clone(source));
        workers.submit(Work::Extents { span, bytes })?;
    }
}

/// The hole in the image file with which the next extent begins. `data` is the last run of data
/// that was found.
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
