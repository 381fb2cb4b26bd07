//! Orders of the fleet in the database: what this host has seen, whatever the broker remembers.

use lvp_api::{JobId, JobState};
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::rows::parsed;
use super::{Store, StoreError};

/// Orders that are kept after they have ended.
pub const FLEET_ORDERS_KEPT: u32 = 2000;

/// What this host has seen of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetRow {
    /// Its name.
    pub id: String,
    /// The last revision that was seen.
    pub revision: u64,
    /// When that was issued, in seconds since 1970.
    pub issued_at: u64,
    /// That revision as it was signed.
    pub payload: Vec<u8>,
    /// The name of the key that signed it.
    pub signer: String,
    /// The trace that it came with.
    pub traceparent: Option<String>,
    /// When it came.
    pub received_at: String,
    /// The last report, as JSON, once nothing is to be done any more.
    pub report: Option<String>,
    /// Whether the broker has that report.
    pub published: bool,
}

impl Store {
    /// What has been seen of an order, and the time of issue of the newest order that was forgotten.
    pub async fn fleet_order(&self, id: String) -> Result<(Option<FleetRow>, u64), StoreError> {
        self.read("get_fleet_order", move |connection| {
            let row = connection
                .prepare_cached("SELECT * FROM fleet_orders WHERE id = ?1")?
                .query_row([id], fleet_row)
                .optional()?;
            let floor: i64 =
                connection.query_row("SELECT issued_at FROM fleet_floor", [], |row| row.get(0))?;
            Ok((row, floor.cast_unsigned()))
        })
        .await
    }

    /// Records a revision of an order, in place of the one before.
    pub async fn save_fleet_order(&self, row: FleetRow) -> Result<(), StoreError> {
        self.write("save_fleet_order", move |transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO fleet_orders (id, revision, issued_at, payload, signer, traceparent, \
                 received_at, report, published) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    row.id,
                    row.revision.cast_signed(),
                    row.issued_at.cast_signed(),
                    row.payload,
                    row.signer,
                    row.traceparent,
                    row.received_at,
                    row.report,
                    row.published,
                ],
            )?;
            forget(transaction)
        })
        .await
    }

    /// Records that nothing is to be done any more for this revision of an order.
    pub async fn end_fleet_order(
        &self,
        id: String,
        revision: u64,
        report: String,
    ) -> Result<(), StoreError> {
        self.write("end_fleet_order", move |transaction| {
            transaction.execute(
                "UPDATE fleet_orders SET report = ?3, published = 0 WHERE id = ?1 AND revision = ?2",
                params![id, revision.cast_signed(), report],
            )?;
            Ok(())
        })
        .await
    }

    /// Records that the broker has the last report about this revision of an order.
    pub async fn fleet_order_published(&self, id: String, revision: u64) -> Result<(), StoreError> {
        self.write("fleet_order_published", move |transaction| {
            transaction.execute(
                "UPDATE fleet_orders SET published = 1 \
                 WHERE id = ?1 AND revision = ?2 AND report IS NOT NULL",
                params![id, revision.cast_signed()],
            )?;
            Ok(())
        })
        .await
    }

    /// All orders that are remembered, those that were received last first.
    pub async fn fleet_orders(&self) -> Result<Vec<FleetRow>, StoreError> {
        self.read("list_fleet_orders", move |connection| {
            connection
                .prepare_cached("SELECT * FROM fleet_orders ORDER BY received_at DESC, id")?
                .query_map([], fleet_row)?
                .collect()
        })
        .await
    }

    /// Some of these, in the same sequence, and how many there are.
    pub async fn list_fleet_orders(
        &self,
        limit: u32,
        offset: u32,
    ) -> Result<(Vec<FleetRow>, u64), StoreError> {
        self.read("list_fleet_orders", move |connection| {
            let rows = connection
                .prepare_cached(
                    "SELECT * FROM fleet_orders ORDER BY received_at DESC, id LIMIT ?1 OFFSET ?2",
                )?
                .query_map([limit, offset], fleet_row)?
                .collect::<Result<_, _>>()?;
            let count: i64 =
                connection.query_row("SELECT count(*) FROM fleet_orders", [], |row| row.get(0))?;
            Ok((rows, count.cast_unsigned()))
        })
        .await
    }

    /// All jobs whose idempotency keys begin with this, with the keys.
    pub async fn jobs_by_key(&self, prefix: String) -> Result<Vec<(JobId, String)>, StoreError> {
        self.read("jobs_by_key", move |connection| {
            connection
                .prepare_cached(
                    "SELECT id, idempotency_key FROM jobs \
                     WHERE substr(idempotency_key, 1, length(?1)) = ?1 ORDER BY seq",
                )?
                .query_map([prefix], |row| {
                    Ok((parsed(row, "id")?, row.get("idempotency_key")?))
                })?
                .collect()
        })
        .await
    }

    /// The jobs that have not ended whose idempotency keys begin with this, with the keys.
    pub async fn unfinished_by_key(
        &self,
        prefix: String,
    ) -> Result<Vec<(JobId, String)>, StoreError> {
        self.read("unfinished_by_key", move |connection| {
            connection
                .prepare_cached(
                    "SELECT id, idempotency_key FROM jobs WHERE state IN (?2, ?3) \
                     AND substr(idempotency_key, 1, length(?1)) = ?1 ORDER BY seq",
                )?
                .query_map(
                    params![
                        prefix,
                        JobState::Pending.as_str(),
                        JobState::Running.as_str()
                    ],
                    |row| Ok((parsed(row, "id")?, row.get("idempotency_key")?)),
                )?
                .collect()
        })
        .await
    }
}

/// Forgets the orders beyond the limit that were issued first and have ended.
fn forget(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let oldest: Option<i64> = transaction
        .query_row(
            "SELECT issued_at FROM fleet_orders WHERE report IS NOT NULL \
             ORDER BY issued_at DESC LIMIT 1 OFFSET ?1",
            [FLEET_ORDERS_KEPT],
            |row| row.get(0),
        )
        .optional()?;
    if let Some(oldest) = oldest {
        transaction.execute(
            "DELETE FROM fleet_orders WHERE report IS NOT NULL AND issued_at <= ?1",
            [oldest],
        )?;
        transaction.execute(
            "UPDATE fleet_floor SET issued_at = max(issued_at, ?1)",
            [oldest],
        )?;
    }
    Ok(())
}

fn fleet_row(row: &Row<'_>) -> rusqlite::Result<FleetRow> {
    let number = |name| row.get::<_, i64>(name).map(i64::cast_unsigned);
    Ok(FleetRow {
        id: row.get("id")?,
        revision: number("revision")?,
        issued_at: number("issued_at")?,
        payload: row.get("payload")?,
        signer: row.get("signer")?,
        traceparent: row.get("traceparent")?,
        received_at: row.get("received_at")?,
        report: row.get("report")?,
        published: row.get("published")?,
    })
}
