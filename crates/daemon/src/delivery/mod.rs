//! What is sent to others, and may have to wait for them: webhooks, which wait in the database, and
//! what waits in memory.

pub mod outbox;
pub mod webhooks;

use lvp_api::named;

/// What became of an attempt to deliver an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Delivery {
    /// The receiver has it.
    Delivered,
    /// An attempt failed.
    Failed,
    /// It was given up.
    Dropped,
}

named!(Delivery, "fate of an event", {
    Delivered => "delivered",
    Failed => "failed",
    Dropped => "dropped",
});

/// Who counts deliveries.
pub trait Observer: Sync {
    /// So many events had this fate.
    fn deliveries(&self, what: Delivery, count: u64);
}
