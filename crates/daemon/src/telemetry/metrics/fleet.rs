//! What the fleet's module reports.

use super::{Metrics, float};

/// What can become of an order that arrives.
pub(super) const ORDER_RESULTS: [&str; 12] = [
    "followed",
    "cancelled",
    "refused",
    "expired",
    "duplicate",
    "older",
    "not_meant",
    "unreadable",
    "unknown_key",
    "bad_signature",
    "unsupported",
    "invalid",
];

impl Metrics {
    /// The connection to the fleet's broker was made or lost.
    pub fn fleet_connected(&self, is_up: bool) {
        self.fleet_connected.set(is_up.into());
    }

    /// An order arrived; `result` is one of the fixed words.
    pub fn fleet_order(&self, result: &'static str) {
        self.fleet_orders
            .get_or_create(&[("result", result.into())])
            .inc();
    }

    /// How many orders are being worked on.
    pub fn fleet_orders_active(&self, count: u64) {
        self.fleet_orders_active.set(float(count));
    }

    /// A report was sent, or could not be.
    pub fn fleet_report(&self, is_sent: bool) {
        let result = if is_sent { "sent" } else { "failed" };
        self.fleet_reports
            .get_or_create(&[("result", result.into())])
            .inc();
    }
}
