//! Items on their way to a receiver that may be slow or down: kept in memory, sent in batches, tried
//! again.
//!
//! ```text
//! push --> queue (bounded; the oldest go first) --> batch --> Receiver::deliver
//!                    ^                                |  Delivered, Refused: the batch leaves the queue
//!                    '---- back-off, then from the ---'  Failed: it stays
//!                          front as it is then
//! ```
//!
//! [`Outbox::push`] never waits for the receiver: it takes a lock that nobody holds over an `await`
//! or a system call. What is sent stays in the queue until the receiver has it, so that a queue that
//! overflows during an outage loses the oldest items, the ones under way included. A receiver that
//! answers too late may get a batch twice.
//!
//! Trouble is logged when it begins and when it is over, and no more often than once a minute: the log
//! itself may travel this way.

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

/// Once the outbox is being closed there is no time for long waits.
const CLOSING_WAIT: Duration = Duration::from_millis(200);

/// Trouble is not logged more often than this.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// How much is kept, and how it is sent.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Items that wait at most.
    pub queue_items: usize,
    /// Bytes that wait at most.
    pub queue_bytes: usize,
    /// Items of one batch at most.
    pub batch_items: usize,
    /// Bytes of one batch at most; an item that is larger goes alone.
    pub batch_bytes: usize,
    /// How long an item waits for company.
    pub linger: Duration,
    /// First wait after a failure; each further one is twice as long.
    pub backoff_min: Duration,
    /// Longest wait, whatever the receiver asks for.
    pub backoff_max: Duration,
    /// How long one attempt may take.
    pub attempt_timeout: Duration,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver has it.
    Delivered,
    /// The receiver will never take it.
    Refused(String),
    /// It may be taken later.
    Failed {
        /// Why it was not taken.
        why: String,
        /// When the receiver wants to be asked again.
        wait: Option<Duration>,
    },
}

/// Where batches go.
pub trait Receiver<T>: Send + Sync + 'static {
    /// Sends one batch, once.
    fn deliver(&self, batch: &[T]) -> impl Future<Output = Outcome> + Send;
}

/// What an outbox has done.
#[derive(Debug, Default)]
pub struct Counts {
    /// Items that the receiver has.
    pub sent: AtomicU64,
    /// Items that made room for newer ones.
    pub overflowed: AtomicU64,
    /// Items that the receiver will not take.
    pub refused: AtomicU64,
}

/// The queue.
#[derive(Debug)]
pub struct Outbox<T> {
    /// Names the receiver in the log.
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
    /// How many items have left: the front's number.
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

/// Items that are sent together, and the number of the first that is not among them.
struct Outgoing<T> {
    items: Vec<T>,
    end: u64,
}

impl<T: Clone + Send + Sync + 'static> Outbox<T> {
    /// An empty queue for the receiver of this name.
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

    /// What it has done so far.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Adds an item of so many bytes, in place of the oldest when there is no room.
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

    /// Sends what is pushed, from now on. Must be called within a runtime.
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

    /// Until it is told to close and nothing is left.
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

    /// Waits for an item, then a moment for more. False when there is none and will be none.
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

    /// What is sent next: the oldest items.
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

    /// Everything before this number has been dealt with. What made room while it was under way was
    /// counted then, whatever has become of it since.
    fn remove_until(&self, end: u64, count: &AtomicU64) {
        let mut queue = self.lock();
        while queue.front < end && !queue.items.is_empty() {
            queue.pop();
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        // No panic can happen while it is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An outbox that sends.
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

    /// Sends what is left, within so much time. Returns how many items were not delivered.
    pub async fn close(self, time: Duration) -> usize {
        self.closing.cancel();
        let abort = self.task.abort_handle();
        if tokio::time::timeout(time, self.task).await.is_err() {
            abort.abort();
        }
        self.outbox.lock().items.len()
    }
}

/// What the log says of a receiver in trouble: when that begins and when it is over, and no more often
/// than once a minute.
#[derive(Debug)]
pub struct Complaints {
    receiver: &'static str,
    /// Whether the last word was that there is trouble.
    is_known: bool,
    last: Option<Instant>,
}

impl Complaints {
    /// About the receiver of this name.
    pub fn new(receiver: &'static str) -> Self {
        Self {
            receiver,
            is_known: false,
            last: None,
        }
    }

    /// Something was not taken; so much was given up so far.
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
            "Receiver does not take what is sent to it"
        );
    }

    /// Something was taken: if there was trouble, it is over, and that is told.
    pub fn settle(&mut self, dropped: u64) {
        if std::mem::take(&mut self.is_known) {
            tracing::info!(
                component = "delivery",
                receiver = self.receiver,
                dropped,
                "Receiver takes what is sent to it again"
            );
        }
    }
}

/// Waits, unless there is no time for that any more.
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

/// Sends a request and says what its answer means for what it carries. Never names the URL, which may
/// hold credentials.
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
