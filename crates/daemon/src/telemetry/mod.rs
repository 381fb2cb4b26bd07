//! What the daemon says of itself.

pub mod logfile;
pub mod logs;
pub mod metrics;
pub mod traces;
