//! Zstandard (RFC 8878), one or several frames.
//!
//! A frame's header is held back until it is complete: it gives the window size, and a large window has
//! to wait for its share of the budget before libzstd allocates it.

use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::step::{Step, damaged};
use super::windows::{Means, Share};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{FREE_ZSTD_WINDOW_LOG, MAX_ZSTD_WINDOW_LOG};

/// The magic number of a frame that is not skippable.
const MAGIC: [u8; 4] = *b"\x28\xb5\x2f\xfd";

/// The longest header: magic number, descriptor, window, dictionary id, content size.
const MAX_HEADER_BYTES: usize = 18;

pub(crate) struct Zstd {
    context: DCtx<'static>,
    /// The beginning of a frame, until its header is complete.
    header: Vec<u8>,
    is_in_frame: bool,
    frames: u64,
    means: Means,
    share: Option<Share>,
}

impl Zstd {
    pub(super) fn new(means: Means) -> Result<Self> {
        let mut context = DCtx::create();
        context
            .set_parameter(DParameter::WindowLogMax(MAX_ZSTD_WINDOW_LOG))
            .map_err(error)?;
        Ok(Self {
            context,
            header: Vec::with_capacity(MAX_HEADER_BYTES),
            is_in_frame: false,
            frames: 0,
            means,
            share: None,
        })
    }

    pub(super) fn is_whole(&self) -> bool {
        self.frames > 0 && !self.is_in_frame && self.header.is_empty()
    }

    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        if self.is_in_frame {
            return self.decompress(input, output);
        }
        let mut consumed = 0;
        let window = loop {
            if let Some(window) = window(&self.header) {
                break window;
            }
            let Some(byte) = input.get(consumed) else {
                return Ok(Step {
                    consumed,
                    produced: 0,
                });
            };
            self.header.push(*byte);
            consumed += 1;
        };
        self.share = None;
        if window > 1 << FREE_ZSTD_WINDOW_LOG && window <= 1 << MAX_ZSTD_WINDOW_LOG {
            self.share = self.means.take(window)?;
        }
        self.is_in_frame = true;
        let header = std::mem::take(&mut self.header);
        let mut done = 0;
        // An empty frame ends with its header and three bytes more, so there is no output yet.
        while done < header.len() {
            let step = self.decompress(&header[done..], output)?;
            if step.consumed == 0 {
                return Err(damaged("is damaged: its next frame cannot be found"));
            }
            done += step.consumed;
        }
        self.header = header;
        self.header.clear();
        Ok(Step {
            consumed,
            produced: 0,
        })
    }

    fn decompress(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        let mut from = InBuffer::around(input);
        let mut to = OutBuffer::around(output);
        let hint = self
            .context
            .decompress_stream(&mut to, &mut from)
            .map_err(error)?;
        if hint == 0 {
            self.is_in_frame = false;
            self.frames += 1;
        }
        Ok(Step {
            consumed: from.pos(),
            produced: to.pos(),
        })
    }
}

/// The window size of the frame that begins with these bytes; `None` while there are too few of
/// them. 0 for what is not a frame with a window: libzstd reports the error, or skips it.
fn window(header: &[u8]) -> Option<u64> {
    let (magic, rest) = header.split_first_chunk::<4>()?;
    if *magic != MAGIC {
        return Some(0);
    }
    let (descriptor, rest) = rest.split_first()?;
    let is_single_segment = descriptor & 0x20 != 0;
    if !is_single_segment {
        let window = *rest.first()?;
        let base = 1_u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // The window is the content, whose size comes after the dictionary id.
    let id_len = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size_len = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let size = rest.get(id_len..id_len + size_len)?;
    let mut bytes = [0; 8];
    bytes[..size_len].copy_from_slice(size);
    let size = u64::from_le_bytes(bytes);
    Some(if size_len == 2 { size + 256 } else { size })
}

fn error(code: zstd_safe::ErrorCode) -> Error {
    // libzstd's stable interface gives only the text, which has been the same since 1.0.
    let text = zstd_safe::get_error_name(code);
    if text.contains("too much memory") {
        Error::new(
            ErrorKind::TooLarge,
            format!(
                "The zstd stream has a window of more than {} MiB; compress the image with \
                 `--long={MAX_ZSTD_WINDOW_LOG}` or less",
                (1_u64 << MAX_ZSTD_WINDOW_LOG) >> 20
            ),
        )
    } else {
        damaged(&format!("is not a valid zstd stream ({text})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_read_once_its_field_is_there() {
        let whole = |header: &[u8], expected: u64| {
            for len in 0..header.len() {
                assert_eq!(window(&header[..len]), None, "{len} of {header:x?}");
            }
            assert_eq!(window(header), Some(expected), "{header:x?}");
        };
        whole(b"\x28\xb5\x2f\xfd\x00\x88", 1 << 27);
        whole(b"\x28\xb5\x2f\xfd\xc4\x01", 1152);
        whole(b"\x28\xb5\x2f\xfd\x20\x05", 5);
        whole(b"\x28\xb5\x2f\xfd\x61\x09\x01\x00", 257);
        whole(b"\x28\xb5\x2f\xfd\xa3\x01\x02\x03\x04\0\0\0\x08", 1 << 27);
        whole(b"\x28\xb5\x2f\xfd\xe0\0\0\0\0\x01\0\0\0", 1 << 32);
        assert_eq!(window(b"\x50\x2a\x4d\x18"), Some(0));
        assert_eq!(window(b"abcd"), Some(0));
    }
}
