//! NATS as the fleet uses it: one stream of orders, three buckets whose keys have one writer each.
//!
//! The meaning of what travels is in `lvp-fleet`. Here are the connection ([`connect`]), the stream and buckets with their
//! limits ([`layout`]), and the two things that are done with them beside following orders: writing one key ([`put`]) and
//! reading all that there is ([`snapshot`]).

pub mod connect;
pub mod layout;
pub mod users;

use std::time::Duration;

pub use async_nats;
use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use bytes::Bytes;
use futures::StreamExt as _;
use time::OffsetDateTime;

use connect::causes;
pub use connect::{ConnectError, Login, Settings};

/// How long the broker may take for an answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How many messages are asked for at once.
const BATCH: usize = 500;

/// Why something was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The key's last number is another one.
    #[error("The broker has something newer under this subject")]
    Conflict,
    /// There is no stream for the subject, or nobody answers for it.
    #[error(
        "The broker has no stream for {0}: run `lvpctl fleet init`, or see which subjects this user may use"
    )]
    NoStream(String),
    /// The broker did not answer.
    #[error("The broker did not answer about {0} within 5 s")]
    Timeout(String),
    /// There is no room.
    #[error("The broker has no room for {what}: {why}")]
    Full {
        /// For what.
        what: String,
        /// Its words.
        why: String,
    },
    /// Anything else.
    #[error("The broker refused {what}: {why}")]
    Refused {
        /// What.
        what: String,
        /// Its words.
        why: String,
    },
}

/// A message of a stream.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its subject.
    pub subject: String,
    /// Its bytes.
    pub payload: Bytes,
    /// Its number in the stream.
    pub number: u64,
    /// When the broker stored it, by the broker's clock.
    pub stored: OffsetDateTime,
}

/// The subject of a key in a bucket.
pub fn key_subject(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

/// Writes to a subject of a stream, and returns the number of the message once the broker has stored it. With
/// `expected`, only if that is the number of the subject's last message (0: if there is none).
pub async fn put(
    broker: &Context,
    subject: &str,
    payload: Bytes,
    expected: Option<u64>,
    mut headers: HeaderMap,
) -> Result<u64, BusError> {
    if let Some(expected) = expected {
        headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string());
    }
    let written = async {
        let sent = broker.publish_with_headers(subject.to_owned(), headers, payload);
        sent.await?.await
    };
    match tokio::time::timeout(ANSWER_TIMEOUT, written).await {
        Err(_) => Err(BusError::Timeout(subject.to_owned())),
        Ok(Ok(stored)) => Ok(stored.sequence),
        Ok(Err(error)) => Err(match error.kind() {
            PublishErrorKind::WrongLastSequence => BusError::Conflict,
            PublishErrorKind::StreamNotFound => BusError::NoStream(subject.to_owned()),
            PublishErrorKind::TimedOut => BusError::Timeout(subject.to_owned()),
            _ if is_full(&error) => BusError::Full {
                what: subject.to_owned(),
                why: causes(&error),
            },
            _ => refused(subject, &error),
        }),
    }
}

/// Every last message of the subjects that match `filter`, in the sequence of their numbers.
pub async fn snapshot(
    broker: &Context,
    stream: &str,
    filter: &str,
) -> Result<Vec<Entry>, BusError> {
    let config = pull::Config {
        deliver_policy: DeliverPolicy::LastPerSubject,
        ack_policy: AckPolicy::None,
        filter_subject: filter.to_owned(),
        inactive_threshold: Duration::from_secs(30),
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    };
    let made = broker.create_consumer_on_stream(config, stream);
    let consumer = match tokio::time::timeout(ANSWER_TIMEOUT, made).await {
        Err(_) => return Err(BusError::Timeout(stream.to_owned())),
        Ok(Err(error)) => return Err(not_followed(stream, &error)),
        Ok(Ok(consumer)) => consumer,
    };
    let (mut entries, mut left) = (Vec::new(), consumer.cached_info().num_pending);
    while left > 0 {
        let messages = consumer
            .fetch()
            .max_messages(BATCH)
            .expires(ANSWER_TIMEOUT)
            .messages();
        let mut messages = messages.await.map_err(|error| refused(stream, &error))?;
        let before = entries.len();
        while let Some(message) = messages.next().await {
            let message = message.map_err(|error| refused(stream, &*error))?;
            let entry = entry(&message).ok_or_else(|| BusError::Refused {
                what: stream.to_owned(),
                why: "a message has no number".to_owned(),
            })?;
            left = message.info().map_or(0, |info| info.pending);
            entries.push(entry);
        }
        if entries.len() == before {
            break;
        }
    }
    let name = consumer.cached_info().name.clone();
    // It goes by itself after a while.
    broker.delete_consumer_from_stream(name, stream).await.ok();
    Ok(entries)
}

/// A message of a stream as an entry.
pub fn entry(message: &async_nats::jetstream::Message) -> Option<Entry> {
    let info = message.info().ok()?;
    Some(Entry {
        subject: message.subject.to_string(),
        payload: message.payload.clone(),
        number: info.stream_sequence,
        stored: info.published,
    })
}

/// The error for a consumer that could not be made.
pub fn not_followed(
    stream: &str,
    error: &async_nats::jetstream::stream::ConsumerError,
) -> BusError {
    use async_nats::jetstream::stream::ConsumerErrorKind as Kind;
    match error.kind() {
        Kind::TimedOut => BusError::Timeout(stream.to_owned()),
        Kind::JetStream(why)
            if why.kind() == async_nats::jetstream::ErrorCode::STREAM_NOT_FOUND =>
        {
            BusError::NoStream(stream.to_owned())
        }
        _ => refused(stream, error),
    }
}

/// Whether a stream has reached its limit, or its server the one of its disk.
fn is_full(error: &PublishError) -> bool {
    use async_nats::jetstream::{Error, ErrorCode};
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<Error>());
    cause.is_some_and(|cause| match cause.error_code() {
        // One code for every reason for which a message cannot be stored.
        ErrorCode::STREAM_STORE_FAILED => cause.to_string().contains("maximum"),
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::MEMORY_RESOURCES_EXCEEDED => true,
        _ => false,
    })
}

fn refused(what: &str, error: &dyn std::error::Error) -> BusError {
    BusError::Refused {
        what: what.to_owned(),
        why: causes(error),
    }
}
