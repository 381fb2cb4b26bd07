//! Skeleton.

pub mod cmd;
pub mod volume;
