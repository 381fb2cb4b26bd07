//! The four codecs behind one interface: some input in, some output out.

use bzip2::Decompress as Bunzip2;
use liblzma::stream::{Action, CONCATENATED, Status, Stream, TELL_UNSUPPORTED_CHECK};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::gzip::Gunzip;
use super::step::{Step, damaged};
use crate::error::{Error, ErrorKind, Result};
use crate::format::StreamCodec;
use crate::limits::{MAX_XZ_MEMORY_BYTES, MAX_ZSTD_WINDOW_LOG};

pub(super) enum Codec {
    Gzip(Gunzip),
    Xz(Xz),
    Zstd(Zstd),
    Bzip2(Bzip2),
}

impl Codec {
    pub(super) fn new(codec: StreamCodec) -> Result<Self> {
        Ok(match codec {
            StreamCodec::Gzip => Self::Gzip(Gunzip::new()),
            StreamCodec::Xz => Self::Xz(Xz::new()?),
            StreamCodec::Zstd => Self::Zstd(Zstd::new()?),
            StreamCodec::Bzip2 => Self::Bzip2(Bzip2::new()),
        })
    }

    /// Consumes input until there is none left or the output is full.
    pub(super) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
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
                Self::Xz(xz) => xz.step(input, output, Action::Run)?,
                Self::Zstd(zstd) => zstd.step(input, output)?,
                Self::Bzip2(bzip2) => bzip2.step(input, output)?,
            };
            done.consumed += step.consumed;
            done.produced += step.produced;
            if step.consumed == 0 && step.produced == 0 {
                if input.is_empty() {
                    return Ok(done);
                }
                return Err(damaged("does not go on where it should"));
            }
        }
    }

    /// What is still to come once the input has ended; nothing once that is all, and the stream is
    /// known to be whole.
    pub(super) fn finish(&mut self, output: &mut [u8]) -> Result<Step> {
        let is_whole = match self {
            Self::Gzip(gzip) => gzip.is_whole(),
            Self::Xz(xz) => {
                let step = xz.step(&[], output, Action::Finish)?;
                if step.produced > 0 {
                    return Ok(step);
                }
                xz.is_whole
            }
            Self::Zstd(zstd) => zstd.is_whole,
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
}

pub(super) struct Xz {
    stream: Stream,
    is_whole: bool,
}

impl Xz {
    fn new() -> Result<Self> {
        let flags = CONCATENATED | TELL_UNSUPPORTED_CHECK;
        let stream = Stream::new_stream_decoder(MAX_XZ_MEMORY_BYTES, flags).map_err(xz_error)?;
        Ok(Self {
            stream,
            is_whole: false,
        })
    }

    fn step(&mut self, input: &[u8], output: &mut [u8], action: Action) -> Result<Step> {
        if self.is_whole {
            return Ok(Step {
                consumed: 0,
                produced: 0,
            });
        }
        let (before_in, before_out) = (self.stream.total_in(), self.stream.total_out());
        let status = self
            .stream
            .process(input, output, action)
            .map_err(xz_error)?;
        self.is_whole = status == Status::StreamEnd;
        Ok(Step {
            consumed: length(self.stream.total_in() - before_in),
            produced: length(self.stream.total_out() - before_out),
        })
    }
}

fn xz_error(error: liblzma::stream::Error) -> Error {
    use liblzma::stream::Error as Xz;
    match error {
        Xz::MemLimit | Xz::Mem => Error::new(
            ErrorKind::TooLarge,
            format!(
                "The xz stream needs more than {} MiB to decode; compress the image with `xz -8` \
                 or less, or with zstd",
                MAX_XZ_MEMORY_BYTES >> 20
            ),
        ),
        Xz::Options | Xz::UnsupportedCheck => Error::new(
            ErrorKind::UnknownFeature,
            "The xz stream needs a filter or a check that is not known",
        ),
        error => damaged(&format!("is no sound xz stream ({error})")),
    }
}

pub(super) struct Zstd {
    context: DCtx<'static>,
    /// Whether the last frame has ended, and there was one.
    is_whole: bool,
}

impl Zstd {
    fn new() -> Result<Self> {
        let mut context = DCtx::create();
        context
            .set_parameter(DParameter::WindowLogMax(MAX_ZSTD_WINDOW_LOG))
            .map_err(zstd_error)?;
        Ok(Self {
            context,
            is_whole: false,
        })
    }

    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        let mut from = InBuffer::around(input);
        let mut to = OutBuffer::around(output);
        if input.is_empty() && self.is_whole {
            return Ok(Step {
                consumed: 0,
                produced: 0,
            });
        }
        let hint = self
            .context
            .decompress_stream(&mut to, &mut from)
            .map_err(zstd_error)?;
        let step = Step {
            consumed: from.pos(),
            produced: to.pos(),
        };
        // Without progress the hint only repeats that there is more to come.
        if step.consumed > 0 || step.produced > 0 || hint == 0 {
            self.is_whole = hint == 0;
        }
        Ok(step)
    }
}

fn zstd_error(code: zstd_safe::ErrorCode) -> Error {
    // The text is all that libzstd's stable interface gives; it has been the same since 1.0.
    let text = zstd_safe::get_error_name(code);
    if text.contains("too much memory") {
        Error::new(
            ErrorKind::TooLarge,
            format!(
                "The zstd stream has a window of more than {} MiB; compress the image without \
                 `--long` and `--ultra`",
                (1_u64 << MAX_ZSTD_WINDOW_LOG) >> 20
            ),
        )
    } else {
        damaged(&format!("is no sound zstd stream ({text})"))
    }
}

pub(super) struct Bzip2 {
    decoder: Bunzip2,
    /// Bytes of the current stream that were consumed.
    consumed: u64,
    streams: u64,
}

impl Bzip2 {
    fn new() -> Self {
        Self {
            decoder: Bunzip2::new(false),
            consumed: 0,
            streams: 0,
        }
    }

    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        let (before_in, before_out) = (self.decoder.total_in(), self.decoder.total_out());
        if input.is_empty() && self.consumed == 0 {
            return Ok(Step {
                consumed: 0,
                produced: 0,
            });
        }
        let status = self
            .decoder
            .decompress(input, output)
            .map_err(|error| damaged(&format!("is no sound bzip2 stream ({error})")))?;
        let step = Step {
            consumed: length(self.decoder.total_in() - before_in),
            produced: length(self.decoder.total_out() - before_out),
        };
        self.consumed += step.consumed as u64;
        if status == bzip2::Status::StreamEnd {
            self.decoder = Bunzip2::new(false);
            self.consumed = 0;
            self.streams += 1;
        }
        Ok(step)
    }

    fn is_whole(&self) -> bool {
        self.streams > 0 && self.consumed == 0
    }
}

/// Both counters belong to one call, whose buffers are that long.
fn length(difference: u64) -> usize {
    usize::try_from(difference).unwrap_or(usize::MAX)
}
