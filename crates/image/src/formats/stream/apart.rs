//! A stream that is decoded in another process.
//!
//! ```text
//! push: input is copied to one half of the lane's input while the other half is being decoded
//!       output is copied from one buffer while the process fills the other
//! ```
//!
//! So the process decodes while this one fetches the next input and writes the last output. What it
//! has produced is copied to private memory before anything looks at it.

use std::time::Instant;

use super::codec::{self, Ended};
use super::step::Step;
use super::windows::{Share, Windows};
use crate::error::{Error, ErrorKind, Result};
use crate::format::StreamCodec;
use crate::limits::MAX_WINDOW_BYTES;
use crate::sandbox::{Answer, Lane, Op, Place};

/// A half of the input.
const HALF_BYTES: usize = 512 << 10; // 512 KiB

/// What one request may produce: a fast decoder takes a millisecond for it, which a request's own costs are
/// small against.
const OUTPUT_BYTES: usize = 1 << 20; // 1 MiB

/// The shortest part of a stream that needs a window of its own: an empty frame of zstd.
const LEAST_FRAME_BYTES: usize = 9;

/// Some of a lane's bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    /// The half, or the buffer.
    which: usize,
    start: usize,
    end: usize,
}

impl Span {
    fn len(self) -> usize {
        self.end - self.start
    }
}

/// The open request.
#[derive(Debug, Clone, Copy)]
struct Open {
    input: Span,
    /// The buffer that it fills.
    buffer: usize,
    is_last: bool,
}

pub(super) struct Apart {
    lane: Lane,
    windows: Windows,
    /// The stream's share of the budget for large windows.
    share: Option<Share>,
    /// What is decoded next.
    current: Span,
    /// What comes after it, in the other half.
    next: Span,
    open: Option<Open>,
    /// Decoded bytes that were not passed on yet.
    ready: Span,
    /// Whether the process has said that there is no more.
    is_finished: bool,
    ignored: u64,
}

impl Apart {
    pub(super) fn new(codec: StreamCodec, lane: Lane, windows: Windows) -> Result<Self> {
        let mut apart = Self {
            lane,
            windows,
            share: None,
            current: Span::default(),
            next: Span {
                which: 1,
                ..Span::default()
            },
            open: None,
            ready: Span::default(),
            is_finished: false,
            ignored: 0,
        };
        let (none, number) = (Place::default(), codec::number_of(codec));
        apart.lane.ask(Op::Start, number, none, none, &[])?;
        let (consumed, produced) = apart.answer()?;
        match (consumed, produced) {
            (0, 0) => Ok(apart),
            _ => Err(apart.lied()),
        }
    }

    /// Takes as much input as there is room for, and passes on what is decoded.
    pub(super) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        let mut done = Step {
            consumed: 0,
            produced: 0,
        };
        loop {
            done.consumed += self.accept(&input[done.consumed..])?;
            done.produced += self.pass_on(&mut output[done.produced..])?;
            self.request()?;
            if done.produced == output.len() {
                return Ok(done);
            }
            if self.ready.len() > 0 {
                continue;
            }
            if done.consumed == input.len() {
                // What is being decoded is fetched by the next call.
                return Ok(done);
            }
            self.collect()?;
        }
    }

    /// Decodes what remains once the input has ended. Nothing if that is all.
    pub(super) fn finish(&mut self, output: &mut [u8]) -> Result<Step> {
        loop {
            let produced = self.pass_on(output)?;
            if produced > 0 || self.is_finished {
                return Ok(Step {
                    consumed: 0,
                    produced,
                });
            }
            self.request()?;
            if self.open.is_none() {
                self.ask(Op::Finish, Span::default())?;
            }
            self.collect()?;
        }
    }

    /// As of the last answer.
    pub(super) fn ignored_bytes(&self) -> u64 {
        self.ignored
    }

    /// Copies input to the half that is not being decoded.
    fn accept(&mut self, input: &[u8]) -> Result<usize> {
        let len = input.len().min(HALF_BYTES - self.next.end);
        if len > 0 {
            let start = self.next.which * HALF_BYTES + self.next.end;
            let (_, memory) = self.lane.input()?;
            let room = memory.get_mut(start..start + len).ok_or_else(outside)?;
            room.copy_from_slice(&input[..len]);
            self.next.end += len;
        }
        Ok(len)
    }

    /// Copies decoded bytes from the shared memory, so that they do not change any more.
    fn pass_on(&mut self, output: &mut [u8]) -> Result<usize> {
        let len = self.ready.len().min(output.len());
        if len > 0 {
            let (_, memory) = self.lane.output(self.ready.which)?;
            let bytes = memory.get(self.ready.start..self.ready.start + len);
            output[..len].copy_from_slice(bytes.ok_or_else(outside)?);
            self.ready.start += len;
        }
        Ok(len)
    }

    /// Has the next input decoded, if there is some and nothing else is being decoded.
    fn request(&mut self) -> Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        if self.current.len() == 0 {
            let which = self.current.which;
            self.current = std::mem::replace(
                &mut self.next,
                Span {
                    which,
                    start: 0,
                    end: 0,
                },
            );
        }
        match self.current.len() {
            0 => Ok(()),
            _ => self.ask(Op::Push, self.current),
        }
    }

    fn ask(&mut self, op: Op, input: Span) -> Result<()> {
        // The other one may still hold bytes that were not passed on.
        let buffer = 1 - self.ready.which;
        let (input_start, _) = self.lane.input()?;
        let (output_start, _) = self.lane.output(buffer)?;
        let from = Place {
            start: input_start + input.which * HALF_BYTES + input.start,
            len: input.len(),
        };
        let to = Place {
            start: output_start,
            len: OUTPUT_BYTES,
        };
        self.lane.ask(op, 0, from, to, &[])?;
        self.open = Some(Open {
            input,
            buffer,
            is_last: op == Op::Finish,
        });
        Ok(())
    }

    /// Waits for the open request, of which all output before it has been passed on.
    fn collect(&mut self) -> Result<()> {
        let Some(open) = self.open else {
            return Ok(());
        };
        let (consumed, produced) = self.answer()?;
        self.open = None;
        let is_progress = consumed > 0 || produced > 0 || open.is_last;
        if consumed > open.input.len() || produced > OUTPUT_BYTES || !is_progress {
            return Err(self.lied());
        }
        // Less than all of the input is consumed only if there is no more room for output.
        if consumed < open.input.len() && produced < OUTPUT_BYTES {
            return Err(self.lied());
        }
        if !open.is_last {
            self.current.start += consumed;
        }
        self.is_finished = open.is_last && produced == 0;
        self.ready = Span {
            which: open.buffer,
            start: 0,
            end: produced,
        };
        self.request()
    }

    /// The open request's answer: how much was consumed and produced.
    fn answer(&mut self) -> Result<(usize, usize)> {
        let input = self.open.map_or(0, |open| open.input.len());
        // One more for a frame whose header began in the input before.
        let mut windows = input / LEAST_FRAME_BYTES + 2;
        loop {
            match self.lane.answer()? {
                Answer::Done {
                    consumed,
                    produced,
                    value,
                } => {
                    self.ignored = value;
                    return Ok((consumed, produced));
                }
                Answer::Window(bytes) if bytes > MAX_WINDOW_BYTES => {
                    return Err(self.lane.lied("asked for too much memory"));
                }
                Answer::Window(_) if windows == 0 => {
                    return Err(self.lane.lied("asked for memory again and again"));
                }
                Answer::Window(bytes) => {
                    windows -= 1;
                    let asked = Instant::now();
                    // Its previous share is not needed in addition to the new one.
                    self.share = None;
                    let share = self.windows.take(bytes, &|| self.lane.is_stopped());
                    self.share = Some(share.ok_or_else(|| {
                        Error::new(ErrorKind::Cancelled, "The copy was cancelled")
                    })?);
                    self.lane.grant(asked.elapsed())?;
                }
                Answer::Refused { number, text } => {
                    self.open = None;
                    return Err(match Ended::of(number) {
                        Some(ended) => ended.error(text),
                        None => self.lane.lied("gave no known reason"),
                    });
                }
            }
        }
    }

    fn lied(&mut self) -> Error {
        self.lane.lied("gave lengths that cannot be")
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // So that the lane can be used again: who looks into a stream stops in its middle.
        if self.open.is_some() {
            // A failure is the process's end, of which the next user is told.
            self.answer().ok();
        }
    }
}

fn outside() -> Error {
    Error::new(
        ErrorKind::Internal,
        "A stream was decoded outside of its buffers, which is a bug in this program",
    )
}
