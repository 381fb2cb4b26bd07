//! Copies an image to a target, in one pass and in host order.
//!
//! ```text
//!  feed(chunk) --.                                .-> worker: decode, join --.
//!                 >-- pieces of work, a bounded --+-> worker                 +--> target
//!  local file ---'    queue                       '-> worker                 |    (past the page
//!                                                                            |     cache)
//!                                     first and last MiB of the disk  <------'
//!                                          held in memory until commit()
//! ```
//!
//! The steps of a copy, none of which is skipped or reordered:
//!
//! 1. The target's size is checked. The places that would make it look like a disk are cleared (its
//!    first MiB, the disk's last MiB, the device's last MiB), and that is flushed.
//! 2. Data is written and what the image leaves out is zeroed, in any order. The disk's first and
//!    last MiB stay in memory.
//! 3. The device's tail after the disk is zeroed as [`TailPolicy`] says, and everything is flushed.
//!    The caller now has a [`Body`], and can find out whether the image is the right one.
//! 4. [`Body::commit`] writes the last MiB, then the first, and flushes. If a copy fails, is
//!    cancelled, is dropped or crashes before this, the places of step 1 stay cleared. If the GPT is
//!    to be moved ([`Layout`]), that is done in the memory that is held back, so that it is written
//!    in the same order: the new backup, the disk's last MiB, and the first MiB at the very end.
//!
//! Where another process decodes ([`sandbox`](crate::sandbox)), a worker's buffers are shared with it; the
//! worker waits while it decodes.
//!
//! Memory is bounded whatever the image: 16 MiB of image bytes in the queue, and three buffers of 2
//! MiB for each of at most five workers: one to read into, one to fill, and one that is being
//! written.

mod brake;
mod clusters;
mod copier;
mod cut;
mod engine;
mod feed;
mod held;
mod join;
mod limit;
mod limits;
mod local;
mod options;
mod output;
mod pool;
mod stop;
mod verifier;
mod view;
mod work;
mod write_queue;
mod writer;
mod zero;

pub use brake::Brake;
pub use copier::{Body, Copier, PlannedImage};
pub use engine::Engine;
pub use limit::RateLimiter;
pub(crate) use local::feed_file;
pub use options::{CopyOptions, Counters, Layout, Summary, Tail, TailPolicy, TimeSpent, Zeroed};
