//! Decoding in a process that can do nothing.
//!
//! The decoders of compressed data are fed by whoever made the image, and some of them are C. A program
//! that holds credentials and disks has them run elsewhere: in a process of its own for every job, which
//! has no rights, no files and no network, and shares some memory and a socket with the program.
//!
//! ```text
//!            this process                                   the decoding process
//!  Session --- Lane: input, buffers  ====== memory ======  one thread for each lane
//!     |          '------------------------- socket ------> request: decode this there
//!     |                                     <------------- done: so many bytes
//!     '------- Process: the child, killed when the session ends
//! ```
//!
//! Decoded bytes are not copied: a buffer that a device is written from is a part of the shared memory.
//!
//! # What is believed
//!
//! Nothing. An answer has to be the answer to the one open request of its lane, with lengths within what
//! was asked for; otherwise the process is killed and the copy fails. The bytes themselves are what
//! an image's author could have put there anyway, so any bytes are correct as far as safety goes: they are
//! the content of the guest's disk. What this program itself interprets (a stream's first and last
//! bytes, archives, images inside streams, the disk's first and last MiB with its partition tables) is
//! copied to private memory first, since the other process can change shared memory at any time.
//!
//! The life of a process: started in advance, taken by the first job that needs one, killed with the
//! job. It never serves two.

mod fate;
mod lane;
mod parts;
mod process;
mod session;
mod wire;

pub use fate::{Counts, Failure};
pub(crate) use lane::{Answer, Lane, Task, encoding_of};
pub use parts::Parts;
pub use process::Launch;
pub use session::{Decoders, Sandbox};
pub(crate) use wire::{
    BUFFER_BYTES, LANE_BYTES, LANES, MAX_TASKS, MAX_TEXT, Op, Place, REQUEST_BYTES, Reply, Request,
    Status, TASK_BYTES, WireTask,
};
