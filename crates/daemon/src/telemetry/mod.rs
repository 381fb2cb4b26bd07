//! Logs, metrics and traces.

mod behind;
mod joblog;
mod line;
pub mod logfile;
pub mod logs;
pub mod metrics;
mod sampling;
pub mod sinks;
mod stream;
pub mod traces;

use std::sync::Arc;

pub use line::printable;

use crate::delivery::outbox;

/// Counts of what is sent by the telemetry itself, for metrics.
#[derive(Debug, Default)]
pub struct Exports {
    /// Log lines, by sink.
    pub lines: Vec<(&'static str, Arc<outbox::Counts>)>,
    /// Spans.
    pub spans: Arc<traces::SpanCounts>,
}
