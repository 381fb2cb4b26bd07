//! Webhooks: notify other programs when jobs end.
//!
//! ```text
//! job ends --(one transaction: its state, and an event for each receiver)--> webhook_events
//!                                                                                |
//!    a task per receiver: the oldest first --POST, signed--> 2xx: the row goes   |
//!                                                   else: it stays, and is sent again
//! ```
//!
//! - Invariant: a job never waits for a receiver. All it does is to insert a row in a transaction
//!   that it commits anyway.
//! - Invariant: once a job's end is durable, its events are durable too, and each is sent at least once, unless it gets
//!   older than `webhooks.max_age` or [`EVENTS_MAX`](crate::store::EVENTS_MAX) newer ones wait. A repeat has the same
//!   delivery id.
//!
//! A receiver that does not answer, or answers 5xx or 429, is left alone for a time that grows with
//! each failure. A receiver that refuses one event (any other status) still gets the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::StatusCode;
use lvp_api::{JobStatus, WebhookEvent};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use super::{Delivery, Observer};
use crate::backoff::Backoff;
use crate::clock;
use crate::config;
use crate::error::chain;
use crate::job::record::Job;
use crate::secret::Secret;
use crate::store::{NewEvent, Store, StoreError, WaitingEvent};
use crate::web;

/// Time limit for connecting to a receiver.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for a receiver's answer: it should accept the event and process it later.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The first wait after a failure; each further one is twice as long.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);

/// The longest wait.
const BACKOFF_LAST: Duration = Duration::from_secs(300);

/// What an event is about, such as `job.completed`.
const EVENT: &str = "x-lvp-event";
/// An id that is the same for all repeats of one event.
const DELIVERY: &str = "x-lvp-delivery";
/// When this attempt was made, in seconds since 1970.
const TIMESTAMP: &str = "x-lvp-timestamp";
/// `sha256=` and the HMAC-SHA256 of `TIMESTAMP.BODY` in hex.
const SIGNATURE: &str = "x-lvp-signature";

/// All receivers.
#[derive(Debug)]
pub struct Webhooks {
    receivers: Vec<Receiver>,
    secret: Secret,
    max_age: Duration,
    http: reqwest::Client,
}

#[derive(Debug)]
struct Receiver {
    url: Url,
    /// Digest of the URL, which identifies the receiver in the database. URLs may hold secrets.
    key: String,
    news: Notify,
}

/// Why an event was not accepted.
enum Refused {
    /// The receiver is down: no other event is tried.
    Down(String),
    /// The receiver refuses this event.
    Event(String),
}

/// When a refused event is sent again.
struct Repeat {
    backoff: Backoff,
    due: Instant,
}

impl Webhooks {
    /// None if no receiver is configured.
    pub fn new(config: &config::Webhooks) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(secret) = config.secret.clone().filter(|_| !config.urls.is_empty()) else {
            return Ok(None);
        };
        let receivers = config.urls.iter().map(|url| Receiver {
            url: url.clone(),
            key: hex(&Sha256::digest(url.as_str())),
            news: Notify::new(),
        });
        let http = web::client()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .build()?;
        Ok(Some(Arc::new(Self {
            receivers: receivers.collect(),
            secret,
            max_age: config.max_age,
            http,
        })))
    }

    /// The events of a job that ended: one for each receiver.
    pub fn events(&self, job: &Job) -> Vec<NewEvent> {
        let created_at = clock::now_text();
        let event = format!("job.{}", job.state.as_str());
        let body = body(&event, &created_at, job.status());
        let to = |receiver: &Receiver| NewEvent {
            receiver: receiver.key.clone(),
            event: event.clone(),
            delivery: Uuid::new_v4().to_string(),
            body: body.clone(),
            created_at: created_at.clone(),
        };
        self.receivers.iter().map(to).collect()
    }

    /// Wakes the senders because there are new events.
    pub fn ring(&self) {
        for receiver in &self.receivers {
            receiver.news.notify_one();
        }
    }

    /// Sends events until it is stopped; what is left is sent after the next start.
    pub async fn run(&self, store: &Store, observer: &dyn Observer, stop: &CancellationToken) {
        let keys = self.receivers.iter().map(|receiver| receiver.key.clone());
        match store.forget_other_receivers(keys.collect()).await {
            Ok(0) => {}
            Ok(count) => {
                observer.deliveries(Delivery::Dropped, count);
                tracing::warn!(
                    component = "webhook",
                    count,
                    "Events of receivers that are no longer configured were dropped"
                );
            }
            Err(error) => cannot_read(&error),
        }
        let tasks = self.receivers.iter().map(|receiver| {
            let serving = self.serve(receiver, store, observer);
            stop.run_until_cancelled(serving)
        });
        join_all(tasks).await;
    }

    /// Sends to one receiver until it is stopped.
    async fn serve(&self, receiver: &Receiver, store: &Store, observer: &dyn Observer) {
        let mut down = new_backoff();
        let mut refused = HashMap::new();
        loop {
            let round = self.round(receiver, store, observer, &mut refused).await;
            let next = match round {
                Ok(next) => {
                    down.reset();
                    next
                }
                Err(reason) => {
                    // Logged once each time the receiver goes down, not for each attempt.
                    if down.failures() == 0 {
                        tracing::warn!(
                            component = "webhook",
                            receiver = receiver.url.host_str(),
                            reason,
                            "A webhook receiver is down; trying again"
                        );
                    }
                    tokio::time::sleep(down.failed(None).unwrap_or_default()).await;
                    continue;
                }
            };
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = receiver.news.notified() => {}
                () = due => {}
            }
        }
    }

    /// Sends the events that are due. Returns when the next one is due, or an error if the receiver
    /// is down.
    async fn round(
        &self,
        receiver: &Receiver,
        store: &Store,
        observer: &dyn Observer,
        refused: &mut HashMap<i64, Repeat>,
    ) -> Result<Option<Instant>, String> {
        let waiting = store.waiting_events(receiver.key.clone()).await;
        let waiting = waiting.map_err(|error| chain(&error))?;
        refused.retain(|seq, _| waiting.iter().any(|event| event.seq == *seq));
        let oldest = clock::text(clock::now() - self.max_age);
        for event in waiting {
            let seq = event.seq;
            if event.created_at < oldest {
                self.give_up(event, store, observer).await;
                continue;
            }
            if (refused.get(&seq)).is_some_and(|repeat| repeat.due > Instant::now()) {
                continue;
            }
            match self.send(receiver, event).await {
                Ok(()) => {
                    let gone = store.forget_event(seq).await;
                    gone.map_err(|error| chain(&error))?;
                    observer.deliveries(Delivery::Delivered, 1);
                }
                Err(Refused::Down(reason)) => {
                    observer.deliveries(Delivery::Failed, 1);
                    return Err(reason);
                }
                Err(Refused::Event(reason)) => {
                    observer.deliveries(Delivery::Failed, 1);
                    let repeat = refused.entry(seq).or_insert_with(|| Repeat {
                        backoff: new_backoff(),
                        due: Instant::now(),
                    });
                    repeat.due = Instant::now() + repeat.backoff.failed(None).unwrap_or_default();
                    tracing::warn!(
                        component = "webhook",
                        receiver = receiver.url.host_str(),
                        reason,
                        attempts = repeat.backoff.failures(),
                        "A webhook receiver refused an event; trying again"
                    );
                }
            }
        }
        Ok(refused.values().map(|repeat| repeat.due).min())
    }

    async fn give_up(&self, event: WaitingEvent, store: &Store, observer: &dyn Observer) {
        observer.deliveries(Delivery::Dropped, 1);
        tracing::error!(
            component = "webhook",
            event = event.event,
            delivery = event.delivery,
            "An event could not be delivered within webhooks.max_age: dropped"
        );
        if let Err(error) = store.forget_event(event.seq).await {
            cannot_read(&error);
        }
    }

    async fn send(&self, receiver: &Receiver, event: WaitingEvent) -> Result<(), Refused> {
        let timestamp = OffsetDateTime::now_utc().unix_timestamp().to_string();
        let signature = signature(&self.secret, &timestamp, &event.body);
        let answer = self
            .http
            .post(receiver.url.clone())
            .header("content-type", "application/json")
            .header(EVENT, event.event)
            .header(DELIVERY, event.delivery)
            .header(TIMESTAMP, timestamp)
            .header(SIGNATURE, format!("sha256={signature}"))
            .body(event.body)
            .send()
            .await;
        let status = match answer {
            Ok(answer) => answer.status(),
            // The error's own text may contain the URL.
            Err(error) => return Err(Refused::Down(chain(&error.without_url()))),
        };
        if status.is_success() {
            Ok(())
        } else if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            Err(Refused::Down(format!("It answered {status}")))
        } else {
            Err(Refused::Event(format!("It answered {status}")))
        }
    }
}

fn cannot_read(error: &StoreError) {
    let error = chain(error);
    tracing::error!(
        component = "webhook",
        error,
        "Cannot look up webhook events"
    );
}

fn body(event: &str, timestamp: &str, job: JobStatus) -> String {
    let event = WebhookEvent {
        event: event.to_owned(),
        timestamp: timestamp.to_owned(),
        job,
    };
    serde_json::to_string(&event)
        .expect("it has only string keys, and no part of it fails to serialize")
}

fn signature(secret: &Secret, timestamp: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
        .expect("HMAC takes keys of any length");
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    hex(&mac.finalize().into_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn new_backoff() -> Backoff {
    Backoff::doubling(BACKOFF_FIRST, BACKOFF_LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_what_other_implementations_make() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac s3cr3t
        let made = signature(&Secret::new("s3cr3t"), "1700000000", "{\"a\":1}");
        let expected = "8dbbbbf4523b10bbb793e74d854144c45acccc2d233667b1c06b805b6ded8a84";
        assert_eq!(made, expected);
    }
}
