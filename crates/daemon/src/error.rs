//! How errors are told: as `lvpctl` tells them.

pub use lvp_api::error::chain;
