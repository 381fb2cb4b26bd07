//! What the daemon says of itself.

mod behind;
mod line;
pub mod logfile;
pub mod logs;
pub mod metrics;
mod sampling;
pub mod sinks;
mod stream;
pub mod traces;

use std::sync::Arc;

use crate::delivery::outbox;

/// What has become of what the daemon says of itself, for its metrics.
#[derive(Debug, Default)]
pub struct Exports {
    /// Log lines, by sink.
    pub lines: Vec<(&'static str, Arc<outbox::Counts>)>,
    /// Spans.
    pub spans: Arc<traces::SpanCounts>,
}
