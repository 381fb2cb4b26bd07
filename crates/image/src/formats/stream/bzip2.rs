//! bzip2, one or several streams.

use bzip2::Decompress;

use super::step::{Step, damaged, length};
use crate::error::Result;

pub(crate) struct Bzip2 {
    decoder: Decompress,
    /// Bytes of the current stream that were consumed.
    consumed: u64,
    streams: u64,
    /// Bytes after the last stream, once they are known not to be a stream.
    ignored: Option<u64>,
}

impl Bzip2 {
    pub(super) fn new() -> Self {
        Self {
            decoder: Decompress::new(false),
            consumed: 0,
            streams: 0,
            ignored: None,
        }
    }

    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        if let Some(ignored) = &mut self.ignored {
            *ignored += input.len() as u64;
            return Ok(Step {
                consumed: input.len(),
                produced: 0,
            });
        }
        let (before_in, before_out) = (self.decoder.total_in(), self.decoder.total_out());
        if input.is_empty() && self.consumed == 0 {
            return Ok(Step {
                consumed: 0,
                produced: 0,
            });
        }
        let status = match self.decoder.decompress(input, output) {
            Ok(status) => status,
            // Not the beginning of a stream: bzip2 says "trailing garbage after EOF ignored".
            Err(bzip2::Error::DataMagic) if self.streams > 0 => {
                self.ignored = Some(self.consumed);
                return self.step(input, output);
            }
            Err(error) => return Err(damaged(&format!("is not a valid bzip2 stream ({error})"))),
        };
        let step = Step {
            consumed: length(self.decoder.total_in() - before_in),
            produced: length(self.decoder.total_out() - before_out),
        };
        self.consumed += step.consumed as u64;
        if status == bzip2::Status::StreamEnd {
            self.decoder = Decompress::new(false);
            self.consumed = 0;
            self.streams += 1;
        }
        Ok(step)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.streams > 0 && (self.consumed == 0 || self.ignored.is_some())
    }

    pub(super) fn ignored_bytes(&self) -> u64 {
        self.ignored.unwrap_or(0)
    }
}
