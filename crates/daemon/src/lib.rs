//! The daemon's parts. `main.rs` parses the command line and starts them.
//!
//! `ARCHITECTURE.md` describes the path of a request and the invariants.

pub mod access;
pub mod backoff;
pub mod cache;
pub mod clock;
pub mod cmd;
pub mod config;
pub mod config_cmd;
pub mod db_cmd;
pub mod delivery;
pub mod demo;
pub mod dependencies;
pub mod doctor;
pub mod error;
pub mod estimate;
mod files;
pub mod fleet;
pub mod golden;
pub mod guests;
pub mod http;
pub mod image_cmd;
pub mod job;
pub mod jobs;
pub mod libvirt;
pub mod lock;
pub mod migrate;
pub mod net;
pub mod seats;
pub mod secret;
pub mod serve;
pub mod source;
pub mod stamp;
pub mod store;
pub mod supervisor;
pub mod telemetry;
pub mod threads;
pub mod transfer;
pub mod volume;
pub mod web;
