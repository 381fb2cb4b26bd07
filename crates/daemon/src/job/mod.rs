//! What a job is: what was asked for, whether it is accepted, how it is stopped, how far it is, and
//! why it failed. What jobs do is in [`jobs`](crate::jobs).

pub mod admission;
pub mod advice;
pub mod error;
pub mod kind;
pub mod meter;
pub mod record;
pub mod stop;
