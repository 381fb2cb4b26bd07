//! Reads untrusted VM images, and writes them to files and block devices.
//!
//! The crate is synchronous, has no network code and opens no path of its own accord: it reads the
//! one source it is given through [`ReadAt`], so an image that names another file (a backing file,
//! an external data file) cannot reach it.
//!
//! The path of an image:
//!
//! 1. [`plan::Planner::open`] reads the header and validates every table that the image points to.
//!    What is not fully understood is refused, with an [`ErrorKind`] of its own.
//! 2. [`plan::Planner::next_batch`] yields a [`plan::Batch`]: which host bytes hold which guest bytes,
//!    in *host* order, so that the source can be read once, front to back.
//! 3. [`copy::Copier`] takes the source's bytes as they arrive (or reads them itself from a local
//!    file), decodes them on a few threads, and writes them to a [`device::Target`]. The guest's
//!    first and last MiB are held back until [`copy::Body::commit`].
//!
//! What is compressed is decoded in this process, or in one that can do nothing else ([`sandbox`]); the
//! latter runs [`worker::run`].
//!
//! All `unsafe` code and every ioctl is in the module `sys`.
//!
//! # Order of the modules
//!
//! A module uses those in the rows above it, and none in its own row or below. No two files of the
//! crate use each other, directly or indirectly. `tests/it/module_order.rs` checks both.
//!
//! ```text
//! limits   names   sys
//! buffer   error   grace   source
//! device   format   gpt   map
//! sandbox
//! decode   formats
//! builder   plan   worker
//! copy
//! unpack
//! convert
//! ```

pub mod buffer;
pub mod builder;
pub mod convert;
pub mod copy;
pub mod decode;
pub mod device;
pub mod error;
pub mod format;
mod formats;
pub mod gpt;
pub mod grace;
pub mod limits;
mod map;
pub mod names;
pub mod plan;
pub mod sandbox;
pub mod source;
mod sys;
pub mod unpack;
pub mod worker;

pub use error::{Error, ErrorKind, Result};
pub use formats::stream;
pub use source::ReadAt;
