//! Which host bytes hold which guest bytes.

pub(crate) mod batch;
pub(crate) mod extent;

pub use batch::Batch;
pub use extent::{Encoding, Extent};
