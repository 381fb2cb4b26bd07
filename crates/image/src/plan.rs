//! What must be done to turn an image into the guest's disk.

use std::ops::Range;

/// The format that the caller declares; the API's `image_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageType {
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
    /// The disk's bytes as they are, possibly inside one gzip, xz, zstd or bzip2 stream.
    Raw,
}

/// How the bytes of an [`Extent`] are stored in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Host bytes are guest bytes.
    Plain,
    /// One qcow2 cluster as a raw deflate stream (RFC 1951).
    Deflate,
    /// One qcow2 cluster as zstd frames (RFC 8878).
    Zstd,
}

/// A run of host bytes that holds a run of guest bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Where the bytes stand in the image file.
    pub host_offset: u64,
    /// How many there are, already cut at the image file's end.
    pub host_len: u64,
    /// Where they belong on the guest's disk.
    pub guest_offset: u64,
    /// How many guest bytes they make, already cut at the virtual size. For
    /// [`Encoding::Plain`] this is at least `host_len`; what is missing reads as zero.
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
