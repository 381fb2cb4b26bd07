//! Error chains as text, in the same form as `lvpctl` prints them.

pub use lvp_api::error::chain;
