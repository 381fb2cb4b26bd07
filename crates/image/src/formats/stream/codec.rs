//! The four codecs behind one interface: some input in, some output out.

use super::bzip2::Bzip2;
use super::gzip::Gunzip;
use super::step::{Step, damaged};
use super::windows::Means;
use super::xz::Xz;
use super::zstd::Zstd;
use crate::error::{Error, ErrorKind, Result};
use crate::format::StreamCodec;

/// A stream's decoder in this process.
pub(crate) enum Codec {
    Gzip(Gunzip),
    Xz(Xz),
    Zstd(Zstd),
    Bzip2(Bzip2),
}

impl Codec {
    pub(crate) fn new(codec: StreamCodec, means: Means) -> Result<Self> {
        Ok(match codec {
            StreamCodec::Gzip => Self::Gzip(Gunzip::new()),
            StreamCodec::Xz => Self::Xz(Xz::new(means)?),
            StreamCodec::Zstd => Self::Zstd(Zstd::new(means)?),
            StreamCodec::Bzip2 => Self::Bzip2(Bzip2::new()),
        })
    }

    /// Consumes input until there is none left or the output is full.
    pub(crate) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        let mut done = Step {
            consumed: 0,
            produced: 0,
        };
        loop {
            let (input, output) = (&input[done.consumed..], &mut output[done.produced..]);
            if output.is_empty() {
                return Ok(done);
            }
            let step = match self {
                Self::Gzip(gzip) => gzip.step(input, output)?,
                Self::Xz(xz) => xz.step(input, output)?,
                Self::Zstd(zstd) => zstd.step(input, output)?,
                Self::Bzip2(bzip2) => bzip2.step(input, output)?,
            };
            done.consumed += step.consumed;
            done.produced += step.produced;
            if step.consumed == 0 && step.produced == 0 {
                if input.is_empty() {
                    return Ok(done);
                }
                return Err(damaged("is damaged: its next block cannot be found"));
            }
        }
    }

    /// Decodes what remains once the input has ended. Nothing if that is all, and the stream is
    /// known to be complete.
    pub(crate) fn finish(&mut self, output: &mut [u8]) -> Result<Step> {
        let is_whole = match self {
            Self::Gzip(gzip) => gzip.is_whole(),
            Self::Xz(xz) => {
                let step = xz.finish(output)?;
                if step.produced > 0 {
                    return Ok(step);
                }
                xz.is_whole()
            }
            Self::Zstd(zstd) => zstd.is_whole(),
            Self::Bzip2(bzip2) => bzip2.is_whole(),
        };
        if is_whole {
            Ok(Step {
                consumed: 0,
                produced: 0,
            })
        } else {
            Err(Error::new(
                ErrorKind::Truncated,
                "The compressed image ends before its stream does; fetch the image again",
            ))
        }
    }

    /// Bytes after the stream that do not belong to it, if the codec's own tool ignores such bytes.
    pub(crate) fn ignored_bytes(&self) -> u64 {
        match self {
            Self::Gzip(gzip) => gzip.ignored_bytes(),
            Self::Bzip2(bzip2) => bzip2.ignored_bytes(),
            Self::Xz(_) | Self::Zstd(_) => 0,
        }
    }
}

/// Codecs by their numbers between processes.
const CODECS: [StreamCodec; 4] = [
    StreamCodec::Gzip,
    StreamCodec::Xz,
    StreamCodec::Zstd,
    StreamCodec::Bzip2,
];

pub(super) fn number_of(codec: StreamCodec) -> usize {
    let number = CODECS.iter().position(|known| *known == codec);
    number.unwrap_or(CODECS.len())
}

/// The codec with this number.
pub(crate) fn codec_of(number: usize) -> Option<StreamCodec> {
    CODECS.get(number).copied()
}

/// The kinds of error with which a stream's decoding ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended(ErrorKind);

impl Ended {
    const KINDS: [ErrorKind; 5] = [
        ErrorKind::BadStream,
        ErrorKind::Truncated,
        ErrorKind::TooLarge,
        ErrorKind::UnknownFeature,
        ErrorKind::Internal,
    ];

    /// The kind with this number.
    pub(super) fn of(number: usize) -> Option<Self> {
        Self::KINDS.get(number).copied().map(Self)
    }

    /// The number of an error's kind.
    pub(crate) fn number_of(error: &Error) -> usize {
        let number = Self::KINDS.iter().position(|kind| *kind == error.kind());
        number.unwrap_or(Self::KINDS.len() - 1)
    }

    pub(super) fn error(self, text: String) -> Error {
        Error::new(self.0, text)
    }
}
