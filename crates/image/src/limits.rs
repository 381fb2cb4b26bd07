//! Every limit of this crate, each with its reason.
//!
//! A number from an image never decides how much is allocated or how long something takes: it is
//! first compared with one of these limits, and an image that exceeds one is refused with
//! [`TooLarge`](crate::ErrorKind::TooLarge).
//!
//! While an image is being opened, memory is at most [`MAX_BATCH_BYTES`] + `MAX_CLAIM_BYTES` + 2 ×
//! `TABLE_WINDOW_BYTES` (or the size of a single L2 table) and some small buffers: below 48 MiB for
//! any input. While it is being copied, only the batch remains.

/// Largest guest disk: 64 PiB.
///
/// qcow2 addresses host clusters with 56 bits, so no image can hold more. The packed extents of a
/// [`Batch`](crate::plan::Batch) count 512-byte sectors in the 47 bits that this leaves.
pub(crate) const MAX_VIRTUAL_SIZE: u64 = 1 << 56;

/// Largest image file: 64 PiB, which qcow2's host offsets can address.
pub(crate) const MAX_FILE_SIZE: u64 = 1 << 56;

/// Memory for one [`Batch`](crate::plan::Batch): 24 MiB.
///
/// At 16 bytes per extent this maps about 96 GiB of compressed 64 KiB clusters in one pass; plain
/// clusters are joined and take far less. An image that needs more is read in several batches. The
/// copy engine's buffers take about as much again, and the total has to stay below 64 MiB.
pub const MAX_BATCH_BYTES: usize = 24 << 20; // 24 MiB

/// Longest extent: 4 GiB less one sector, the most that a packed extent's 23 bits of sectors hold.
pub(crate) const MAX_EXTENT_SECTORS: u64 = (1 << 23) - 1;

/// Memory for the record of host clusters in use, at two bits each: 16 MiB.
///
/// Enough for 4 TiB of 64 KiB clusters or 32 GiB of 512-byte clusters. The record is kept only
/// while an image is opened.
pub(crate) const MAX_CLAIM_BYTES: usize = 16 << 20; // 16 MiB

/// L2 tables of one image, in bytes: 1 GiB.
///
/// They map 8 TiB of 64 KiB clusters. Reading that much from memory takes half a second, so that a
/// sparse file full of empty tables is refused within a second.
pub(crate) const MAX_L2_BYTES: u64 = 1 << 30; // 1 GiB

/// L2 tables are read and checked this many bytes at a time: 4 MiB, two of the largest tables.
pub(crate) const TABLE_WINDOW_BYTES: usize = 4 << 20; // 4 MiB

/// Gaps between two tables up to this length are read as well: 64 KiB, which costs a disk or an
/// object store less than another request.
pub(crate) const TABLE_READ_GAP_BYTES: u64 = 64 << 10; // 64 KiB

/// Total of the gaps that are read in one walk: 16 MiB; otherwise all of a file with small tables
/// far apart could be read.
pub(crate) const MAX_TABLE_GAP_BYTES: u64 = 16 << 20; // 16 MiB

/// Greatest L1 table, QEMU's own limit (`QCOW_MAX_L1_SIZE`): 32 MiB, or 2 PiB of 64 KiB clusters.
pub(crate) const MAX_L1_BYTES: u64 = 32 << 20; // 32 MiB

/// Greatest refcount table, QEMU's own limit (`QCOW_MAX_REFTABLE_SIZE`): 8 MiB.
pub(crate) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20; // 8 MiB

/// Refcount blocks for clusters after the end of the file that are checked: 16 MiB.
///
/// A valid image has none or one, and that is the last one. With more than this an image is
/// refused.
pub(crate) const MAX_REFCOUNT_BYTES_BEYOND_END: u64 = 16 << 20; // 16 MiB

/// Most internal snapshots, QEMU's own limit (`QCOW_MAX_SNAPSHOTS`).
pub(crate) const MAX_SNAPSHOTS: u32 = 65536;

/// Greatest snapshot table, QEMU's own limit (`QCOW_MAX_SNAPSHOTS_SIZE`): 1 KiB for each snapshot.
pub(crate) const MAX_SNAPSHOT_TABLE_BYTES: u64 = 64 << 20; // 64 MiB

/// Most extra data of a snapshot, QEMU's own limit (`QCOW_MAX_SNAPSHOT_EXTRA_DATA`).
pub(crate) const MAX_SNAPSHOT_EXTRA_BYTES: u32 = 1024;

/// Most dirty bitmaps, QEMU's own limit (`QCOW2_MAX_BITMAPS`).
pub(crate) const MAX_BITMAPS: u32 = 65535;

/// Greatest bitmap directory, QEMU's own limit (`QCOW2_MAX_BITMAP_DIRECTORY_SIZE`).
pub(crate) const MAX_BITMAP_DIRECTORY_BYTES: u64 = 1024 * MAX_BITMAPS as u64; // just below 64 MiB

/// Bitmap tables of one image together: 64 MiB.
///
/// A bitmap of 64 KiB granularity for a disk of 1 TiB has a table of 32 entries, so this is far
/// beyond any real use; it bounds the time that is spent on them.
pub(crate) const MAX_BITMAP_TABLE_BYTES: u64 = 64 << 20; // 64 MiB

/// Table of blocks of a VHD, VHDX or VDI image, or a VMDK's grain directory: 16 MiB.
///
/// Enough for 4 TiB of VDI, 64 TiB of VHDX with its usual blocks of 32 MiB, and any VHD of 512 KiB
/// blocks. It is kept while the image is open, beside the batch.
pub(crate) const MAX_BLOCK_TABLE_BYTES: usize = 16 << 20; // 16 MiB

/// Greatest raw image: 1 PiB, so that its map of 2 GiB extents stays within a batch's budget.
pub(crate) const MAX_RAW_BYTES: u64 = 1 << 50;

/// Memory for decoding any xz stream: 34 MiB, which `xz -8` needs for its window of 32 MiB.
///
/// The default, `xz -6`, takes 9 MiB.
pub(crate) const MAX_XZ_MEMORY_BYTES: u64 = 34 << 20; // 34 MiB

/// Memory, out of [`MAX_WINDOWS_BYTES`], for decoding an xz stream with a larger window: what one of
/// 64 MiB (`xz -9`) or 128 MiB takes.
pub(crate) const LARGE_XZ_MEMORY_BYTES: [u64; 2] = [66 << 20, 130 << 20];

/// Window that any zstd stream may have: 2^25 bytes, or 32 MiB, as for xz. Levels up to 20 stay within
/// it.
pub(crate) const FREE_ZSTD_WINDOW_LOG: u32 = 25;

/// Largest window of a zstd stream: 2^27 bytes, or 128 MiB, out of [`MAX_WINDOWS_BYTES`]. It is zstd's
/// own default limit: `--ultra -22` and `--long` stay within it.
pub(crate) const MAX_ZSTD_WINDOW_LOG: u32 = 27;

/// The most of it that one stream needs: what the largest window of an xz stream takes.
pub(crate) const MAX_WINDOW_BYTES: u64 = LARGE_XZ_MEMORY_BYTES[1];

/// Memory for the large windows of all streams of a program together: 260 MiB, two of the largest.
///
/// A stream that finds it used up waits.
pub(crate) const MAX_WINDOWS_BYTES: u64 = 260 << 20; // 260 MiB

/// Blocks of a remote image that its plan may be made from, if it is to be read in one pass: 65536.
///
/// A digest of each is kept until the image has been read, 64 bytes including its place in a table: 4 MiB
/// in total. This is enough for 32768 blocks of tables (8 TiB of 64 KiB clusters, 128 GiB of 4 KiB
/// clusters) that are far from each other, each across two blocks. An image that needs more is downloaded
/// first.
pub const MAX_PLAN_BLOCKS: usize = 1 << 16;
