//! The threads that move image bytes, apart from those that answer requests.
//!
//! A status request that shares its threads with a download waits behind every packet that is being copied, and
//! behind every transfer thread that occupies a core. So connections to object storage have a runtime of their
//! own, whose threads have a lower priority.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// As many as a job has ranges in flight: more would wait for the same connections.
const MAX_THREADS: usize = 4;

/// The nice value of these threads, the same as that of the decoders: another thread on the same core gets
/// about three times their share of it.
const NICENESS: i32 = 5;

/// A runtime that can be dropped anywhere.
#[derive(Debug)]
pub(super) struct Mover {
    /// Some until drop.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Mover {
    pub(super) fn new() -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = Builder::new_multi_thread()
            .worker_threads(cores.min(MAX_THREADS))
            .thread_name("transfer")
            .on_thread_start(|| {
                // Each thread has its own nice value. If it cannot be set, only the priority is missing.
                rustix::process::nice(NICENESS).ok();
            })
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waits for nothing, which would be forbidden in a runtime's own threads.
            runtime.shutdown_background();
        }
    }
}
