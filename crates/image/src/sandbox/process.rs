//! One decoding process, from its start to its end.

use std::fmt;
use std::io::{self, IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::fate::{Counts, Fate};
use super::parts::Parts;
use super::wire::{BUFFER_BYTES, BUFFERS, LANES, REPLY_BYTES, Reply, STRIDE, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::{self, AlignedBuf};

/// How long a process may take until it is ready: a few milliseconds, or far more on a host with more
/// load than processors.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// How often a wait for a process checks whether it is still wanted.
pub(super) const CHECK: Duration = Duration::from_millis(50);

/// Starts the program that runs [`worker::run`](crate::worker::run).
pub trait Launch: fmt::Debug + Send + Sync {
    /// Starts it with the socket as its standard input, the memory as its standard output, an empty
    /// environment, and no other descriptor.
    fn launch(&self, socket: OwnedFd, memory: OwnedFd) -> io::Result<Child>;
}

/// A process that is ready, or was.
pub(super) struct Process {
    /// Its own end of the socket by which it was started. It ends when this is closed.
    _control: UnixStream,
    parts: Parts,
    free: Mutex<Vec<Seat>>,
    state: Mutex<State>,
    counts: Arc<Counts>,
}

/// A lane's place in a process.
pub(super) struct Seat {
    pub(super) socket: UnixStream,
    /// The lane's buffers, in the order of their places.
    pub(super) buffers: Vec<AlignedBuf>,
    /// Of the last request.
    pub(super) serial: u32,
    /// Offset of the lane in the memory.
    pub(super) base: usize,
}

struct State {
    child: Child,
    fate: Option<Fate>,
}

impl Process {
    /// Starts one, and waits until it is ready.
    pub(super) fn start(launch: &dyn Launch, counts: &Arc<Counts>) -> Result<Self> {
        let started = Self::try_start(launch, counts).map_err(|error| {
            let what = "The process that decodes images cannot be started";
            Error::io(ErrorKind::Decoder, what, error)
        });
        if started.is_ok() {
            counts.start();
        }
        started
    }

    fn try_start(launch: &dyn Launch, counts: &Arc<Counts>) -> io::Result<Self> {
        let (memory, mut buffers) = sys::share(LANES * BUFFERS, STRIDE, BUFFER_BYTES)?;
        let (control, theirs) = UnixStream::pair()?;
        let lanes: Vec<(UnixStream, UnixStream)> = (0..LANES)
            .map(|_| UnixStream::pair())
            .collect::<io::Result<_>>()?;
        let child = launch.launch(theirs.into(), memory)?;
        // From here on the child is killed if anything fails.
        let mut process = Self {
            _control: control,
            parts: Parts::NONE,
            free: Mutex::default(),
            state: Mutex::new(State { child, fate: None }),
            counts: Arc::clone(counts),
        };
        let ends: Vec<BorrowedFd<'_>> = lanes.iter().map(|(_, theirs)| theirs.as_fd()).collect();
        send_descriptors(&process._control, &ends)?;
        let mut seats = Vec::with_capacity(LANES);
        for (index, (ours, _)) in lanes.into_iter().enumerate() {
            ours.set_read_timeout(Some(CHECK))?;
            ours.set_write_timeout(Some(CHECK))?;
            seats.push(Seat {
                socket: ours,
                buffers: buffers.drain(..BUFFERS).collect(),
                serial: 0,
                base: index * BUFFERS * STRIDE,
            });
        }
        process.parts = process.greeting()?;
        process.free = Mutex::new(seats);
        Ok(process)
    }

    /// Waits until the process says that it is ready, and what restricts it.
    fn greeting(&self) -> io::Result<Parts> {
        let deadline = Instant::now() + START_TIMEOUT;
        self._control.set_read_timeout(Some(CHECK))?;
        let mut bytes = [0; REPLY_BYTES];
        let mut filled = 0;
        while filled < bytes.len() {
            match (&self._control).read(&mut bytes[filled..]) {
                Ok(0) => {
                    let fate = self.end(Fate::Ended(None));
                    return Err(io::Error::other(fate.to_string()));
                }
                Ok(read) => filled += read,
                Err(error) if is_wait(&error) && Instant::now() < deadline => {}
                Err(error) if is_wait(&error) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error),
            }
        }
        match Reply::decode(&bytes) {
            Some(reply) if reply.status == Status::Ready => {
                let bits = u32::try_from(reply.value).unwrap_or(0);
                Ok(Parts::of_bits(bits))
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// What restricts it.
    pub(super) fn parts(&self) -> Parts {
        self.parts
    }

    /// A lane that nobody uses, if there is one.
    pub(super) fn seat(&self) -> Option<Seat> {
        self.free().pop()
    }

    /// Whether there is such a lane.
    pub(super) fn has_free_seat(&self) -> bool {
        !self.free().is_empty()
    }

    /// Takes back a lane without an open request.
    pub(super) fn return_seat(&self, seat: Seat) {
        self.free().push(seat);
    }

    /// Whether it can be used, as far as is known.
    pub(super) fn is_alive(&self) -> bool {
        let mut state = self.state();
        state.fate.is_none() && matches!(state.child.try_wait(), Ok(None))
    }

    /// Ends the process, if it was not before. The first reason is the one that counts.
    pub(super) fn end(&self, fate: Fate) -> Error {
        let mut state = self.state();
        if let Some(earlier) = &state.fate {
            return earlier.error();
        }
        // A process that has ended by itself stays as it ended.
        let killed = state.child.kill().and_then(|()| state.child.wait());
        let fate = match fate {
            Fate::Ended(_) => Fate::Ended(killed.ok()),
            other => other,
        };
        let error = fate.error();
        self.counts.fail(&fate);
        state.fate = Some(fate);
        error
    }

    fn free(&self) -> MutexGuard<'_, Vec<Seat>> {
        // A list that a panic cannot leave half-changed.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changed last, by one statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut state = self.state();
        if state.fate.is_none() {
            // Fails only if it has ended already; waiting for a killed process takes a moment, and
            // without it the process would stay as a zombie.
            state.child.kill().ok();
            state.child.wait().ok();
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.state().child.id();
        f.debug_struct("Process")
            .field("id", &id)
            .finish_non_exhaustive()
    }
}

fn send_descriptors(socket: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LANES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let byte = [IoSlice::new(&[0])];
    rustix::net::sendmsg(socket, &byte, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Whether a call on a socket ended because of its timeout, and can be repeated.
pub(super) fn is_wait(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
