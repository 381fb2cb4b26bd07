//! All hosts' claims on places, followed while any order here has a wave.
//!
//! A break must never go unnoticed (see `lvp_fleet::wave`), so this is a consumer that is made here, read by heartbeats,
//! and thrown away at the first doubt: not one that the library repairs by itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use lvp_bus::async_nats::jetstream::Context;
use lvp_bus::async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use lvp_bus::{BusError, Entry, not_followed};
use lvp_fleet::names::{WAVES_BUCKET, parsed_key};
use lvp_fleet::wave::{Moment, Record};
use lvp_fleet::{HostName, OrderId};
use tokio::sync::{Notify, mpsc};

use super::Inner;
use crate::error::chain;

/// Pause before claims are followed anew.
const PAUSE: Duration = Duration::from_secs(1);

/// How often the broker says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// How often it is asked whether anybody still listens.
const UNWANTED: Duration = Duration::from_secs(30);

/// What those who wait for a place are told.
#[derive(Debug, Clone)]
pub(super) enum News {
    /// Claims are followed since this moment.
    Follows(Moment),
    /// All claims that there were then have been told.
    IsCurrent,
    /// Some may have been missed.
    LostTrack,
    /// A host has written its key.
    Claim {
        host: HostName,
        record: Record,
        number: u64,
        at: Moment,
    },
    /// A host's key holds no claim: it was removed, or written by something else.
    Unreadable {
        host: HostName,
        number: u64,
        at: Moment,
    },
}

/// Who is told.
#[derive(Debug, Default)]
pub(super) struct Watch {
    state: Mutex<State>,
    /// Somebody has come.
    came: Notify,
    /// Somebody has doubts about what is followed.
    doubt: Notify,
}

/// What was written under a key, with its number, and when it was seen.
#[derive(Debug, Default)]
struct Known {
    /// The last claim.
    read: Option<(Record, u64, Moment)>,
    /// What came after it, if that is none.
    unread: Option<(u64, Moment)>,
}

impl Known {
    fn news(&self, host: &HostName) -> impl Iterator<Item = News> {
        let (claim, other) = (host.clone(), host.clone());
        let claim = self.read.map(|(record, number, at)| News::Claim {
            host: claim,
            record,
            number,
            at,
        });
        let other = self.unread.map(|(number, at)| News::Unreadable {
            host: other,
            number,
            at,
        });
        claim.into_iter().chain(other)
    }
}

#[derive(Debug, Default)]
struct State {
    listeners: Vec<(OrderId, mpsc::UnboundedSender<News>)>,
    since: Option<Moment>,
    is_current: bool,
    claims: HashMap<(OrderId, HostName), Known>,
}

impl Watch {
    /// The news about an order's claims, from what is known now on.
    pub(super) fn listen(&self, order: &OrderId) -> mpsc::UnboundedReceiver<News> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.lock();
        if let Some(since) = state.since {
            // The receiver is at hand, so nothing can fail.
            sender.send(News::Follows(since)).ok();
            for ((of, host), known) in &state.claims {
                if of == order {
                    for news in known.news(host) {
                        sender.send(news).ok();
                    }
                }
            }
            if state.is_current {
                sender.send(News::IsCurrent).ok();
            }
        }
        state.listeners.push((order.clone(), sender));
        drop(state);
        self.came.notify_one();
        receiver
    }

    /// Follows anew: the broker's answers do not fit what was followed.
    pub(super) fn doubt(&self) {
        self.doubt.notify_one();
    }

    fn tell(&self, order: Option<&OrderId>, news: &News) {
        let mut state = self.lock();
        // Those who no longer listen are dropped.
        state.listeners.retain(|(of, sender)| {
            let is_for = order.is_none_or(|order| order == of);
            match is_for {
                true => sender.send(news.clone()).is_ok(),
                false => !sender.is_closed(),
            }
        });
    }

    fn is_wanted(&self) -> bool {
        let mut state = self.lock();
        state.listeners.retain(|(_, sender)| !sender.is_closed());
        !state.listeners.is_empty()
    }

    fn begin(&self, now: Moment) {
        let mut state = self.lock();
        state.since = Some(now);
        state.is_current = false;
        state.claims.clear();
        drop(state);
        self.tell(None, &News::Follows(now));
    }

    fn current(&self) {
        self.lock().is_current = true;
        self.tell(None, &News::IsCurrent);
    }

    fn lose(&self) {
        let mut state = self.lock();
        (state.since, state.is_current) = (None, false);
        state.claims.clear();
        drop(state);
        self.tell(None, &News::LostTrack);
    }

    fn entry(&self, entry: &Entry, now: Moment) {
        let prefix = lvp_bus::key_subject(WAVES_BUCKET, "");
        let key = entry.subject.strip_prefix(&prefix).and_then(parsed_key);
        let Some((order, host)) = key else {
            return;
        };
        let number = entry.number;
        let mut state = self.lock();
        let known = state.claims.entry((order.clone(), host.clone()));
        let known = known.or_default();
        let news = match serde_json::from_slice::<Record>(&entry.payload) {
            Ok(record) => {
                (known.read, known.unread) = (Some((record, number, now)), None);
                News::Claim {
                    host,
                    record,
                    number,
                    at: now,
                }
            }
            // Removed, or written by something else: that does not say that the host has stopped.
            Err(_) => {
                known.unread = Some((number, now));
                News::Unreadable {
                    host,
                    number,
                    at: now,
                }
            }
        };
        drop(state);
        self.tell(Some(&order), &news);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whatever a panic leaves out of it is told anew with the next break.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows claims for ever, while somebody wants to know.
pub(super) async fn run(fleet: &Arc<Inner>, broker: &Context) {
    let mut link = fleet.link.subscribe();
    let watch = &fleet.watch;
    loop {
        while !watch.is_wanted() {
            watch.came.notified().await;
        }
        link.wait_for(|link| link.is_up).await.ok();
        link.mark_unchanged();
        match consumer(fleet, broker).await {
            Ok(consumer) => {
                let why = tokio::select! {
                    why = drain(fleet, &consumer) => why,
                    _ = link.changed() => "the connection has changed".to_owned(),
                    () = watch.doubt.notified() => "the broker has something else".to_owned(),
                    () = unwanted(watch) => "nobody waits for a place".to_owned(),
                };
                tracing::debug!(component = "fleet", why, "Claims are no longer followed");
                watch.lose();
            }
            Err(error) => {
                let error = chain(&error);
                tracing::debug!(component = "fleet", error, "Claims cannot be followed");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Returns once nobody listens any more.
async fn unwanted(watch: &Watch) {
    while watch.is_wanted() {
        tokio::time::sleep(UNWANTED).await;
    }
}

async fn consumer(fleet: &Inner, broker: &Context) -> Result<Consumer<pull::Config>, BusError> {
    let stream = format!("KV_{WAVES_BUCKET}");
    let name = fleet.settings.host.part();
    // One of an earlier connection would go on where that one ended.
    broker
        .delete_consumer_from_stream(&name, &stream)
        .await
        .ok();
    let config = pull::Config {
        name: Some(name),
        deliver_policy: DeliverPolicy::LastPerSubject,
        ack_policy: AckPolicy::None,
        filter_subject: lvp_bus::key_subject(WAVES_BUCKET, ">"),
        inactive_threshold: Duration::from_secs(60),
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    };
    let made = broker.create_consumer_on_stream(config, &stream).await;
    made.map_err(|error| not_followed(&stream, &error))
}

async fn drain(fleet: &Inner, consumer: &Consumer<pull::Config>) -> String {
    let watch = &fleet.watch;
    let mut is_current = consumer.cached_info().num_pending == 0;
    watch.begin(fleet.moment());
    if is_current {
        watch.current();
    }
    let messages = consumer
        .stream()
        .max_messages_per_batch(500)
        .heartbeat(HEARTBEAT);
    let mut messages = match messages.messages().await {
        Ok(messages) => messages,
        Err(error) => return error.to_string(),
    };
    let mut expected = 1;
    while let Some(message) = messages.next().await {
        let message = match message {
            Ok(message) => message,
            Err(error) => return error.to_string(),
        };
        let Some(entry) = lvp_bus::entry(&message) else {
            return "a message has no number".to_owned();
        };
        let (delivered, pending) = match message.info() {
            Ok(info) => (info.consumer_sequence, info.pending),
            Err(error) => return error.to_string(),
        };
        // The broker counts what it sends to this consumer.
        if delivered != expected {
            return "a message was lost on its way".to_owned();
        }
        expected += 1;
        watch.entry(&entry, fleet.moment());
        if pending == 0 && !is_current {
            is_current = true;
            watch.current();
        }
    }
    "the broker sends no more".to_owned()
}
