//! What is sent to others, and may have to wait for them: webhooks, which wait in the database, and
//! what waits in memory.

pub mod outbox;
pub mod webhooks;

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

impl Delivery {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Delivered, Self::Failed, Self::Dropped];

    /// The word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// Who counts deliveries.
pub trait Observer: Sync {
    /// So many events had this fate.
    fn deliveries(&self, what: Delivery, count: u64);
}
