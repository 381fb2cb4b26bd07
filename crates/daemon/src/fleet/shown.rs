//! The orders of this host, for people who look at it.

use lvp_api::{FleetAsks, FleetOrder};
use lvp_fleet::{Order, Report, ReportState, envelope};
use time::OffsetDateTime;

use super::Fleet;
use crate::clock;
use crate::config;
use crate::source::url::redact;
use crate::store::{FleetRow, StoreError};

impl Fleet {
    /// What this host is in the fleet.
    pub fn settings(&self) -> &config::Fleet {
        &self.0.settings
    }

    /// Whether it is connected to the broker.
    pub fn is_connected(&self) -> bool {
        self.0.link.borrow().is_up
    }

    /// Some of the orders that it remembers, the last received first, and how many there are.
    pub async fn orders(
        &self,
        limit: u32,
        offset: u32,
    ) -> Result<(Vec<FleetOrder>, u64), StoreError> {
        let store = &self.0.services.store;
        let (rows, total) = store.list_fleet_orders(limit, offset).await?;
        let orders = rows.into_iter().map(|row| self.shown(row));
        Ok((orders.collect(), total))
    }

    fn shown(&self, row: FleetRow) -> FleetOrder {
        let has_ended = row.report.is_some();
        let told = match row.report.as_deref().map(serde_json::from_str::<Report>) {
            Some(Ok(report)) => Some(report),
            _ => self.0.reports.last(&row.id, row.revision),
        };
        let state = told.as_ref().map_or(ReportState::Seen, |told| told.state);
        let order = envelope::stored(&row.payload).ok();
        let told = told.as_ref();
        let count = |of: fn(&Report) -> u64| told.map_or(0, of);
        FleetOrder {
            id: row.id,
            revision: row.revision,
            state: state.as_str().to_owned(),
            ended: has_ended,
            reason: told.and_then(|told| told.reason.clone()),
            error_type: told.and_then(|told| told.error_type.clone()),
            remedy: told.and_then(|told| told.remedy.clone()),
            asks: order.map(asks),
            signer: row.signer,
            received_at: row.received_at,
            reported: row.published,
            job_id: told.and_then(|told| Some(told.job_id?.to_string())),
            jobs: count(|told| told.jobs),
            jobs_ended: count(|told| told.jobs_ended),
            jobs_failed: count(|told| told.jobs_failed),
            bytes: count(|told| told.bytes),
            bytes_total: count(|told| told.bytes_total),
            bytes_per_second: count(|told| told.bytes_per_second),
        }
    }
}

fn asks(order: Order) -> FleetAsks {
    let deadline = i64::try_from(order.deadline).ok();
    let deadline = deadline.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    FleetAsks {
        kind: order.kind.as_str().to_owned(),
        action: order.action.as_str().to_owned(),
        target: order.target.to_string(),
        // Without its query, as jobs show it: what is in there may be a secret.
        image_url: order.image.url.map(|url| redact(&url)),
        image_digest: order.image.sha256.to_string(),
        volumes: order.volumes.len() as u64,
        hosts_at_once: order.wave.map(|wave| wave.hosts_at_once),
        bytes_per_sec: order.bytes_per_sec,
        deadline: deadline.map_or_else(|| order.deadline.to_string(), clock::text),
        issuer: order.issuer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_what_may_be_a_secret() {
        let order = serde_json::json!({
            "id": "o", "revision": 1, "action": "follow", "kind": "prewarm", "target": "all",
            "image": {
                "url": "https://images.example.com/a.qcow2?key=TOP",
                "type": "qcow2", "sha256": "7".repeat(64),
            },
            "issued_at": 1, "deadline": 2, "issuer": "ops",
        });
        let order: Order = serde_json::from_value(order).unwrap();
        assert_eq!(order.check(), Ok(()));
        let shown = asks(order).image_url;
        assert_eq!(shown.as_deref(), Some("https://images.example.com/a.qcow2"));
    }
}
