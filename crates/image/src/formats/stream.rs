//! Decodes a raw image in a compressed stream.
//!
//! Concatenated members, frames and streams are one image, as for the formats' own tools. The
//! decoded content is checked like a raw image: a compressed qcow2 is refused, and so is a stream
//! inside a stream. The decoder returns no data before that check.

mod apart;
mod bzip2;
mod codec;
mod gzip;
mod step;
mod windows;
mod xz;
mod zstd;

use std::fmt;

use super::content::{HEAD_BYTES, Recognised, TAIL_BYTES, other_format, sniff_head, sniff_tail};
use crate::error::{Error, ErrorKind, Result};
use crate::format::StreamCodec;
use crate::limits::MAX_VIRTUAL_SIZE;
use crate::sandbox::Decoders;
use apart::Apart;
pub(crate) use codec::{Codec, Ended, codec_of};
pub(crate) use windows::Means;
pub use windows::Windows;

/// Where decoded bytes go. An error that it returns ends the decoding.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// Decoded bytes are passed on in pieces of at most this size.
const PIECE_BYTES: usize = 256 << 10; // 256 KiB

/// A disk consists of whole sectors.
const SECTOR: usize = 512;

/// Decodes a raw image from the bytes of a compressed stream, pushed in order.
///
/// ```
/// use lvp_image::format::StreamCodec;
/// use lvp_image::stream::StreamDecoder;
///
/// let frame = b"\x28\xb5\x2f\xfd\x20\x05\x29\0\0hello";
/// let mut disk = Vec::new();
/// let mut decoder = StreamDecoder::new(StreamCodec::Zstd)?;
/// decoder.push(frame, &mut |piece| Ok(disk.extend_from_slice(piece)))?;
/// let size = decoder.finish(&mut |piece| Ok(disk.extend_from_slice(piece)))?;
/// assert_eq!((size, &disk[..6]), (512, b"hello\0".as_slice()));
/// # Ok::<(), lvp_image::Error>(())
/// ```
pub struct StreamDecoder {
    codec: Place,
    name: StreamCodec,
    piece: Vec<u8>,
    check: ContentCheck,
}

/// Where the stream is decoded.
enum Place {
    Here(Box<Codec>),
    Apart(Box<Apart>),
}

impl StreamDecoder {
    /// A decoder for a stream that begins with the next byte pushed, in this process and with a budget of
    /// its own.
    pub fn new(codec: StreamCodec) -> Result<Self> {
        Self::within(codec, &Decoders::here(), Windows::default(), || false)
    }

    /// A decoder in the place that `decoders` says, which shares a budget with others. If it needs a large
    /// window it waits for it in [`push`](Self::push), until `is_cancelled` returns true.
    pub fn within(
        codec: StreamCodec,
        decoders: &Decoders,
        windows: Windows,
        is_cancelled: impl Fn() -> bool + Clone + Send + 'static,
    ) -> Result<Self> {
        let place = match decoders.lane(Box::new(is_cancelled.clone()))? {
            Some(lane) => Place::Apart(Box::new(Apart::new(codec, lane, windows)?)),
            None => {
                let is_cancelled = Box::new(is_cancelled);
                let means = Means::Budget {
                    windows,
                    is_cancelled,
                };
                Place::Here(Box::new(Codec::new(codec, means)?))
            }
        };
        Ok(Self {
            codec: place,
            name: codec,
            piece: vec![0; PIECE_BYTES],
            check: ContentCheck::default(),
        })
    }

    /// Accepts any content, whether it is a disk or not.
    pub(crate) fn of_anything(mut self) -> Self {
        self.check.is_open = true;
        self.check.takes_anything = true;
        self
    }

    /// Bytes after the stream that were ignored so far, as gzip and bzip2 do.
    pub fn ignored_bytes(&self) -> u64 {
        match &self.codec {
            Place::Here(codec) => codec.ignored_bytes(),
            Place::Apart(apart) => apart.ignored_bytes(),
        }
    }

    /// Consumes all of `input` and passes decoded pieces to `sink` in order.
    ///
    /// After an error the decoder cannot be used any more.
    pub fn push(&mut self, mut input: &[u8], sink: &mut Sink<'_>) -> Result<()> {
        // A codec may still hold decoded bytes if the piece is full, so it is called again.
        loop {
            let step = match &mut self.codec {
                Place::Here(codec) => codec.decode(input, &mut self.piece)?,
                Place::Apart(apart) => apart.decode(input, &mut self.piece)?,
            };
            input = &input[step.consumed..];
            self.check.pass(&self.piece[..step.produced], sink)?;
            if input.is_empty() && step.produced < self.piece.len() {
                return Ok(());
            }
        }
    }

    /// Ends the input. Returns the disk's size.
    ///
    /// The disk is padded with zeros to a whole sector, as QEMU does with raw images. A stream that
    /// is incomplete is [`ErrorKind::Truncated`].
    pub fn finish(self, sink: &mut Sink<'_>) -> Result<u64> {
        self.finish_counted(sink).map(|(size, _)| size)
    }

    /// [`finish`](Self::finish), with the number of bytes after the stream that were ignored.
    pub(crate) fn finish_counted(mut self, sink: &mut Sink<'_>) -> Result<(u64, u64)> {
        loop {
            let step = match &mut self.codec {
                Place::Here(codec) => codec.finish(&mut self.piece)?,
                Place::Apart(apart) => apart.finish(&mut self.piece)?,
            };
            self.check.pass(&self.piece[..step.produced], sink)?;
            if step.produced == 0 {
                break;
            }
        }
        let ignored = self.ignored_bytes();
        Ok((self.check.finish(self.name, sink)?, ignored))
    }
}

impl fmt::Debug for StreamDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamDecoder")
            .field("codec", &self.name)
            .field("decoded_bytes", &self.check.total)
            .finish_non_exhaustive()
    }
}

/// Passes decoded bytes on once their beginning is known to be a disk's.
#[derive(Default)]
struct ContentCheck {
    total: u64,
    /// The disk's first bytes, until there are enough to decide.
    head: Vec<u8>,
    is_open: bool,
    takes_anything: bool,
    /// The last bytes that were passed on.
    tail: Vec<u8>,
}

impl ContentCheck {
    fn pass(&mut self, mut piece: &[u8], sink: &mut Sink<'_>) -> Result<()> {
        self.total += piece.len() as u64;
        if self.total > MAX_VIRTUAL_SIZE {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("The stream holds a disk of more than {MAX_VIRTUAL_SIZE} bytes"),
            ));
        }
        if !self.is_open {
            let (head, rest) = piece.split_at(piece.len().min(HEAD_BYTES - self.head.len()));
            self.head.extend_from_slice(head);
            if self.head.len() < HEAD_BYTES {
                return Ok(());
            }
            self.open(sink)?;
            piece = rest;
        }
        if piece.is_empty() {
            return Ok(());
        }
        self.keep_tail(piece);
        sink(piece)
    }

    fn open(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        match sniff_head(&self.head) {
            Recognised::Disk => {}
            Recognised::Other(name) => return Err(other_format(name)),
            Recognised::Stream(codec) => {
                return Err(other_format(&format!(
                    "a {codec} stream inside another stream"
                )));
            }
        }
        self.is_open = true;
        let head = std::mem::take(&mut self.head);
        self.keep_tail(&head);
        if head.is_empty() { Ok(()) } else { sink(&head) }
    }

    fn keep_tail(&mut self, piece: &[u8]) {
        let kept = &piece[piece.len().saturating_sub(TAIL_BYTES)..];
        let excess = (self.tail.len() + kept.len()).saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
        self.tail.extend_from_slice(kept);
    }

    fn finish(mut self, codec: StreamCodec, sink: &mut Sink<'_>) -> Result<u64> {
        if self.total == 0 {
            return Err(Error::new(
                ErrorKind::Truncated,
                format!("The {codec} stream holds no byte; fetch the image again"),
            ));
        }
        if !self.is_open {
            self.open(sink)?;
        }
        if self.takes_anything {
            return Ok(self.total);
        }
        if let Some(name) = self.tail.first_chunk().and_then(sniff_tail) {
            return Err(other_format(name));
        }
        let size = self.total.next_multiple_of(SECTOR as u64);
        let padding = usize::try_from(size - self.total).unwrap_or(0);
        if padding > 0 {
            sink(&[0; SECTOR][..padding])?;
        }
        Ok(size)
    }
}
