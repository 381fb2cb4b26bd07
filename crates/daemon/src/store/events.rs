//! Events that wait to be delivered to a webhook's receiver.

use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::{Store, StoreError};

/// Most events that wait for one receiver; beyond that, the oldest are dropped.
pub const EVENTS_MAX: u32 = 1000;

/// An event that is to be stored.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The receiver that it is for.
    pub receiver: String,
    /// Its name.
    pub event: String,
    /// Its delivery id.
    pub delivery: String,
    /// What is sent.
    pub body: String,
    /// When it happened.
    pub created_at: String,
}

/// An event that was not delivered yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingEvent {
    /// Its position in the order of events.
    pub seq: i64,
    /// Its name.
    pub event: String,
    /// Its delivery id.
    pub delivery: String,
    /// What is sent.
    pub body: String,
    /// When it happened.
    pub created_at: String,
}

impl Store {
    /// Events for a receiver, the oldest first.
    pub async fn waiting_events(&self, receiver: String) -> Result<Vec<WaitingEvent>, StoreError> {
        self.read("waiting_events", move |connection| {
            connection
                .prepare_cached(
                    "SELECT seq, event, delivery, body, created_at FROM webhook_events \
                     WHERE receiver = ?1 ORDER BY seq",
                )?
                .query_map([receiver], event_row)?
                .collect()
        })
        .await
    }

    /// Removes an event that was delivered or given up.
    pub async fn forget_event(&self, seq: i64) -> Result<(), StoreError> {
        self.write("forget_event", move |transaction| {
            transaction.execute("DELETE FROM webhook_events WHERE seq = ?1", [seq])?;
            Ok(())
        })
        .await
    }

    /// Removes the events of all receivers but these; returns how many.
    pub async fn forget_other_receivers(&self, keep: Vec<String>) -> Result<u64, StoreError> {
        self.write("forget_receivers", move |transaction| {
            let receivers: Vec<String> = transaction
                .prepare("SELECT DISTINCT receiver FROM webhook_events")?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let mut count = 0;
            for receiver in receivers.iter().filter(|receiver| !keep.contains(receiver)) {
                count += transaction
                    .execute("DELETE FROM webhook_events WHERE receiver = ?1", [receiver])?;
            }
            Ok(u64::try_from(count).unwrap_or(u64::MAX))
        })
        .await
    }
}

/// Inserts events; returns how many older ones were dropped to make room.
pub(super) fn insert(transaction: &Transaction<'_>, events: &[NewEvent]) -> rusqlite::Result<u64> {
    let mut dropped = 0;
    for event in events {
        transaction.execute(
            "INSERT INTO webhook_events (receiver, event, delivery, body, created_at) \
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                event.receiver,
                event.event,
                event.delivery,
                event.body,
                event.created_at
            ],
        )?;
        // The newest of the events beyond the limit.
        let last: Option<i64> = transaction
            .query_row(
                "SELECT seq FROM webhook_events WHERE receiver = ?1 \
                 ORDER BY seq DESC LIMIT 1 OFFSET ?2",
                params![event.receiver, EVENTS_MAX],
                |row| row.get(0),
            )
            .optional()?;
        if let Some(last) = last {
            dropped += transaction.execute(
                "DELETE FROM webhook_events WHERE receiver = ?1 AND seq <= ?2",
                params![event.receiver, last],
            )?;
        }
    }
    Ok(u64::try_from(dropped).unwrap_or(u64::MAX))
}

fn event_row(row: &Row<'_>) -> rusqlite::Result<WaitingEvent> {
    Ok(WaitingEvent {
        seq: row.get(0)?,
        event: row.get(1)?,
        delivery: row.get(2)?,
        body: row.get(3)?,
        created_at: row.get(4)?,
    })
}
