//! Finds zeros, so that they need not be written.

use std::ops::Range;

/// The granule in which zeros are detected: a page, which is also the usual block size of file
/// systems.
pub(crate) const GRANULE_BYTES: usize = 4096;

/// A run of zeros between two runs of data ends the write only if it is at least this long: one
/// larger request costs less than two small ones with a gap.
pub(crate) const MIN_GAP_BYTES: usize = 64 << 10; // 64 KiB

/// A part of a buffer that is all data (including short runs of zeros), or all zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Run {
    Data(Range<usize>),
    Zero(Range<usize>),
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Data nearly always shows in the first bytes. The rest is checked in blocks that the compiler
    // turns into vector instructions, with an exit after each.
    let (blocks, rest) = bytes.as_chunks::<256>();
    bytes.first().is_none_or(|first| *first == 0)
        && blocks
            .iter()
            .all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

/// Splits a buffer into runs of data and of zeros, in order and without gaps.
///
/// Runs begin and end at granules, counted from the start of the buffer. Zeros at the ends of the
/// buffer are a run of their own from `min_edge` bytes on, zeros inside from [`MIN_GAP_BYTES`] on.
pub(crate) fn runs(bytes: &[u8], min_edge: usize) -> impl Iterator<Item = Run> + '_ {
    let mut position = 0;
    std::iter::from_fn(move || {
        let start = position;
        if start == bytes.len() {
            return None;
        }
        let zeros_end = end_of_zeros(bytes, start);
        if zeros_end - start >= min_edge {
            position = zeros_end;
            return Some(Run::Zero(start..zeros_end));
        }
        let mut end = zeros_end;
        while end < bytes.len() {
            let zeros_end = end_of_zeros(bytes, end);
            let gap = zeros_end - end;
            if gap >= MIN_GAP_BYTES || (zeros_end == bytes.len() && gap >= min_edge) {
                break;
            }
            end = (zeros_end + GRANULE_BYTES).min(bytes.len());
        }
        position = end;
        Some(Run::Data(start..end))
    })
}

/// End of the zero granules that begin at `start`.
fn end_of_zeros(bytes: &[u8], start: usize) -> usize {
    let mut end = start;
    for granule in bytes[start..].chunks(GRANULE_BYTES) {
        if !is_zero(granule) {
            break;
        }
        end += granule.len();
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(granules: &str, min_edge: usize, expected: &[Run]) {
        let mut bytes = Vec::new();
        for granule in granules.bytes() {
            bytes.extend_from_slice(&[0; GRANULE_BYTES - 1]);
            bytes.push(u8::from(granule == b'x'));
        }
        assert_eq!(
            runs(&bytes, min_edge).collect::<Vec<_>>(),
            expected,
            "{granules}"
        );
    }

    fn granules(range: Range<usize>) -> Range<usize> {
        range.start * GRANULE_BYTES..range.end * GRANULE_BYTES
    }

    #[test]
    fn runs_cover_the_buffer_and_short_gaps_stay_in_the_data() {
        check("", GRANULE_BYTES, &[]);
        check("....", GRANULE_BYTES, &[Run::Zero(granules(0..4))]);
        check("xxxx", GRANULE_BYTES, &[Run::Data(granules(0..4))]);
        check(
            ".xx..x..",
            GRANULE_BYTES,
            &[
                Run::Zero(granules(0..1)),
                Run::Data(granules(1..6)),
                Run::Zero(granules(6..8)),
            ],
        );
    }

    #[test]
    fn short_zeros_at_the_ends_are_data_where_the_caller_says_so() {
        check("....", MIN_GAP_BYTES, &[Run::Data(granules(0..4))]);
        check(".xx..x..", MIN_GAP_BYTES, &[Run::Data(granules(0..8))]);
    }

    #[test]
    fn a_long_gap_splits_the_data() {
        let gap = MIN_GAP_BYTES / GRANULE_BYTES;
        let text = format!("x{}x", ".".repeat(gap));
        check(
            &text,
            GRANULE_BYTES,
            &[
                Run::Data(granules(0..1)),
                Run::Zero(granules(1..1 + gap)),
                Run::Data(granules(1 + gap..2 + gap)),
            ],
        );
    }

    #[test]
    fn a_single_byte_anywhere_is_seen() {
        for len in [1, 255, 256, 257, 4096, 5000] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for position in [0, len / 2, len - 1] {
                bytes[position] = 1;
                assert!(!is_zero(&bytes), "{position} of {len}");
                bytes[position] = 0;
            }
        }
    }
}
