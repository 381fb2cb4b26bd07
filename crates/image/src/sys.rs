//! The system calls that the standard library lacks, and all `unsafe` code, in the modules below.
//!
//! Each function is a thin, safe wrapper around one call. Policy (when to use which, what a failure
//! means) is in the callers. Calls for which rustix has a safe form are in [`files`] and use it.
#![expect(
    unsafe_code,
    reason = "three ioctls, open file locks, leases, poll, mapped memory, io_submit and unshare have no safe form"
)]

mod aio;
mod device;
mod error;
mod files;
mod memory;
mod process;
#[cfg(test)]
mod tests;

pub(crate) use aio::{AsyncWrites, Memory};
pub(crate) use device::{
    block_device_size, block_discard, block_zero_out, try_lock_range, try_write_lease,
    wait_for_hangup,
};
pub(crate) use files::{
    direct_io_alignment, drop_cached, link_unnamed, logical_block_size, lower_priority, punch_hole,
    seek_data, seek_hole, set_direct, set_priority_below_parent,
};
pub(crate) use memory::{AlignedBuf, HUGE_PAGE_BYTES, PAGE_BYTES, is_cached, map_shared, share};
pub(crate) use process::{close_all_from, exit_now, unshare_all};
