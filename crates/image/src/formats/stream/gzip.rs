//! gzip (RFC 1952) around raw deflate: concatenated members, then nothing or zeros.
//!
//! Anything else after the last member is ignored, as gzip does: firmware images have metadata
//! there.

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::step::{Step, damaged};
use crate::error::Result;

/// Flags of a member's header.
const HAS_HEADER_CRC: u8 = 1 << 1;
const HAS_EXTRA: u8 = 1 << 2;
const HAS_NAME: u8 = 1 << 3;
const HAS_COMMENT: u8 = 1 << 4;
const RESERVED_FLAGS: u8 = 0xe0;

/// The magic number of a member.
const MAGIC: [u8; 2] = *b"\x1f\x8b";

const FIXED_HEADER_LEN: usize = 10;
const TRAILER_LEN: usize = 8;

/// The part of a member to which the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The header's first ten bytes. For a member after the first, all or none may be there.
    Header,
    /// The two bytes of the extra field's length.
    ExtraLen,
    /// This many bytes of the extra field, or of the header's checksum.
    Skip(u16),
    /// A name or comment up to its zero byte.
    Text,
    Body,
    Trailer,
    /// Zeros after the last member, as tapes and block devices leave them.
    Padding,
    /// Anything else after it.
    Ignored,
}

pub(crate) struct Gunzip {
    state: State,
    /// Bytes of an incomplete header or trailer.
    partial: Vec<u8>,
    /// The header's optional fields that are still to come.
    flags: u8,
    inflate: Decompress,
    crc: Crc,
    members: u64,
    ignored: u64,
}

impl Gunzip {
    pub(super) fn new() -> Self {
        Self {
            state: State::Header,
            partial: Vec::with_capacity(FIXED_HEADER_LEN),
            flags: 0,
            inflate: Decompress::new(false),
            crc: Crc::new(),
            members: 0,
            ignored: 0,
        }
    }

    /// Whether the input may end here.
    pub(super) fn is_whole(&self) -> bool {
        self.members > 0
            && (matches!(self.state, State::Padding | State::Ignored)
                || (self.state == State::Header && self.partial.len() < MAGIC.len()))
    }

    /// Bytes after the last member that belong to none.
    pub(super) fn ignored_bytes(&self) -> u64 {
        match self.state {
            // The rest of the file is too short for a magic number.
            State::Header if self.members > 0 => self.partial.len() as u64,
            _ => self.ignored,
        }
    }

    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        let mut step = Step {
            consumed: 0,
            produced: 0,
        };
        if self.state == State::Body {
            step = self.body(input, output)?;
        }
        while self.state != State::Body
            && let Some(byte) = input.get(step.consumed)
        {
            self.framing(*byte)?;
            step.consumed += 1;
        }
        Ok(step)
    }

    fn body(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self
            .inflate
            .decompress(input, output, FlushDecompress::None)
            .map_err(|error| damaged(&format!("is not a valid gzip stream ({error})")))?;
        let step = Step {
            consumed: usize::try_from(self.inflate.total_in() - before_in).unwrap_or(usize::MAX),
            produced: usize::try_from(self.inflate.total_out() - before_out).unwrap_or(usize::MAX),
        };
        self.crc.update(&output[..step.produced]);
        if status == Status::StreamEnd {
            self.state = State::Trailer;
        }
        Ok(step)
    }

    /// Processes one byte that is not part of deflate data.
    fn framing(&mut self, byte: u8) -> Result<()> {
        match self.state {
            State::Header => {
                if byte == 0 && self.partial.is_empty() && self.members > 0 {
                    self.state = State::Padding;
                    return Ok(());
                }
                self.partial.push(byte);
                let seen = self.partial.len().min(MAGIC.len());
                if self.members > 0 && self.partial[..seen] != MAGIC[..seen] {
                    self.state = State::Ignored;
                    self.ignored = self.partial.len() as u64;
                    return Ok(());
                }
                if self.partial.len() == FIXED_HEADER_LEN {
                    self.header()?;
                }
            }
            State::ExtraLen => {
                self.partial.push(byte);
                if let [low, high] = self.partial[..] {
                    self.skip(u16::from_le_bytes([low, high]));
                }
            }
            State::Skip(left) => self.skip(left - 1),
            State::Text => {
                if byte == 0 {
                    self.next_field();
                }
            }
            State::Trailer => {
                self.partial.push(byte);
                if self.partial.len() == TRAILER_LEN {
                    self.trailer()?;
                }
            }
            State::Padding => {
                if byte != 0 {
                    self.state = State::Ignored;
                    self.ignored = 1;
                }
            }
            State::Ignored => self.ignored += 1,
            State::Body => {}
        }
        Ok(())
    }

    fn header(&mut self) -> Result<()> {
        if !self.partial.starts_with(b"\x1f\x8b\x08") || self.partial[3] & RESERVED_FLAGS != 0 {
            return Err(damaged("has no gzip header where one should be"));
        }
        self.flags = self.partial[3];
        self.next_field();
        Ok(())
    }

    /// Goes to the header's next optional field, or to the body.
    fn next_field(&mut self) {
        self.partial.clear();
        for (flag, state) in [
            (HAS_EXTRA, State::ExtraLen),
            (HAS_NAME, State::Text),
            (HAS_COMMENT, State::Text),
            (HAS_HEADER_CRC, State::Skip(2)),
        ] {
            if self.flags & flag != 0 {
                self.flags &= !flag;
                self.state = state;
                return;
            }
        }
        self.inflate.reset(false);
        self.crc.reset();
        self.state = State::Body;
    }

    fn skip(&mut self, left: u16) {
        if left == 0 {
            self.next_field();
        } else {
            self.state = State::Skip(left);
        }
    }

    fn trailer(&mut self) -> Result<()> {
        let mut expected = self.crc.sum().to_le_bytes().to_vec();
        expected.extend_from_slice(&self.crc.amount().to_le_bytes());
        if self.partial != expected {
            return Err(damaged("has a wrong gzip checksum"));
        }
        self.partial.clear();
        self.members += 1;
        self.state = State::Header;
        Ok(())
    }
}
