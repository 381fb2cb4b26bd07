//! One thread of the decoding process: reads a request, decodes, replies.
//!
//! The requests come from the daemon and are believed only as far as the memory goes; what is decoded is
//! not believed at all.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

use super::Tamper;
use crate::decode::Decoder;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::stream::{Codec, Ended, Means, codec_of};
use crate::sandbox::{
    MAX_TASKS, MAX_TEXT, Op, Place, REQUEST_BYTES, Reply, Request, Status, TASK_BYTES, WireTask,
    encoding_of,
};
use crate::sys::AlignedBuf;

/// The other side is gone, or does not keep to the protocol.
struct Closed;

/// The socket, and the request that is open.
struct Line {
    socket: OwnedFd,
    serial: AtomicU32,
}

pub(super) struct Lane {
    line: Arc<Line>,
    memory: AlignedBuf,
    decoder: Decoder,
    stream: Option<Codec>,
    tasks: Vec<u8>,
}

/// Serves a lane until it is closed, and returns what is left: to let go of it would take more system calls
/// than decoding does.
pub(super) fn serve(socket: OwnedFd, memory: AlignedBuf, tamper: &impl Tamper) -> Lane {
    let mut lane = Lane {
        line: Arc::new(Line {
            socket,
            serial: AtomicU32::new(0),
        }),
        memory,
        decoder: Decoder::new(),
        stream: None,
        tasks: Vec::new(),
    };
    while let Ok(()) = lane.step(tamper) {}
    lane
}

/// What was done for a request.
#[derive(Default)]
struct Work {
    consumed: usize,
    produced: usize,
}

impl Lane {
    fn step(&mut self, tamper: &impl Tamper) -> Result<(), Closed> {
        let mut bytes = [0; REQUEST_BYTES];
        self.line.read(&mut bytes)?;
        let request = Request::decode(&bytes).ok_or(Closed)?;
        self.line.serial.store(request.serial, Ordering::Relaxed);
        let mut reply = Reply {
            serial: request.serial,
            status: Status::Done,
            consumed: 0,
            produced: 0,
            value: 0,
        };
        let mut text = String::new();
        if request.op == Op::Clusters {
            if let Some(failed) = self.clusters(&request, tamper)? {
                reply.status = Status::Refused;
                reply.consumed = failed;
            }
        } else {
            match self.stream(&request, tamper) {
                Ok(work) => {
                    reply.consumed = work.consumed;
                    reply.produced = work.produced;
                    reply.value = self.stream.as_ref().map_or(0, Codec::ignored_bytes);
                }
                Err(error) => {
                    text = error.to_string();
                    text.truncate(text.floor_char_boundary(MAX_TEXT));
                    reply.status = Status::Refused;
                    reply.consumed = Ended::number_of(&error);
                    reply.produced = text.len();
                }
            }
        }
        let mut message = reply.encode().to_vec();
        message.extend_from_slice(text.as_bytes());
        self.line.write(&message)
    }

    /// Decodes clusters. Some: the first that cannot be decoded.
    fn clusters(
        &mut self,
        request: &Request,
        tamper: &impl Tamper,
    ) -> Result<Option<usize>, Closed> {
        if request.number > MAX_TASKS {
            return Err(Closed);
        }
        self.tasks.resize(request.number * TASK_BYTES, 0);
        self.line.read(&mut self.tasks)?;
        let (tasks, _) = self.tasks.as_chunks::<TASK_BYTES>();
        for (number, task) in tasks.iter().enumerate() {
            let task = WireTask::decode(task);
            let encoding = encoding_of(task.encoding).ok_or(Closed)?;
            let (input, output) = apart(&mut self.memory, task.input, task.output).ok_or(Closed)?;
            tamper.before(input, request.serial, self.line.socket.as_fd());
            let needed = task.needed.min(output.len());
            if self
                .decoder
                .decode_part(encoding, input, output, needed)
                .is_err()
            {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    fn stream(&mut self, request: &Request, tamper: &impl Tamper) -> Result<Work> {
        match request.op {
            Op::Start => {
                let codec = codec_of(request.number).ok_or_else(unexpected)?;
                let line = Arc::clone(&self.line);
                let ask = move |bytes| line.ask_for_window(bytes);
                self.stream = Some(Codec::new(codec, Means::Asked(Box::new(ask)))?);
                Ok(Work::default())
            }
            Op::Push | Op::Finish => {
                let stream = self.stream.as_mut().ok_or_else(unexpected)?;
                let (input, output) = apart(&mut self.memory, request.input, request.output)
                    .ok_or_else(unexpected)?;
                tamper.before(input, request.serial, self.line.socket.as_fd());
                let step = match request.op {
                    Op::Push => stream.decode(input, output)?,
                    _ => stream.finish(output)?,
                };
                Ok(Work {
                    consumed: step.consumed,
                    produced: step.produced,
                })
            }
            Op::Clusters | Op::Grant => Err(unexpected()),
        }
    }
}

impl Line {
    /// Waits until the memory for a window is granted.
    fn ask_for_window(&self, bytes: u64) -> Result<()> {
        let ask = Reply {
            serial: self.serial.load(Ordering::Relaxed),
            status: Status::Window,
            consumed: 0,
            produced: 0,
            value: bytes,
        };
        let mut answer = [0; REQUEST_BYTES];
        let granted = self
            .write(&ask.encode())
            .and_then(|()| self.read(&mut answer));
        match (granted, Request::decode(&answer)) {
            (Ok(()), Some(request)) if request.op == Op::Grant => Ok(()),
            _ => Err(unexpected()),
        }
    }

    fn read(&self, bytes: &mut [u8]) -> Result<(), Closed> {
        let mut filled = 0;
        while filled < bytes.len() {
            match rustix::io::read(&self.socket, &mut bytes[filled..]) {
                Ok(0) => return Err(Closed),
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(_) => return Err(Closed),
            }
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Closed> {
        write_all(self.socket.as_fd(), bytes).map_err(|_| Closed)
    }
}

pub(super) fn write_all(socket: BorrowedFd<'_>, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(socket, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Two places of the memory; `None` unless they are apart.
fn apart(memory: &mut [u8], input: Place, output: Place) -> Option<(&[u8], &mut [u8])> {
    let (input, output) = (input.range()?, output.range()?);
    if input.end <= output.start {
        let (before, after) = memory.split_at_mut_checked(output.start)?;
        Some((before.get(input)?, after.get_mut(..output.len())?))
    } else if output.end <= input.start {
        let (before, after) = memory.split_at_mut_checked(input.start)?;
        Some((after.get(..input.len())?, before.get_mut(output)?))
    } else {
        None
    }
}

fn unexpected() -> Error {
    Error::new(
        ErrorKind::Internal,
        "The decoding process was asked for something unexpected, which is a bug in this program",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_overlap_or_lie_outside_are_refused() {
        let mut memory = vec![0; 100];
        let place = |start, len| Place { start, len };
        let mut lens = |input, output| {
            apart(&mut memory, input, output).map(|(input, output)| (input.len(), output.len()))
        };
        assert_eq!(lens(place(0, 10), place(10, 90)), Some((10, 90)));
        assert_eq!(lens(place(60, 40), place(0, 60)), Some((40, 60)));
        assert_eq!(lens(place(0, 11), place(10, 20)), None);
        assert_eq!(lens(place(10, 20), place(0, 11)), None);
        assert_eq!(lens(place(0, 10), place(10, 91)), None);
        assert_eq!(lens(place(usize::MAX, 2), place(0, 1)), None);
        assert_eq!(lens(place(5, 0), place(0, 100)), None);
    }
}
