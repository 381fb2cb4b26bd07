//! Items for a receiver that may be slow or down: kept in memory, sent in batches, and sent again
//! after failures.
//!
//! ```text
//! push --> queue (bounded; the oldest go first) --> batch --> Receiver::deliver
//!                    ^                                |  Delivered, Refused: the batch leaves the queue
//!                    '---- back-off, then from the ---'  Failed: it stays
//!                          front as it is then
//! ```
//!
//! [`Outbox::push`] never waits for the receiver: it takes a lock that is never held over an `await`
//! or a system call. A batch stays in the queue until the receiver has taken it, so a queue that
//! overflows during an outage loses its oldest items, including those that are being sent. A
//! receiver that answers too late may get a batch twice.
//!
//! Trouble is logged when it begins and when it is over, at most once a minute: log lines themselves
//! may be sent through an outbox.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use reqwest::{RequestBuilder, StatusCode};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::error::chain;
use crate::web::retry_after;

/// Longest wait once the outbox is being closed.
const CLOSING_WAIT: Duration = Duration::from_millis(200);

/// Trouble is logged at most once in this time.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Limits of the queue and of batches.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most items that wait.
    pub queue_items: usize,
    /// Most bytes that wait.
    pub queue_bytes: usize,
    /// Most items in one batch.
    pub batch_items: usize,
    /// Most bytes in one batch; a larger item is sent alone.
    pub batch_bytes: usize,
    /// How long an item waits for others to share its batch.
    pub linger: Duration,
    /// First wait after a failure; each further one is twice as long.
    pub backoff_min: Duration,
    /// Longest wait, whatever the receiver asks for.
    pub backoff_max: Duration,
    /// How long one attempt may take.
    pub attempt_timeout: Duration,
}

/// The result of sending a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver has it.
    Delivered,
    /// The receiver will never accept it.
    Refused(String),
    /// The receiver may accept it later.
    Failed {
        /// Why it was not accepted.
        why: String,
        /// How long the receiver wants to be left alone.
        wait: Option<Duration>,
    },
}

/// A destination for batches.
pub trait Receiver<T>: Send + Sync + 'static {
    /// Sends one batch, once.
    fn deliver(&self, batch: &[T]) -> impl Future<Output = Outcome> + Send;
}

/// Counts of an outbox.
#[derive(Debug, Default)]
pub struct Counts {
    /// Items that were delivered.
    pub sent: AtomicU64,
    /// Items that were dropped to make room for newer ones.
    pub overflowed: AtomicU64,
    /// Items that the receiver refused.
    pub refused: AtomicU64,
}

/// The queue.
#[derive(Debug)]
pub struct Outbox<T> {
    /// The receiver's name in the log.
    name: &'static str,
    limits: Limits,
    queue: Mutex<Queue<T>>,
    arrived: Notify,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    /// How many items have left the queue, which is the number of the item at its front.
    front: u64,
}

impl<T> Queue<T> {
    fn pop(&mut self) {
        if let Some((_, bytes)) = self.items.pop_front() {
            self.bytes -= bytes;
            self.front += 1;
        }
    }
}

/// Items that are sent together, and the number of the first item after them.
struct Outgoing<T> {
    items: Vec<T>,
    end: u64,
}

impl<T: Clone + Send + Sync + 'static> Outbox<T> {
    /// An empty queue for the receiver with this name.
    pub fn new(name: &'static str, limits: Limits) -> Self {
        let queue = Queue {
            items: VecDeque::new(),
            bytes: 0,
            front: 0,
        };
        Self {
            name,
            limits,
            queue: Mutex::new(queue),
            arrived: Notify::new(),
            counts: Arc::default(),
        }
    }

    /// The counts so far.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Adds an item of this many bytes. If there is no room, the oldest items are dropped.
    pub fn push(&self, item: T, bytes: usize) {
        let mut overflowed = 0;
        let mut queue = self.lock();
        queue.items.push_back((item, bytes));
        queue.bytes += bytes;
        while queue.items.len() > self.limits.queue_items || queue.bytes > self.limits.queue_bytes {
            queue.pop();
            overflowed += 1;
        }
        drop(queue);
        self.counts
            .overflowed
            .fetch_add(overflowed, Ordering::Relaxed);
        self.arrived.notify_one();
    }

    /// Sends items from now on. Must be called within a runtime.
    pub fn start(self: &Arc<Self>, receiver: impl Receiver<T>) -> Running<T> {
        let closing = CancellationToken::new();
        let outbox = Arc::clone(self);
        let task = tokio::spawn({
            let closing = closing.clone();
            async move { outbox.run(&receiver, &closing).await }
        });
        Running {
            outbox: Arc::clone(self),
            closing,
            task,
        }
    }

    /// Sends until the queue is closed and empty.
    async fn run(&self, receiver: &impl Receiver<T>, closing: &CancellationToken) {
        let mut backoff = Backoff::doubling(self.limits.backoff_min, self.limits.backoff_max);
        let mut complaints = Complaints::new(self.name);
        while self.wait(closing).await {
            let batch = self.batch();
            let sent = receiver.deliver(&batch.items);
            let outcome = tokio::time::timeout(self.limits.attempt_timeout, sent).await;
            let late = || Outcome::Failed {
                why: "It did not answer in time".to_owned(),
                wait: None,
            };
            match outcome.unwrap_or_else(|_| late()) {
                Outcome::Delivered => {
                    self.remove_until(batch.end, &self.counts.sent);
                    complaints.settle(dropped(&self.counts));
                    backoff.reset();
                }
                Outcome::Refused(why) => {
                    self.remove_until(batch.end, &self.counts.refused);
                    complaints.complain(&why, dropped(&self.counts));
                    backoff.reset();
                }
                Outcome::Failed { why, wait } => {
                    complaints.complain(&why, dropped(&self.counts));
                    pause(backoff.failed(wait), closing).await;
                }
            }
        }
    }

    /// Waits for an item, then a moment for more. False if the queue is empty and closed.
    async fn wait(&self, closing: &CancellationToken) -> bool {
        while self.lock().items.is_empty() {
            tokio::select! {
                () = self.arrived.notified() => {}
                () = closing.cancelled() => return !self.lock().items.is_empty(),
            }
        }
        let full = async {
            while !self.has_full_batch() {
                self.arrived.notified().await;
            }
        };
        tokio::select! {
            () = full => {}
            () = tokio::time::sleep(self.limits.linger) => {}
            () = closing.cancelled() => {}
        }
        true
    }

    fn has_full_batch(&self) -> bool {
        let queue = self.lock();
        queue.items.len() >= self.limits.batch_items || queue.bytes >= self.limits.batch_bytes
    }

    /// The next batch: the oldest items.
    fn batch(&self) -> Outgoing<T> {
        let queue = self.lock();
        let mut bytes = 0;
        let room = |(_, size): &&(T, usize)| {
            bytes += size;
            bytes <= self.limits.batch_bytes
        };
        let fitting = queue.items.iter().take(self.limits.batch_items);
        let count = fitting.take_while(room).count();
        let count = count.max(1).min(queue.items.len());
        let items = queue.items.iter().take(count);
        Outgoing {
            items: items.map(|(item, _)| item.clone()).collect(),
            end: queue.front + count as u64,
        }
    }

    /// Removes everything before this number from the queue. Items that were dropped while they
    /// were being sent were counted then, whatever the result.
    fn remove_until(&self, end: u64, count: &AtomicU64) {
        let mut queue = self.lock();
        while queue.front < end && !queue.items.is_empty() {
            queue.pop();
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        // No panic can happen while the lock is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An outbox with the task that sends.
#[derive(Debug)]
pub struct Running<T> {
    outbox: Arc<Outbox<T>>,
    closing: CancellationToken,
    task: JoinHandle<()>,
}

impl<T: Clone + Send + Sync + 'static> Running<T> {
    /// The queue.
    pub fn outbox(&self) -> &Arc<Outbox<T>> {
        &self.outbox
    }

    /// Sends what is left, within this time. Returns how many items were not delivered.
    pub async fn close(self, time: Duration) -> usize {
        self.closing.cancel();
        let abort = self.task.abort_handle();
        if tokio::time::timeout(time, self.task).await.is_err() {
            abort.abort();
        }
        self.outbox.lock().items.len()
    }
}

/// Logs when a receiver's trouble begins and when it is over, at most once a minute.
#[derive(Debug)]
pub struct Complaints {
    receiver: &'static str,
    /// Whether the last line said that there is trouble.
    is_known: bool,
    last: Option<Instant>,
}

impl Complaints {
    /// For the receiver with this name.
    pub fn new(receiver: &'static str) -> Self {
        Self {
            receiver,
            is_known: false,
            last: None,
        }
    }

    /// A batch was not delivered; this many items have been given up so far.
    pub fn complain(&mut self, why: &str, dropped: u64) {
        let recently = |at: Instant| at.elapsed() < COMPLAINT_INTERVAL;
        if self.last.is_some_and(recently) {
            return;
        }
        self.last = Some(Instant::now());
        self.is_known = true;
        tracing::warn!(
            component = "delivery",
            receiver = self.receiver,
            error = why,
            dropped,
            "Cannot deliver to a receiver; trying again"
        );
    }

    /// A batch was delivered. If there was trouble, logs that it is over.
    pub fn settle(&mut self, dropped: u64) {
        if std::mem::take(&mut self.is_known) {
            tracing::info!(
                component = "delivery",
                receiver = self.receiver,
                dropped,
                "Delivery to a receiver works again"
            );
        }
    }
}

/// Waits, or returns early once the outbox is being closed.
async fn pause(wait: Option<Duration>, closing: &CancellationToken) {
    let wait = wait.unwrap_or_default();
    if closing.is_cancelled() {
        tokio::time::sleep(CLOSING_WAIT.min(wait)).await;
    } else {
        closing.run_until_cancelled(tokio::time::sleep(wait)).await;
    }
}

fn dropped(counts: &Counts) -> u64 {
    counts.overflowed.load(Ordering::Relaxed) + counts.refused.load(Ordering::Relaxed)
}

/// Sends a request and interprets the answer. Never names the URL, which may hold credentials.
pub async fn send(request: RequestBuilder) -> Outcome {
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => {
            let why = chain(&error.without_url());
            return Outcome::Failed { why, wait: None };
        }
    };
    let status = response.status();
    if status.is_success() {
        return Outcome::Delivered;
    }
    let why = format!("It answered {status}");
    let passes = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        );
    match passes {
        true => Outcome::Failed {
            why,
            wait: retry_after(response.headers(), SystemTime::now()),
        },
        false => Outcome::Refused(why),
    }
}

#[cfg(test)]
mod tests;
