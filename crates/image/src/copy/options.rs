//! Options, progress and summary of a copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::brake::Brake;
use super::engine::Engine;
use super::limit::RateLimiter;
use crate::device::ZeroMethod;
use crate::gpt;

/// Each worker takes 6 MiB, and decodes about 0.8 GiB/s of zlib on a core of its own
/// (docs/benchmarks.md).
pub(crate) const MAX_WORKERS: usize = 5;

/// What happens to a target's bytes after the end of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TailPolicy {
    /// They read as zero afterwards.
    #[default]
    Zero,
    /// The first and last MiB of them read as zero, so that no partition table or file system label
    /// is found there; the rest is kept.
    Edges,
    /// They are kept, except for the rest of the block in which the disk ends.
    Keep,
}

/// What becomes of the disk's partition table on a target that is larger than the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// It stays as it is in the image.
    #[default]
    AsIs,
    /// A GPT's backup is moved to the end of the target ([`gpt`]).
    ExpandGpt,
}

/// Progress of a copy. Values only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes of the image that were read.
    pub source_bytes: AtomicU64,
    /// Bytes of the disk that are done: written, zeroed, held back, or known to be zero. Equals the
    /// virtual size when the copy is complete.
    pub guest_bytes: AtomicU64,
    /// Bytes written to the target, including zeros in the middle of data.
    pub written_bytes: AtomicU64,
    /// Bytes of the target that were zeroed, including its tail.
    pub zeroed_bytes: AtomicU64,
    /// Bytes after a compressed stream that were ignored, as the codec's own tool does.
    pub ignored_bytes: AtomicU64,
    /// Where the time of the copy's threads goes.
    pub time: TimeSpent,
}

/// Where the time of a copy's threads goes, in nanoseconds. The threads' times are added up, so that only the
/// proportions mean something.
#[derive(Debug, Default)]
pub struct TimeSpent {
    /// All time except waits for work: what is neither of the following is decoding.
    pub busy_ns: AtomicU64,
    /// Waiting for devices and files.
    pub device_ns: AtomicU64,
    /// Waiting because of a limit of the rate.
    pub limit_ns: AtomicU64,
    /// Waiting because of [`CopyOptions::yielding`].
    pub yield_ns: AtomicU64,
}

impl TimeSpent {
    /// Runs `work` and adds the time it takes to a counter.
    pub(crate) fn add<T>(counter: &AtomicU64, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let value = work();
        Self::count(counter, started.elapsed());
        value
    }

    pub(crate) fn count(counter: &AtomicU64, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        counter.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Runs `work`, which waits for a device.
    pub(crate) fn device<T>(&self, work: impl FnOnce() -> T) -> T {
        Self::add(&self.device_ns, work)
    }

    /// Runs `work`, which is part of the copy.
    pub(crate) fn busy<T>(&self, work: impl FnOnce() -> T) -> T {
        Self::add(&self.busy_ns, work)
    }
}

/// How to copy.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// What this copy shares with the program's other copies.
    pub engine: Engine,
    /// Threads that decode and write.
    pub workers: usize,
    /// Where progress is counted.
    pub counters: Arc<Counters>,
    /// Set by the owner to stop the copy.
    pub cancel: Arc<AtomicBool>,
    /// What happens after the end of the disk.
    pub tail: TailPolicy,
    /// What becomes of the disk's partition table.
    pub layout: Layout,
    /// Limits the rate of writes; several copies may share it.
    pub limiter: Option<Arc<RateLimiter>>,
    /// A second limit, which is in force only while others need the device, and is accounted apart.
    pub yielding: Option<Arc<RateLimiter>>,
    /// Whether a local image is read from the same device, so that reading it counts for that limit, too.
    pub yields_reads: bool,
    /// Holds the copy still.
    pub brake: Arc<Brake>,
}

impl CopyOptions {
    /// Options for a target with a device of its own, with a number of threads that suits the
    /// machine.
    pub fn new(engine: &Engine, tail: TailPolicy) -> Self {
        Self {
            engine: engine.clone(),
            workers: default_workers(),
            counters: Arc::default(),
            cancel: Arc::default(),
            tail,
            layout: Layout::AsIs,
            limiter: None,
            yielding: None,
            yields_reads: false,
            brake: Arc::default(),
        }
    }
}

/// One thread more than cores: while it waits for the disk, the others decode.
fn default_workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores + 1).min(MAX_WORKERS)
}

/// Bytes that were zeroed by one method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zeroed {
    /// The method.
    pub method: ZeroMethod,
    /// How many.
    pub bytes: u64,
}

/// What happened to a target's bytes after the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tail {
    /// How many there are.
    pub bytes: u64,
    /// How many of them certainly read as zero; the others were kept.
    pub zero_bytes: u64,
}

/// The result of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Size of the disk.
    pub virtual_size: u64,
    /// Image bytes that were read.
    pub source_bytes: u64,
    /// Bytes written to the target.
    pub written_bytes: u64,
    /// Bytes after a compressed stream that were ignored, as the codec's own tool does.
    pub ignored_bytes: u64,
    /// Zeroed bytes by method; empty if everything was known to be zero.
    pub zeroed: Vec<Zeroed>,
    /// What happened to the bytes after the disk.
    pub tail: Tail,
    /// What became of the GPT, if that was asked for; known after the commit.
    pub gpt: Option<gpt::Outcome>,
    /// Whether writes bypassed the page cache.
    pub direct: bool,
}
