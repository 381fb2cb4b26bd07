//! The daemon's parts; `main.rs` only parses the command line and starts them.
//!
//! Read `ARCHITECTURE.md` for the way of one request and the invariants.

pub mod cmd;
pub mod config;
pub mod secret;
pub mod source;
pub mod volume;
