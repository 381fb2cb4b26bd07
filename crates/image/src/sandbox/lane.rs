//! One thread's connection to a decoding process: a request, then its reply.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fate::Fate;
use super::process::{Process, Seat, is_wait};
use super::wire::{
    BUFFER_BYTES, MAX_TASKS, MAX_TEXT, Op, Place, REPLY_BYTES, Reply, Request, STRIDE, Status,
    TASK_BYTES, WireTask,
};
use crate::error::{Error, ErrorKind, Result};
use crate::map::Encoding;
use crate::sys::AlignedBuf;

/// Whether what is being decoded is still wanted.
pub(crate) type Stop = Box<dyn Fn() -> bool + Send>;

/// The buffer of a lane that compressed input is copied to; the others before it are for anything.
const INPUT: usize = 3;

/// A cluster that is to be decoded, from one place of the lane to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    pub(crate) encoding: Encoding,
    pub(crate) input: Place,
    pub(crate) output: Place,
    /// How many of its bytes are on the disk.
    pub(crate) needed: usize,
}

/// One user's access to a decoding process.
pub(crate) struct Lane {
    process: Arc<Process>,
    /// Some until the drop.
    seat: Option<Seat>,
    is_stopped: Stop,
    answer_timeout: Duration,
    /// Whether a request has no answer yet, or the process is not to be trusted any more.
    is_open: bool,
    /// When the open request has to be answered.
    deadline: Instant,
}

/// What a process may answer.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It is done.
    Done {
        consumed: usize,
        produced: usize,
        value: u64,
    },
    /// The image is refused: the cluster, or the kind of error and a text.
    Refused { number: usize, text: String },
    /// It waits until this much memory is granted.
    Window(u64),
}

impl Lane {
    pub(super) fn new(
        process: Arc<Process>,
        seat: Seat,
        is_stopped: Stop,
        answer_timeout: Duration,
    ) -> Self {
        Self {
            process,
            seat: Some(seat),
            is_stopped,
            answer_timeout,
            is_open: false,
            deadline: Instant::now(),
        }
    }

    /// The lane's buffers except for the one for input. Whoever takes them keeps them.
    pub(crate) fn take_buffers(&mut self) -> Vec<AlignedBuf> {
        self.seat_mut()
            .map(|seat| {
                seat.buffers
                    .drain(..INPUT.min(seat.buffers.len()))
                    .collect()
            })
            .unwrap_or_default()
    }

    /// Where a buffer of this lane begins.
    pub(crate) fn place_of(&self, buffer: &AlignedBuf) -> Option<usize> {
        let base = self.seat.as_ref()?.base;
        buffer.place()?.checked_sub(base)
    }

    /// The memory for compressed input, and where it begins.
    pub(crate) fn input(&mut self) -> Result<(usize, &mut [u8])> {
        let seat = self.seat_mut().ok_or_else(gone)?;
        let buffer = seat.buffers.last_mut().ok_or_else(gone)?;
        Ok((INPUT * STRIDE, &mut buffer[..]))
    }

    /// The memory of one of the buffers, which have not been taken.
    pub(crate) fn output(&self, index: usize) -> Result<(usize, &[u8])> {
        let seat = self.seat.as_ref().ok_or_else(gone)?;
        let buffer = seat.buffers.get(index).ok_or_else(gone)?;
        Ok((index * STRIDE, buffer))
    }

    /// Decodes clusters. The inner error is the index of the first that cannot be decoded.
    pub(crate) fn clusters(&mut self, tasks: &[Task]) -> Result<Result<(), usize>> {
        for (number, part) in tasks.chunks(MAX_TASKS).enumerate() {
            let mut message = Vec::with_capacity(part.len() * TASK_BYTES);
            for task in part {
                let task = WireTask {
                    encoding: code(task.encoding),
                    input: task.input,
                    output: task.output,
                    needed: task.needed,
                };
                message.extend_from_slice(&task.encode());
            }
            self.ask(
                Op::Clusters,
                part.len(),
                Place::default(),
                Place::default(),
                &message,
            )?;
            match self.answer()? {
                Answer::Done { .. } => {}
                Answer::Refused { number: failed, .. } if failed < part.len() => {
                    return Ok(Err(number * MAX_TASKS + failed));
                }
                _ => return Err(self.lied("answered what it was not asked")),
            }
        }
        Ok(Ok(()))
    }

    /// Sends a request. There must be no open one.
    pub(crate) fn ask(
        &mut self,
        op: Op,
        number: usize,
        input: Place,
        output: Place,
        rest: &[u8],
    ) -> Result<()> {
        if self.is_open {
            let what = "A second request for a decoding process, which is a bug in this program";
            return Err(Error::new(ErrorKind::Internal, what));
        }
        let seat = self.seat_mut().ok_or_else(gone)?;
        seat.serial = seat.serial.wrapping_add(1);
        let request = Request {
            serial: seat.serial,
            op,
            number,
            input,
            output,
        };
        let mut message = request.encode().to_vec();
        message.extend_from_slice(rest);
        self.is_open = true;
        self.deadline = Instant::now() + self.answer_timeout;
        self.send(&message)
    }

    /// Lets the process take the memory that it asked for, after it waited this long for it. The open request stays
    /// open.
    pub(crate) fn grant(&mut self, waited: Duration) -> Result<()> {
        // The wait for memory was not the process's.
        self.deadline += waited;
        // Who never lets this one wait for an answer is not to hold it for ever either.
        self.expect_more()?;
        let request = Request {
            serial: self.seat.as_ref().map_or(0, |seat| seat.serial),
            op: Op::Grant,
            number: 0,
            input: Place::default(),
            output: Place::default(),
        };
        self.send(&request.encode())
    }

    /// Waits for the answer to the open request.
    pub(crate) fn answer(&mut self) -> Result<Answer> {
        let mut bytes = [0; REPLY_BYTES];
        self.receive(&mut bytes)?;
        let serial = self.seat.as_ref().map(|seat| seat.serial);
        let Some(reply) = Reply::decode(&bytes).filter(|reply| Some(reply.serial) == serial) else {
            return Err(self.lied("answered something else than it was asked"));
        };
        match reply.status {
            Status::Done => {
                self.is_open = false;
                Ok(Answer::Done {
                    consumed: reply.consumed,
                    produced: reply.produced,
                    value: reply.value,
                })
            }
            Status::Refused => {
                if reply.produced > MAX_TEXT {
                    return Err(self.lied("gave a reason that is too long"));
                }
                let mut text = vec![0; reply.produced];
                self.receive(&mut text)?;
                self.is_open = false;
                Ok(Answer::Refused {
                    number: reply.consumed,
                    text: printable(&text),
                })
            }
            Status::Window => Ok(Answer::Window(reply.value)),
            Status::Ready => Err(self.lied("began anew")),
        }
    }

    /// Ends the process because of what it answered.
    pub(crate) fn lied(&mut self, what: &'static str) -> Error {
        self.is_open = true;
        self.process.end(Fate::Lied(what))
    }

    pub(crate) fn is_stopped(&self) -> bool {
        (self.is_stopped)()
    }

    fn send(&mut self, message: &[u8]) -> Result<()> {
        let mut sent = 0;
        while sent < message.len() {
            let Some(seat) = &self.seat else {
                return Err(gone());
            };
            match (&seat.socket).write(&message[sent..]) {
                Ok(0) => return Err(self.process.end(Fate::Ended(None))),
                Ok(written) => sent += written,
                Err(error) => self.keep_waiting(&error)?,
            }
        }
        Ok(())
    }

    fn receive(&mut self, bytes: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < bytes.len() {
            let Some(seat) = &self.seat else {
                return Err(gone());
            };
            match (&seat.socket).read(&mut bytes[filled..]) {
                Ok(0) => return Err(self.process.end(Fate::Ended(None))),
                Ok(read) => filled += read,
                Err(error) => self.keep_waiting(&error)?,
            }
        }
        Ok(())
    }

    /// After a call that failed: whether it may be repeated.
    fn keep_waiting(&self, error: &io::Error) -> Result<()> {
        if !is_wait(error) {
            return Err(self.process.end(Fate::Ended(None)));
        }
        self.expect_more()
    }

    /// Fails if the answer is not wanted any more, or is overdue.
    fn expect_more(&self) -> Result<()> {
        if self.is_stopped() {
            return Err(Error::new(ErrorKind::Cancelled, "The copy was cancelled"));
        }
        if Instant::now() >= self.deadline {
            return Err(self.process.end(Fate::Hung(self.answer_timeout)));
        }
        Ok(())
    }

    fn seat_mut(&mut self) -> Option<&mut Seat> {
        self.seat.as_mut()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // A lane can be used again once it is quiet, and if its buffers are still there.
        if let Some(seat) = self.seat.take()
            && !self.is_open
            && seat.buffers.len() > INPUT
        {
            self.process.return_seat(seat);
        }
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

const _: () = assert!(BUFFER_BYTES <= STRIDE);

/// Encodings on the wire. [`Encoding::Plain`] is never decoded.
const ENCODINGS: [Encoding; 4] = [
    Encoding::Plain,
    Encoding::Deflate,
    Encoding::Zstd,
    Encoding::Grain,
];

fn code(encoding: Encoding) -> u32 {
    let index = ENCODINGS.iter().position(|known| *known == encoding);
    index
        .and_then(|index| u32::try_from(index).ok())
        .unwrap_or(0)
}

/// The encoding with this number on the wire.
pub(crate) fn encoding_of(code: u32) -> Option<Encoding> {
    ENCODINGS.get(usize::try_from(code).ok()?).copied()
}

/// A text from the other process, with anything but printable ASCII replaced.
fn printable(text: &[u8]) -> String {
    let letter = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '?',
    };
    text.iter().map(letter).collect()
}

fn gone() -> Error {
    Error::new(
        ErrorKind::Internal,
        "A lane of a decoding process was used without its memory, which is a bug in this program",
    )
}
