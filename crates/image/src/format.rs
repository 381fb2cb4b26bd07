//! What images are declared to be, and what they turn out to be. How they are read is in
//! [`formats`](crate::formats).

use crate::names::named;

/// The format that the caller declares; the API's `image_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageType {
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
    /// The disk's bytes as they are.
    Raw,
    /// VMware's format, in one file.
    Vmdk,
    /// Microsoft's older format.
    Vhd,
    /// Microsoft's newer format.
    Vhdx,
    /// VirtualBox's format.
    Vdi,
    /// Whichever of these the content is.
    Auto,
}

/// What an image turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// QEMU's copy-on-write format.
    Qcow2(Qcow2Features),
    /// The disk's bytes as they are.
    Raw,
    /// The disk's bytes inside one compressed stream.
    RawStream(StreamCodec),
    /// VMware's format.
    Vmdk(Layout),
    /// Microsoft's older format.
    Vhd(Layout),
    /// Microsoft's newer format.
    Vhdx(Layout),
    /// VirtualBox's format.
    Vdi(Layout),
}

/// How an image of a format with several kinds is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The kind.
    pub subformat: Subformat,
    /// What the image's table has an entry for, in bytes; `None` where there is no table.
    pub block_size: Option<u64>,
}

/// A format's kinds of images, by the formats' own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subformat {
    /// The disk's bytes with something around them, or blocks that are all there.
    Fixed,
    /// Blocks that are there once they were written.
    Dynamic,
    /// VDI's blocks that are all there.
    Static,
    /// VMDK's grains as they are.
    MonolithicSparse,
    /// VMDK's grains, compressed.
    StreamOptimized,
}

/// What a qcow2 image's header says that a user may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Qcow2Features {
    /// 2 or 3.
    pub version: u32,
    /// Size of a cluster: a power of two from 512 bytes to 2 MiB.
    pub cluster_size: u64,
    /// How compressed clusters, if there are any, are compressed.
    pub compression: Compression,
    /// Whether L2 entries have subcluster bitmaps.
    pub extended_l2: bool,
    /// Whether refcounts may be stale; of no consequence for reading.
    pub dirty: bool,
    /// Whether refcounts are written lazily; of no consequence for reading.
    pub lazy_refcounts: bool,
    /// Width of a refcount in bits.
    pub refcount_bits: u32,
    /// Internal snapshots; only the active layer is read.
    pub snapshots: u32,
    /// Persistent dirty bitmaps; of no consequence for reading.
    pub bitmaps: u32,
}

/// A qcow2 image's method of compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Raw deflate; QEMU calls it zlib.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// What a raw image may be compressed with as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamCodec {
    /// RFC 1952, one member or several.
    Gzip,
    /// The .xz format, one stream or several with padding between.
    Xz,
    /// RFC 8878, one frame or several.
    Zstd,
    /// bzip2, one stream or several.
    Bzip2,
}

named!(ImageType, "image type", {
    Qcow2 => "qcow2",
    Raw => "raw",
    Vmdk => "vmdk",
    Vhd => "vhd",
    Vhdx => "vhdx",
    Vdi => "vdi",
    Auto => "auto",
});

named!(Subformat, "subformat", {
    Fixed => "fixed",
    Dynamic => "dynamic",
    Static => "static",
    MonolithicSparse => "monolithicSparse",
    StreamOptimized => "streamOptimized",
});

named!(Compression, "cluster compression", {
    Zlib => "zlib",
    Zstd => "zstd",
});

named!(StreamCodec, "stream codec", {
    Gzip => "gzip",
    Xz => "xz",
    Zstd => "zstd",
    Bzip2 => "bzip2",
});
