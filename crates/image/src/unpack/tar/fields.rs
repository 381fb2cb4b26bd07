//! Fields of a tar header.

use crate::error::{Error, ErrorKind};

/// Longest member: the maximum size of a file.
pub(super) const MAX_MEMBER_BYTES: u64 = 1 << 56;

pub(super) fn name(block: &[u8]) -> String {
    let text = |field: &[u8]| {
        let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    };
    let prefix = match block[257..].starts_with(b"ustar\0") {
        true => text(&block[345..500]),
        false => String::new(),
    };
    match prefix.is_empty() {
        true => text(&block[..100]),
        false => format!("{prefix}/{}", text(&block[..100])),
    }
}

/// Octal digits surrounded by spaces and zero bytes.
pub(super) fn octal(field: &[u8]) -> Option<u64> {
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|byte| matches!(byte, 0 | b' '));
    let digits = std::str::from_utf8(&digits[..end.unwrap_or(digits.len())]).ok()?;
    match digits {
        "" => Some(0),
        digits => u64::from_str_radix(digits, 8).ok(),
    }
}

/// Octal digits, or GNU's binary form for numbers that are too large for them.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if *first != 0x80 {
        return octal(field);
    }
    let (high, low) = rest.split_last_chunk::<8>()?;
    (high.iter().all(|byte| *byte == 0)).then_some(u64::from_be_bytes(*low))
}

/// The sum of a header's bytes, where the checksum field itself counts as spaces.
pub(super) fn checksum(block: &[u8]) -> u64 {
    let bytes = block.iter().enumerate();
    bytes
        .map(|(at, byte)| match (148..156).contains(&at) {
            true => u64::from(b' '),
            false => u64::from(*byte),
        })
        .sum()
}

pub(super) fn damaged(what: &str) -> Error {
    Error::new(
        ErrorKind::BadStream,
        format!("The tar archive is damaged: {what}; fetch the image again"),
    )
}
