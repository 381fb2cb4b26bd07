//! How a copy is made, its progress, and its summary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::engine::Engine;
use super::limit::RateLimiter;
use crate::device::ZeroMethod;

/// Each takes 6 MiB, and decodes some 0.8 GiB/s of zlib on a core of its own (docs/benchmarks.md).
pub(crate) const MAX_WORKERS: usize = 5;

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
    /// Bytes of the disk that are done: written, zeroed, held back, or known to be zero. Equals
    /// the virtual size when the copy is complete.
    pub guest_bytes: AtomicU64,
    /// Bytes written to the target, zeros in the middle of data included.
    pub written_bytes: AtomicU64,
    /// Bytes of the target that were zeroed, its tail included.
    pub zeroed_bytes: AtomicU64,
    /// Bytes behind a compressed stream that were ignored, as the codec's own tool does.
    pub ignored_bytes: AtomicU64,
}

/// How to copy.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// What this copy shares with others of the program.
    pub engine: Engine,
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
    pub fn new(engine: &Engine, tail: TailPolicy) -> Self {
        Self {
            engine: engine.clone(),
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
    /// Bytes behind a compressed stream that were ignored, as the codec's own tool does.
    pub ignored_bytes: u64,
    /// What was zeroed, by method; empty where everything was known to be zero.
    pub zeroed: Vec<Zeroed>,
    /// What became of the bytes beyond the disk.
    pub tail: Tail,
    /// Whether writes bypassed the page cache.
    pub direct: bool,
}
