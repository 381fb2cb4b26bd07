//! What is sent to other services, and may have to wait for them. Webhook events wait in the
//! database, everything else in memory.

pub mod outbox;
pub mod webhooks;

use lvp_api::named;

/// The result of an attempt to deliver an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Delivery {
    /// The receiver has it.
    Delivered,
    /// The attempt failed.
    Failed,
    /// The event was dropped.
    Dropped,
}

named!(Delivery, "fate of an event", {
    Delivered => "delivered",
    Failed => "failed",
    Dropped => "dropped",
});

/// Who counts deliveries.
pub trait Observer: Sync {
    /// This many events had this result.
    fn deliveries(&self, what: Delivery, count: u64);
}
