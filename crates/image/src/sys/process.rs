//! What a process does to itself.

use std::io;

use super::error::check;

/// Closes every descriptor from this number on.
///
/// Only for the beginning of a program, when nothing in it has opened one yet.
pub(crate) fn close_all_from(first: u32) -> io::Result<()> {
    // SAFETY: no memory is passed. The caller runs before anything owns such a descriptor.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    match closed {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Moves the process to new namespaces of its own: a user namespace, in which no user of the host
/// exists, and in it an empty network, empty IPC and a mount table of its own. Only for a process with
/// one thread.
pub(crate) fn unshare_all() -> io::Result<()> {
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    // SAFETY: no memory is passed, and none of the flags unshares memory or descriptors.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

/// Ends the process at once: no destructor runs, and nothing is flushed.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) only ends the process.
    unsafe { libc::_exit(status) }
}
