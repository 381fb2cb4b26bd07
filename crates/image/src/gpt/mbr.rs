//! The protective MBR (UEFI 2.10, section 5.2.3).

/// Where the four partition records begin, and how long one is (5.2.1, table 5.1).
const RECORDS: usize = 446;
const RECORD_BYTES: usize = 16;

/// The end of the MBR's own part of the block: the signature's end.
const MBR_BYTES: usize = 512;

/// The type of the record that covers the GPT (5.2.2, "GPT Protective MBR").
const PROTECTIVE: u8 = 0xee;

/// An address that CHS cannot express (table 5.4).
const NO_CHS: [u8; 3] = [0xff; 3];

/// An MBR with a record that says that the disk has a GPT.
#[derive(Debug)]
pub(super) struct Protective {
    bytes: Vec<u8>,
    /// Start of that record.
    record: usize,
}

impl Protective {
    /// None for any other MBR, and where there is none.
    pub(super) fn parse(head: &[u8]) -> Option<Self> {
        let bytes = head.get(..MBR_BYTES)?;
        if bytes[510..] != [0x55, 0xaa] {
            return None;
        }
        let record = (0..4)
            .map(|index| RECORDS + index * RECORD_BYTES)
            .find(|record| bytes[record + 4] == PROTECTIVE)?;
        let bytes = bytes.to_vec();
        Some(Self { bytes, record })
    }

    /// Whether it has other partitions, too, which place the protective record as they need it.
    pub(super) fn is_hybrid(&self) -> bool {
        (0..4)
            .map(|index| RECORDS + index * RECORD_BYTES)
            .any(|record| record != self.record && self.bytes[record + 4] != 0)
    }

    /// The same MBR for a disk of so many logical blocks.
    pub(super) fn covering(&self, sectors: u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let record = &mut bytes[self.record..self.record + RECORD_BYTES];
        let last = sectors.saturating_sub(1);
        record[5..8].copy_from_slice(&chs(last));
        record[8..12].copy_from_slice(&1_u32.to_le_bytes());
        // The size of the disk minus one, or 0xFFFFFFFF if that is too large.
        let size = u32::try_from(last).unwrap_or(u32::MAX);
        record[12..16].copy_from_slice(&size.to_le_bytes());
        bytes
    }
}

/// A block's address as cylinder, head and sector of a disk with 255 heads and 63 sectors.
fn chs(lba: u64) -> [u8; 3] {
    let (sector, track) = (lba % 63 + 1, lba / 63);
    let (head, cylinder) = (track % 255, track / 255);
    let byte = |value: u64| u8::try_from(value & 0xff).unwrap_or_default();
    match cylinder {
        0..1024 => [
            byte(head),
            byte(sector | ((cylinder >> 2) & 0xc0)),
            byte(cylinder),
        ],
        _ => NO_CHS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_beyond_what_chs_can_express_are_all_ones() {
        assert_eq!(chs(0), [0, 1, 0]);
        assert_eq!(chs(63), [1, 1, 0]);
        assert_eq!(chs(255 * 63), [0, 1, 1]);
        assert_eq!(chs(255 * 63 * 1024 - 1), [254, 0xff, 0xff]);
        assert_eq!(chs(255 * 63 * 1024), NO_CHS);
    }
}
