//! Every limit of this crate, each with its reason.
//!
//! A number from an image never decides how much is allocated or how long something takes: it is
//! compared with one of these first, and an image beyond a limit is refused as
//! [`TooLarge`](crate::ErrorKind::TooLarge).

/// Greatest size of the guest's disk: 64 PiB.
///
/// qcow2 addresses host clusters with 56 bits, so no image can hold more. The packed extents of a
/// [`Batch`](crate::plan::Batch) count 512-byte sectors in the 47 bits that this leaves.
pub const MAX_VIRTUAL_SIZE: u64 = 1 << 56;

/// Greatest size of the image file: 64 PiB, what qcow2's host offsets can address.
pub const MAX_FILE_SIZE: u64 = 1 << 56;

/// Memory for one [`Batch`](crate::plan::Batch): 24 MiB.
///
/// At 16 bytes for an extent this maps some 96 GiB of compressed 64 KiB clusters in one pass; plain
/// clusters are joined and take far less. An image that needs more is read in several batches. The
/// copy engine's buffers take about as much again, and the whole has to stay below 64 MiB.
pub const MAX_BATCH_BYTES: usize = 24 << 20;

/// Longest extent: 4 GiB less one sector, the most that a packed extent's 23 bits of sectors hold.
pub const MAX_EXTENT_SECTORS: u64 = (1 << 23) - 1;
