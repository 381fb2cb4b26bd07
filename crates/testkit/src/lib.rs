//! Guards for the real components that the tests run against. Nothing here is shipped.

pub mod loopdev;
pub mod require;
pub mod uml;
