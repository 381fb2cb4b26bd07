//! The target of an image: a block device or a regular file.
//!
//! A [`Target`] owns the open file and knows its properties: its size, the unit of its requests,
//! whether direct I/O works, and whether it already reads as zero. It guarantees three things:
//!
//! - **Exclusive use.** A block device is opened with `O_EXCL`, which the kernel refuses while it
//!   is mounted or held by another driver. A regular file is locked in the way QEMU locks its disks,
//!   so that neither starts while the other runs.
//! - **The page cache does not grow.** Writes bypass it if the target and the image's alignment
//!   permit; otherwise, what was written is flushed and dropped every few MiB.
//! - **Zeroed means zero.** A range is zeroed by the device's WRITE ZEROES, by a hole in a file, or
//!   by writing zeros. A discard does not count as zeroing: what it leaves is up to the device.

mod number;
mod target;
mod write;
mod zero;
mod zero_method;

use std::fs::File;
use std::io;
use std::ops::Range;

pub use target::{Content, FileSize, Target, is_sole_opener};
pub use zero_method::ZeroMethod;

/// Gives the room of a part of a block device back to what it is on: a thin volume's to its pool. It is never
/// taken for zeroing by itself: who relies on what is read afterwards has to find out from below.
pub fn discard(device: &File, range: &Range<u64>) -> io::Result<()> {
    crate::sys::block_discard(device, range)
}
