//! This host's place in an order's wave: claims it, renews it, and opens and closes the gate of the order's jobs.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use lvp_bus::async_nats::HeaderMap;
use lvp_bus::{BusError, key_subject, put};
use lvp_fleet::names::{WAVES_BUCKET, key_of};
use lvp_fleet::wave::{Record, Step, Turns};
use lvp_fleet::{Order, OrderId, Wave};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::watch::News;
use super::{Inner, unix_now};
use crate::backoff::Backoff;
use crate::error::chain;

/// How often it is asked what to do if nothing happens.
const TICK: Duration = Duration::from_millis(100);

/// How long a write may take before it is given up and tried again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a place is tried to be given back whose jobs have not failed, and only while it is held: it is free as well
/// once the others have heard nothing. That jobs have failed counts, so it is said until the broker has it.
const GIVE_BACK_ATTEMPTS: u32 = 5;

/// Longest pause between two of them.
const AGAIN_MAX: Duration = Duration::from_secs(5);

const NOT_COUNTED: &str = "The broker could not be told that this host has failed. It is told again until it knows, as the \
                           order's --max-failures may depend on it";

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Others'.
    Waiting,
    /// This host's.
    Held,
    /// Nobody's any more: so many have failed.
    Halted(u32),
}

/// This host's place, or its wait for one.
#[derive(Debug)]
pub(super) struct Place {
    turn: watch::Receiver<Turn>,
    leave: oneshot::Sender<bool>,
    task: AbortOnDropHandle<()>,
}

impl Place {
    /// Begins to wait for a place.
    pub(super) fn enter(
        fleet: &Arc<Inner>,
        order: &Order,
        wave: Wave,
        stop: &CancellationToken,
    ) -> Self {
        let mut hasher = DefaultHasher::new();
        (fleet.settings.host.as_str(), order.id.as_str()).hash(&mut hasher);
        let keeper = Keeper {
            turns: Turns::new(
                fleet.settings.host.clone(),
                order.revision,
                wave,
                hasher.finish(),
            ),
            news: fleet.watch.listen(&order.id),
            order: order.id.clone(),
            prefix: order.job_prefix(),
            deadline: order.deadline,
            fleet: Arc::clone(fleet),
        };
        let (told, turn) = watch::channel(Turn::Waiting);
        let (leave, left) = oneshot::channel();
        let stop = stop.clone();
        let task = fleet.tasks.spawn(async move {
            stop.run_until_cancelled(keeper.keep(&told, left)).await;
        });
        Self {
            turn,
            leave,
            task: AbortOnDropHandle::new(task),
        }
    }

    /// Whose turn it is now.
    pub(super) fn now(&self) -> Turn {
        *self.turn.borrow()
    }

    /// Returns when that has changed.
    pub(super) async fn changed(&self) {
        let mut turn = self.turn.clone();
        turn.mark_unchanged();
        if turn.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Gives the place back.
    pub(super) async fn leave(self, has_failed: bool) {
        // A task that has ended has nothing to give back.
        self.leave.send(has_failed).ok();
        self.task.await.ok();
    }
}

struct Keeper {
    turns: Turns,
    news: mpsc::UnboundedReceiver<News>,
    order: OrderId,
    prefix: String,
    deadline: u64,
    fleet: Arc<Inner>,
}

impl Keeper {
    async fn keep(mut self, told: &watch::Sender<Turn>, mut left: oneshot::Receiver<bool>) {
        loop {
            while let Ok(news) = self.news.try_recv() {
                self.hear(news);
            }
            if let Ok(has_failed) = left.try_recv() {
                return self.give_back(has_failed).await;
            }
            match self.turns.next(self.fleet.moment()) {
                Step::Write { record, expected } => drop(self.write(record, expected).await),
                Step::Begin => {
                    tracing::info!(component = "fleet", order = %self.order, "This host has its turn");
                    self.fleet.services.gates.open(&self.prefix);
                    told.send_replace(Turn::Held);
                }
                Step::Stop => {
                    self.fleet.services.gates.close(&self.prefix);
                    told.send_replace(Turn::Waiting);
                    tracing::warn!(
                        component = "fleet", order = %self.order,
                        "This host has lost its turn, as it could not renew it: its jobs stop, and go on with the next"
                    );
                    self.fleet.jobs.put_back(&self.prefix).await;
                }
                Step::Halt { failures } => {
                    told.send_replace(Turn::Halted(failures));
                    // Nothing more happens, but to be told to leave.
                    if let Ok(has_failed) = left.await {
                        self.give_back(has_failed).await;
                    }
                    return;
                }
                Step::Idle => self.idle().await,
            }
        }
    }

    async fn idle(&mut self) {
        let news = tokio::time::timeout(TICK, self.news.recv()).await;
        match news {
            Ok(Some(news)) => self.hear(news),
            // Nobody will tell anything any more.
            Ok(None) => tokio::time::sleep(TICK).await,
            Err(_) => {}
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Follows(since) => self.turns.follows(since),
            News::IsCurrent => self.turns.is_current(),
            News::LostTrack => self.turns.lost_track(),
            News::Claim {
                host,
                record,
                number,
                at,
            } => {
                self.turns.observed(&host, record, number, at);
            }
            News::Unreadable { host, number, at } => self.turns.unreadable(&host, number, at),
        }
    }

    /// Writes this host's key. Returns whether the broker has it.
    async fn write(&mut self, record: Record, expected: u64) -> bool {
        let sent = self.fleet.moment();
        let ends = self.turns.ends().map(|ends| ends.saturating_sub(sent));
        // Never past the end of the lease, so that it is noticed.
        let limit = ends
            .filter(|left| !left.is_zero())
            .map_or(WRITE_TIMEOUT, |left| left.min(WRITE_TIMEOUT));
        let broker = self.fleet.broker.borrow().clone();
        let (Some(broker), Ok(bytes)) = (broker, serde_json::to_vec(&record)) else {
            tokio::time::sleep(TICK).await;
            self.turns.failed(sent, false);
            return false;
        };
        let subject = key_subject(
            WAVES_BUCKET,
            &key_of(&self.order, &self.fleet.settings.host),
        );
        let written = put(
            &broker,
            &subject,
            bytes.into(),
            Some(expected),
            HeaderMap::new(),
        );
        match tokio::time::timeout(limit, written).await {
            Ok(Ok(number)) => {
                self.turns.written(record, number, sent);
                true
            }
            Ok(Err(BusError::Conflict)) => {
                self.turns.failed(sent, true);
                self.fleet.watch.doubt();
                false
            }
            Ok(Err(error)) => {
                let error = chain(&error);
                tracing::debug!(component = "fleet", order = %self.order, error, "A claim cannot be written");
                self.turns.failed(sent, false);
                tokio::time::sleep(TICK).await;
                false
            }
            Err(_) => {
                self.turns.failed(sent, false);
                false
            }
        }
    }

    async fn give_back(&mut self, has_failed: bool) {
        let mut backoff = Backoff::doubling(TICK, AGAIN_MAX);
        let begun = self.fleet.moment();
        let (mut attempts, mut due, mut said) = (0, begun, false);
        loop {
            while let Ok(news) = self.news.try_recv() {
                self.hear(news);
            }
            let now = self.fleet.moment();
            let is_over = match has_failed {
                true => unix_now() >= self.deadline,
                false => attempts >= GIVE_BACK_ATTEMPTS || !self.turns.holds(now),
            };
            if is_over || self.turns.has_given_back(has_failed) {
                return;
            }
            // What is sent while there is no connection would only pile up, and what is sent without knowing the key's number
            // would be refused.
            let is_up = self.fleet.link.borrow().is_up;
            let is_late = now >= begun + WRITE_TIMEOUT;
            if has_failed && is_late && !std::mem::replace(&mut said, true) {
                tracing::warn!(component = "fleet", order = %self.order, "{NOT_COUNTED}");
            }
            if now >= due && is_up && self.turns.is_informed() {
                let Step::Write { record, expected } = self.turns.give_back(has_failed) else {
                    return;
                };
                if self.write(record, expected).await {
                    return;
                }
                attempts += 1;
                due = self.fleet.moment() + backoff.failed(None).unwrap_or(AGAIN_MAX);
            }
            self.idle().await;
        }
    }
}
