//! What this host says about orders: the last word about each, until the broker has it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lvp_bus::async_nats::HeaderMap;
use lvp_bus::async_nats::jetstream::Context;
use lvp_bus::{BusError, key_subject, put};
use lvp_fleet::names::{REPORTS_BUCKET, key_of};
use lvp_fleet::{OrderId, Report};
use tokio::sync::Notify;

use super::Inner;
use crate::backoff::Backoff;
use crate::error::chain;

/// Orders about which something is remembered here; the rest is in the database.
const KEPT: usize = 4096;

/// Strangers about which something is said at once. They are no orders, so anybody who may write to the broker can
/// invent them.
const STRANGERS_MAX: usize = 256;

const NOT_TAKEN: &str = "The fleet's broker does not take this host's reports. Orders are followed nevertheless, and reports are \
                         sent again until it does: see what it says, and what its bucket lvp_reports may hold";

/// The last word about each order.
#[derive(Debug, Default)]
pub(super) struct Reports {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    last: HashMap<OrderId, Report>,
    unsaid: BTreeSet<OrderId>,
    strangers: HashMap<OrderId, Report>,
}

impl Reports {
    /// Says something about an order, in place of what was said before.
    pub(super) fn tell(&self, report: Report) {
        let mut state = self.lock();
        if state.last.len() >= KEPT && !state.last.contains_key(&report.order) {
            let ended = state
                .last
                .values()
                .find(|last| last.state.is_final() && !state.unsaid.contains(&last.order));
            if let Some(id) = ended.map(|last| last.order.clone()) {
                state.last.remove(&id);
            }
        }
        // What was to be said of a message that only claimed to be this order.
        state.strangers.remove(&report.order);
        state.unsaid.insert(report.order.clone());
        state.last.insert(report.order.clone(), report);
        drop(state);
        self.news.notify_one();
    }

    /// Says something about a message that is no order.
    pub(super) fn tell_stranger(&self, report: Report) {
        let mut state = self.lock();
        if state.last.contains_key(&report.order) || state.strangers.len() >= STRANGERS_MAX {
            return;
        }
        state.strangers.insert(report.order.clone(), report);
        drop(state);
        self.news.notify_one();
    }

    /// What was said last about a revision of an order.
    pub(super) fn last(&self, order: &str, revision: u64) -> Option<Report> {
        let id = order.parse::<OrderId>().ok()?;
        let last = self.lock().last.get(&id).cloned();
        last.filter(|last| last.revision == revision)
    }

    /// Says again what was said last about an order.
    pub(super) fn again(&self, order: &OrderId) {
        let mut state = self.lock();
        if state.last.contains_key(order) {
            state.unsaid.insert(order.clone());
            drop(state);
            self.news.notify_one();
        }
    }

    fn next(&self) -> Option<(Report, bool)> {
        let mut state = self.lock();
        while let Some(id) = state.unsaid.pop_first() {
            if let Some(report) = state.last.get(&id) {
                return Some((report.clone(), false));
            }
        }
        let id = state.strangers.keys().next()?.clone();
        state.strangers.remove(&id).map(|report| (report, true))
    }

    fn not_said(&self, report: Report, is_stranger: bool) {
        let mut state = self.lock();
        match is_stranger {
            true if state.last.contains_key(&report.order) => {}
            true => drop(state.strangers.insert(report.order.clone(), report)),
            false => drop(state.unsaid.insert(report.order)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What a panic could leave out is one report.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends reports for ever.
pub(super) async fn run(fleet: &Arc<Inner>, broker: &Context) {
    let mut backoff = Backoff::doubling(Duration::from_millis(200), Duration::from_secs(10));
    let mut link = fleet.link.subscribe();
    let mut said = false;
    loop {
        link.wait_for(|link| link.is_up).await.ok();
        let Some((report, is_stranger)) = fleet.reports.next() else {
            fleet.reports.news.notified().await;
            continue;
        };
        match send(fleet, broker, &report).await {
            Ok(()) => {
                backoff.reset();
                if std::mem::take(&mut said) {
                    tracing::info!(
                        component = "fleet",
                        "The fleet's broker takes reports again"
                    );
                }
                if report.state.is_final() && !is_stranger {
                    published(fleet, &report).await;
                }
            }
            Err(error) => {
                let is_refused = matches!(
                    error,
                    BusError::Full { .. } | BusError::Refused { .. } | BusError::NoStream(_)
                );
                let error = chain(&error);
                // A broker that does not answer is missed by the connection, too.
                if is_refused && !std::mem::replace(&mut said, true) {
                    tracing::warn!(component = "fleet", order = %report.order, error, "{NOT_TAKEN}");
                }
                tracing::debug!(component = "fleet", order = %report.order, error, "A report cannot be sent yet");
                fleet.reports.not_said(report, is_stranger);
                let wait = backoff.failed(None).unwrap_or_default();
                tokio::time::sleep(wait).await;
            }
        }
    }
}

async fn send(fleet: &Inner, broker: &Context, report: &Report) -> Result<(), BusError> {
    let bytes = serde_json::to_vec(report).map_err(|error| BusError::Refused {
        what: report.order.to_string(),
        why: error.to_string(),
    })?;
    let subject = key_subject(REPORTS_BUCKET, &key_of(&report.order, &report.host));
    let sent = put(broker, &subject, bytes.into(), None, HeaderMap::new()).await;
    fleet.services.metrics.fleet_report(sent.is_ok());
    sent.map(drop)
}

/// Notes that the broker has an order's last report, so that it is not sent again at each start.
async fn published(fleet: &Inner, report: &Report) {
    let store = &fleet.services.store;
    let noted = store
        .fleet_order_published(report.order.to_string(), report.revision)
        .await;
    if let Err(error) = noted {
        let error = chain(&error);
        tracing::debug!(
            component = "fleet",
            error,
            "It is not noted that a report was sent; it is sent again"
        );
    }
}

impl Inner {
    /// Says everything again that is remembered: the broker has lost it.
    pub(super) async fn say_all_again(self: &Arc<Self>) {
        let rows = match self.services.store.fleet_orders().await {
            Ok(rows) => rows,
            Err(error) => return self.store_failed(&error).await,
        };
        let known: Vec<OrderId> = self.reports.lock().last.keys().cloned().collect();
        for row in rows {
            let report = row.report.as_deref().map(serde_json::from_str::<Report>);
            if let Some(Ok(report)) = report {
                // A wave counts those who have failed.
                self.owe(&row, &report);
                if !known.contains(&report.order) {
                    self.reports.tell(report);
                }
            }
        }
        for id in known {
            self.reports.again(&id);
        }
    }
}
