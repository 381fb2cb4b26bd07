//! The threads that move image bytes, apart from those that answer requests.
//!
//! A status request that shares its threads with a download waits behind every packet that is
//! being copied, and behind every thread of the transfer that has a core just then. So connections
//! to object storage have a runtime of their own, whose threads stand back.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// As many as there are ranges in flight for a job: more would wait for the same connections.
const MAX_THREADS: usize = 4;

/// How far these threads stand back, as those that decode do: who shares a core with them gets
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
                // A thread's own nice value. Where it cannot be set, all goes on as before.
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
