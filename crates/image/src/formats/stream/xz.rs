//! The .xz format, one or several streams with padding between them.

use liblzma::stream::{Action, CONCATENATED, Status, Stream, TELL_UNSUPPORTED_CHECK};

use super::step::{Step, damaged, length};
use super::windows::{Means, Share};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{LARGE_XZ_MEMORY_BYTES, MAX_XZ_MEMORY_BYTES};

pub(crate) struct Xz {
    stream: Stream,
    is_whole: bool,
    means: Means,
    /// The share of the budget, for a window that is larger than every copy may have.
    share: Option<Share>,
}

impl Xz {
    pub(super) fn new(means: Means) -> Result<Self> {
        let flags = CONCATENATED | TELL_UNSUPPORTED_CHECK;
        let stream = Stream::new_stream_decoder(MAX_XZ_MEMORY_BYTES, flags).map_err(error)?;
        Ok(Self {
            stream,
            is_whole: false,
            means,
            share: None,
        })
    }

    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        self.process(input, output, Action::Run)
    }

    pub(super) fn finish(&mut self, output: &mut [u8]) -> Result<Step> {
        self.process(&[], output, Action::Finish)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    fn process(&mut self, input: &[u8], output: &mut [u8], action: Action) -> Result<Step> {
        let (before_in, before_out) = (self.stream.total_in(), self.stream.total_out());
        let mut done = Step {
            consumed: 0,
            produced: 0,
        };
        while !self.is_whole {
            let input = &input[done.consumed..];
            let status = self
                .stream
                .process(input, &mut output[done.produced..], action);
            done = Step {
                consumed: length(self.stream.total_in() - before_in),
                produced: length(self.stream.total_out() - before_out),
            };
            match status {
                Ok(status) => {
                    self.is_whole = status == Status::StreamEnd;
                    break;
                }
                // The block's header was read, and none of the memory that it needs was allocated.
                Err(liblzma::stream::Error::MemLimit) => self.enlarge()?,
                Err(other) => return Err(error(other)),
            }
        }
        Ok(done)
    }

    /// Allows the decoder the memory that it asked for, once the budget has it.
    fn enlarge(&mut self) -> Result<()> {
        let current = self.stream.memlimit();
        let steps = LARGE_XZ_MEMORY_BYTES.iter().copied();
        for bytes in steps.filter(|bytes| *bytes > current) {
            if self.stream.set_memlimit(bytes).is_ok() {
                // Its previous share is not needed in addition to the new one.
                self.share = None;
                self.share = self.means.take(bytes)?;
                return Ok(());
            }
        }
        Err(error(liblzma::stream::Error::MemLimit))
    }
}

fn error(error: liblzma::stream::Error) -> Error {
    use liblzma::stream::Error as Xz;
    match error {
        Xz::MemLimit | Xz::Mem => Error::new(
            ErrorKind::TooLarge,
            "The xz stream has a window of more than 128 MiB; compress the image with `xz -9` or less, \
             or with zstd",
        ),
        Xz::Options | Xz::UnsupportedCheck => Error::new(
            ErrorKind::UnknownFeature,
            "The xz stream uses an unknown filter or integrity check",
        ),
        error => damaged(&format!("is not a valid xz stream ({error})")),
    }
}
