//! The worker threads, and the bounded queue in front of them.
//!
//! ```text
//! feeder --submit--> queue --+--> worker: read, decode, join, write
//!         (waits while full) |
//!        backlog of zeroing -+   (taken when the queue is empty)
//! ```
//!
//! The first failure of a worker stops all others, and the feeder gets it from its next call or the
//! wait that it is in. A worker that panics fails like one that returns an error. Threads are
//! joined when the pool is dropped.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::stop::{StopSignal, cancelled};
use super::work::{Work, Worker};
use crate::error::{Error, ErrorKind, Result};
use crate::map::Batch;
use crate::sys;

/// Image bytes that may wait in the queue or be processed: enough to keep every worker busy through
/// the gap between two chunks of a download. This is the largest part of a copy's memory.
const MAX_QUEUED_BYTES: u64 = 16 << 20; // 16 MiB

/// By how much the workers' priority is lowered: other threads of the process, for instance a server that
/// answers requests, get about three times a worker's share of a busy core, and get it at once.
const WORKER_NICENESS: i32 = 5;

/// How often a wait checks whether the copy was cancelled from outside.
const CANCEL_CHECK: Duration = Duration::from_millis(50);

/// Zeroing that can be done at any time before the copy ends: it is done when the queue is empty,
/// so that it fills the pauses of a slow source instead of delaying it.
#[derive(Debug, Default)]
struct Backlog {
    /// A batch's zero ranges from this index on.
    guest: VecDeque<(Arc<Batch>, usize)>,
    /// The rest of the range that is being zeroed.
    started: Option<Range<u64>>,
}

impl Backlog {
    fn next(&mut self, step_bytes: u64) -> Option<Range<u64>> {
        let range = match self.started.take() {
            Some(range) => range,
            None => loop {
                let (batch, index) = self.guest.front_mut()?;
                if *index < batch.zero_range_count() {
                    *index += 1;
                    break batch.zero_range(*index - 1);
                }
                self.guest.pop_front();
            },
        };
        let end = range.end.min(range.start.saturating_add(step_bytes));
        if end < range.end {
            self.started = Some(end..range.end);
        }
        Some(range.start..end)
    }

    fn is_empty(&self) -> bool {
        self.started.is_none() && self.guest.is_empty()
    }
}

#[derive(Debug, Default)]
struct Queue {
    work: VecDeque<Work>,
    /// Not counted in `cost`.
    backlog: Backlog,
    zero_step_bytes: u64,
    /// Cost of what is queued or being processed.
    cost: u64,
    busy: usize,
    closed: bool,
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.work.is_empty() && self.backlog.is_empty() && self.busy == 0
    }

    /// The next work item, and what to subtract from `cost` when it is done.
    fn pop(&mut self) -> Option<(Work, u64)> {
        if let Some(work) = self.work.pop_front() {
            let cost = work.cost();
            return Some((work, cost));
        }
        let range = self.backlog.next(self.zero_step_bytes)?;
        Some((Work::Zero(range), 0))
    }
}

struct Shared {
    queue: Mutex<Queue>,
    /// Wakes workers: there is work, or there will be no more.
    ready: Condvar,
    /// Wakes the feeder: a worker has finished something.
    progress: Condvar,
    failure: Mutex<Option<Error>>,
    stop: Arc<StopSignal>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is consistent between any two statements of its users.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        // Later failures are consequences of the first.
        failure.get_or_insert(error);
        drop(failure);
        self.stop.fail();
        let _queue = self.lock();
        self.ready.notify_all();
        self.progress.notify_all();
    }

    /// What stopped the copy.
    fn take_failure(&self) -> Error {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .unwrap_or_else(cancelled)
    }
}

/// A pool of running threads.
pub(crate) struct WorkerPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl WorkerPool {
    /// Starts this many threads, each with its own worker.
    pub(crate) fn start<W: Worker>(
        count: usize,
        new_worker: impl Fn() -> W,
        stop: Arc<StopSignal>,
    ) -> Result<Self> {
        let mut pool = Self {
            shared: Arc::new(Shared {
                queue: Mutex::default(),
                ready: Condvar::new(),
                progress: Condvar::new(),
                failure: Mutex::new(None),
                stop,
            }),
            threads: Vec::with_capacity(count),
        };
        for number in 0..count.max(1) {
            let worker = new_worker();
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new()
                .name(format!("copy-{number}"))
                .spawn(move || {
                    sys::lower_priority(WORKER_NICENESS);
                    work(&shared, worker);
                })
                .map_err(|e| Error::io(ErrorKind::Write, "Starting a thread failed", e))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Queues a work item. Waits while the queue is full.
    pub(crate) fn submit(&self, work: Work) -> Result<()> {
        let cost = work.cost();
        let mut queue =
            self.wait_until(|queue| queue.cost == 0 || queue.cost + cost <= MAX_QUEUED_BYTES)?;
        queue.cost += cost;
        queue.work.push_back(work);
        self.shared.ready.notify_one();
        Ok(())
    }

    /// Has the batch's zero ranges zeroed when there is nothing more urgent, in steps of that size.
    pub(crate) fn submit_zeroing(&self, batch: &Arc<Batch>, step_bytes: u64) {
        let mut queue = self.shared.lock();
        queue.zero_step_bytes = step_bytes;
        queue.backlog.guest.push_back((Arc::clone(batch), 0));
        self.shared.ready.notify_all();
    }

    /// Waits until everything that was submitted is done.
    pub(crate) fn drain(&self) -> Result<()> {
        self.wait_until(Queue::is_idle).map(drop)
    }

    /// Fails once a worker has failed or the copy was cancelled.
    pub(crate) fn check(&self) -> Result<()> {
        if self.shared.stop.is_set() {
            return Err(self.shared.take_failure());
        }
        Ok(())
    }

    fn wait_until(&self, done: impl Fn(&Queue) -> bool) -> Result<MutexGuard<'_, Queue>> {
        let mut queue = self.shared.lock();
        loop {
            // Only the failure's own lock is taken inside, and no thread that holds it waits for
            // the queue.
            self.check()?;
            if done(&queue) {
                return Ok(queue);
            }
            queue = self
                .shared
                .progress
                .wait_timeout(queue, CANCEL_CHECK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits until everything is done and the threads have ended.
    pub(crate) fn finish(mut self) -> Result<()> {
        let drained = self.drain();
        self.join();
        drained
    }

    fn join(&mut self) {
        self.shared.lock().closed = true;
        self.shared.ready.notify_all();
        for thread in self.threads.drain(..) {
            // A panic in the thread is caught there and reported as the copy's failure.
            thread.join().ok();
        }
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            // If the pool was not finished, what is still queued is not wanted any more.
            self.shared.stop.fail();
            self.join();
        }
    }
}

/// The loop of a worker thread.
fn work(shared: &Shared, mut worker: impl Worker) {
    // Whether the queue counts this worker as busy: while it works, and until its writes are
    // complete.
    let mut is_busy = false;
    loop {
        let mut queue = shared.lock();
        let next = loop {
            if shared.stop.is_set() {
                return;
            }
            if let Some(next) = queue.pop() {
                break Some(next);
            }
            if is_busy {
                break None;
            }
            if queue.closed {
                return;
            }
            queue = shared
                .ready
                .wait_timeout(queue, CANCEL_CHECK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        };
        if !is_busy {
            queue.busy += 1;
            is_busy = true;
        }
        drop(queue);
        let (work, cost) = next.map_or((None, 0), |(work, cost)| (Some(work), cost));
        let is_flush = work.is_none();
        // A panic leaves the worker in an unknown state, and it is not used again.
        let failure = match catch_unwind(AssertUnwindSafe(|| match work {
            Some(work) => worker.run(work),
            None => worker.flush(),
        })) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(panic) => Some(Error::new(
                ErrorKind::Internal,
                format!(
                    "A copy worker panicked, which is a bug in this program: {}",
                    panic_text(&*panic)
                ),
            )),
        };
        if let Some(error) = failure {
            // Before the work counts as done, so that nobody takes it for a success.
            shared.fail(error);
            return;
        }
        let mut queue = shared.lock();
        queue.cost -= cost;
        if is_flush {
            queue.busy -= 1;
            is_busy = false;
        }
        drop(queue);
        shared.progress.notify_all();
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests;
