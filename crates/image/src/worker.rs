//! The decoding process itself: what it does to itself, and then what it is asked to do.
//!
//! ```text
//! start -> descriptors closed, limits, no_new_privs, user, namespaces, capabilities
//!       -> takes the socket (standard input), the memory (standard output), the lanes' sockets
//!       -> Landlock -> a thread for each lane -> limits of threads and descriptors -> seccomp in every
//!          thread -> says what worked -> reads the first request
//! ```
//!
//! Before the last step nothing that an image determines has been read. The restrictions do not depend on
//! each other, and whether what worked is enough is decided by the process that started this one.
//!
//! A program that may start itself as a decoding process calls [`run`] if [`is_asked`], before it
//! does anything else.

mod lane;
mod lockdown;

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::sandbox::{LANE_BYTES, LANES, Parts, Reply, Status};
use crate::sys;

/// The argument that makes a program the decoding process.
pub const ARGUMENT: &str = "--decode-for-the-daemon";

/// By how much its priority is lowered, as that of the threads that write what it decodes.
const NICENESS: i32 = 5;

/// Whether this program was started to decode.
pub fn is_asked() -> bool {
    std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == ARGUMENT)
}

/// Looks at requests before they are carried out. The tests have one that does what a decoder never
/// does; a program that is shipped has none.
pub trait Tamper: Send + Sync + 'static {
    /// A request with this serial number is about to be carried out on these compressed bytes. Replies go to the
    /// socket.
    fn before(&self, input: &[u8], serial: u32, socket: BorrowedFd<'_>);

    /// Whether system calls are filtered. Without it the other restrictions can be seen at work.
    fn is_filtered(&self) -> bool {
        true
    }
}

/// No tampering.
struct Untouched;

impl Tamper for Untouched {
    fn before(&self, _: &[u8], _: u32, _: BorrowedFd<'_>) {}
}

/// Decodes until the process that started this one ends.
pub fn run() -> ExitCode {
    run_with(Untouched)
}

/// [`run`], tampered with.
pub fn run_with(tamper: impl Tamper) -> ExitCode {
    // Nobody reads messages: the process that started this one sees that it has ended.
    serve(tamper).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

fn serve(tamper: impl Tamper) -> std::io::Result<()> {
    // As what moves bytes in the program that started it: whoever answers requests there gets a core at once.
    sys::set_priority_below_parent(NICENESS);
    let mut parts = lockdown::first();
    let control = std::io::stdin().as_fd().try_clone_to_owned()?;
    let memory = sys::map_shared(std::io::stdout().as_fd(), LANES, LANE_BYTES, LANE_BYTES)?;
    let sockets = receive_descriptors(control.as_fd())?;
    if sockets.len() != LANES {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    parts = parts.with(lockdown::landlock());
    let filter = Arc::new(match tamper.is_filtered() {
        true => lockdown::filter(),
        false => None,
    });
    let tamper = Arc::new(tamper);
    let (ready, results) = mpsc::channel();
    for (socket, memory) in sockets.into_iter().zip(memory) {
        let (filter, ready) = (Arc::clone(&filter), ready.clone());
        let tamper = Arc::clone(&tamper);
        std::thread::Builder::new()
            .name("decode".to_owned())
            .spawn(move || {
                let is_filtered = lockdown::apply(filter.as_ref().as_ref());
                // The main thread waits for it.
                ready.send(is_filtered).ok();
                drop(ready);
                let _kept = lane::serve(socket, memory, &*tamper);
                // So would the end of this thread.
                loop {
                    std::thread::park();
                }
            })?;
    }
    drop(ready);
    parts = parts.with(lockdown::last());
    let mut filtered = 0;
    while filtered < LANES && results.recv() == Ok(true) {
        filtered += 1;
    }
    if lockdown::apply(filter.as_ref().as_ref()) && filtered == LANES {
        parts = parts.with(Parts::SECCOMP);
    }
    let ready = Reply {
        serial: 0,
        status: Status::Ready,
        consumed: 0,
        produced: 0,
        value: u64::from(parts.bits()),
    };
    lane::write_all(control.as_fd(), &ready.encode())?;
    // Nothing is ever sent: this is the end of the process that started this one.
    let mut byte = [0];
    while matches!(
        rustix::io::read(&control, &mut byte),
        Err(rustix::io::Errno::INTR)
    ) {}
    sys::exit_now(0)
}

fn receive_descriptors(socket: BorrowedFd<'_>) -> std::io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LANES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut into = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut found = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            found.extend(descriptors);
        }
    }
    Ok(found)
}
