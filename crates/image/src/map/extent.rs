//! Extents, and the 16 bytes that each takes in a batch.

use std::ops::Range;

use crate::limits::{MAX_EXTENT_SECTORS, MAX_FILE_SIZE, MAX_VIRTUAL_SIZE};

/// The unit of every offset and length in a plan, except at the two ends of a file.
pub(crate) const SECTOR: u64 = 512;

/// How the bytes of an [`Extent`] are stored in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Host bytes are guest bytes.
    Plain,
    /// One qcow2 cluster as a raw deflate stream (RFC 1951).
    Deflate,
    /// One qcow2 cluster as zstd frames (RFC 8878).
    Zstd,
    /// One VMDK grain: a marker with the stream's length, and a zlib stream (RFC 1950).
    Grain,
}

/// A run of host bytes that holds a run of guest bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Where the bytes stand in the image file.
    pub host_offset: u64,
    /// How many bytes there are, already cut at the end of the image file.
    pub host_len: u64,
    /// Where they belong on the guest's disk.
    pub guest_offset: u64,
    /// How many guest bytes they produce, already cut at the virtual size. For [`Encoding::Plain`]
    /// this is at least `host_len`; the missing bytes read as zero.
    pub guest_len: u64,
    /// How they are stored.
    pub encoding: Encoding,
}

impl Extent {
    /// The host bytes as a range.
    pub fn host_range(&self) -> Range<u64> {
        self.host_offset..self.host_offset + self.host_len
    }

    /// The guest bytes as a range.
    pub fn guest_range(&self) -> Range<u64> {
        self.guest_offset..self.guest_offset + self.guest_len
    }
}

/// What a packed extent needs from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) file_size: u64,
    pub(crate) virtual_size: u64,
    pub(crate) cluster_size: u64,
}

/// An extent in two words.
///
/// ```text
/// host   56 bits host offset | 2 bits encoding | 6 high bits of the sector count
/// guest  47 bits guest offset / 512            | 17 low bits of the sector count
/// ```
///
/// The sector count is that of the guest bytes for a plain extent; for a compressed cluster it is
/// the number of host sectors that the stream touches. Words compare in host order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Packed {
    host: u64,
    guest: u64,
}

const _: () = assert!(MAX_FILE_SIZE == 1 << 56 && MAX_VIRTUAL_SIZE / SECTOR == 1 << 47);

impl Packed {
    /// A plain run. Offsets are whole sectors; `sectors` is at most [`MAX_EXTENT_SECTORS`].
    pub(crate) fn plain(host_offset: u64, guest_offset: u64, sectors: u64) -> Self {
        Self::new(host_offset, guest_offset, sectors, Encoding::Plain)
    }

    /// A compressed cluster, whose stream begins at any byte and touches `sectors` host sectors.
    pub(crate) fn compressed(
        host_offset: u64,
        guest_offset: u64,
        sectors: u64,
        encoding: Encoding,
    ) -> Self {
        Self::new(host_offset, guest_offset, sectors, encoding)
    }

    fn new(host_offset: u64, guest_offset: u64, sectors: u64, encoding: Encoding) -> Self {
        debug_assert!(host_offset < MAX_FILE_SIZE && guest_offset < MAX_VIRTUAL_SIZE);
        debug_assert!(guest_offset.is_multiple_of(SECTOR) && sectors <= MAX_EXTENT_SECTORS);
        let code = match encoding {
            Encoding::Plain => 0,
            Encoding::Deflate => 1,
            Encoding::Zstd => 2,
            Encoding::Grain => 3,
        };
        Self {
            host: (host_offset << 8) | (code << 6) | (sectors >> 17),
            guest: ((guest_offset / SECTOR) << 17) | (sectors & 0x1_ffff),
        }
    }

    pub(crate) fn host_offset(self) -> u64 {
        self.host >> 8
    }

    pub(crate) fn guest_offset(self) -> u64 {
        (self.guest >> 17) * SECTOR
    }

    pub(crate) fn sectors(self) -> u64 {
        ((self.host & 0x3f) << 17) | (self.guest & 0x1_ffff)
    }

    pub(crate) fn encoding(self) -> Encoding {
        match (self.host >> 6) & 3 {
            0 => Encoding::Plain,
            1 => Encoding::Deflate,
            2 => Encoding::Zstd,
            _ => Encoding::Grain,
        }
    }

    pub(crate) fn unpack(self, bounds: &Bounds) -> Extent {
        let (host_offset, guest_offset) = (self.host_offset(), self.guest_offset());
        let encoding = self.encoding();
        let (host_len, guest_len) = match encoding {
            Encoding::Plain => (self.sectors() * SECTOR, self.sectors() * SECTOR),
            Encoding::Deflate | Encoding::Zstd | Encoding::Grain => (
                self.sectors() * SECTOR - host_offset % SECTOR,
                bounds.cluster_size,
            ),
        };
        let guest_len = guest_len.min(bounds.virtual_size - guest_offset);
        let host_len = match encoding {
            Encoding::Plain => host_len.min(guest_len),
            Encoding::Deflate | Encoding::Zstd | Encoding::Grain => host_len,
        };
        Extent {
            host_offset,
            host_len: host_len.min(bounds.file_size - host_offset),
            guest_offset,
            guest_len,
            encoding,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_extent_unpacks_to_itself_at_both_ends_of_every_field() {
        let bounds = Bounds {
            file_size: MAX_FILE_SIZE,
            virtual_size: MAX_VIRTUAL_SIZE,
            cluster_size: 65536,
        };
        for host_offset in [0, SECTOR, MAX_FILE_SIZE / 2] {
            for guest_offset in [0, SECTOR, MAX_VIRTUAL_SIZE / 2] {
                for sectors in [1, 0x1_ffff, 0x2_0000, MAX_EXTENT_SECTORS] {
                    let extent = Packed::plain(host_offset, guest_offset, sectors).unpack(&bounds);
                    assert_eq!(extent.host_offset, host_offset);
                    assert_eq!(extent.guest_offset, guest_offset);
                    assert_eq!(extent.guest_len, sectors * SECTOR);
                    assert_eq!(extent.encoding, Encoding::Plain);
                }
            }
        }
    }

    #[test]
    fn a_compressed_extent_ends_with_its_last_sector_or_the_file() {
        let bounds = Bounds {
            file_size: 2000,
            virtual_size: 65536 + 512,
            cluster_size: 65536,
        };
        let inside = Packed::compressed(100, 0, 1, Encoding::Deflate).unpack(&bounds);
        assert_eq!((inside.host_offset, inside.host_len), (100, 412));
        assert_eq!(inside.guest_len, 65536);
        let cut = Packed::compressed(1537, 65536, 2, Encoding::Zstd).unpack(&bounds);
        assert_eq!((cut.host_len, cut.guest_len), (463, 512));
        assert_eq!(cut.encoding, Encoding::Zstd);
    }
}
