//! The declared type of an image, and its actual format. How formats are read is in
//! [`formats`](crate::formats).

use crate::names::named;

/// The declared type of an image; the API's `image_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageType {
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
    /// The disk's bytes without any format.
    Raw,
    /// VMware's format, in a single file.
    Vmdk,
    /// Microsoft's older format.
    Vhd,
    /// Microsoft's newer format.
    Vhdx,
    /// VirtualBox's format.
    Vdi,
    /// Any of these, detected from the content.
    Auto,
}

/// The actual format of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// QEMU's copy-on-write format.
    Qcow2(Qcow2Features),
    /// The disk's bytes without any format.
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

impl Format {
    /// The type to declare for images of this format.
    pub fn image_type(&self) -> ImageType {
        match self {
            Self::Qcow2(_) => ImageType::Qcow2,
            Self::Raw | Self::RawStream(_) => ImageType::Raw,
            Self::Vmdk(_) => ImageType::Vmdk,
            Self::Vhd(_) => ImageType::Vhd,
            Self::Vhdx(_) => ImageType::Vhdx,
            Self::Vdi(_) => ImageType::Vdi,
        }
    }

    /// The layout, in a format with several kinds of images.
    pub fn layout(&self) -> Option<&Layout> {
        match self {
            Self::Vmdk(layout) | Self::Vhd(layout) | Self::Vhdx(layout) | Self::Vdi(layout) => {
                Some(layout)
            }
            Self::Qcow2(_) | Self::Raw | Self::RawStream(_) => None,
        }
    }
}

/// The layout of an image in a format with several kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The kind.
    pub subformat: Subformat,
    /// Bytes for each entry of the image's table; `None` if there is no table.
    pub block_size: Option<u64>,
}

/// The kinds of images of a format, in the formats' own terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subformat {
    /// Fixed size: the disk's bytes with metadata around them, or all blocks allocated.
    Fixed,
    /// Blocks are allocated when they are written.
    Dynamic,
    /// VDI with all blocks allocated.
    Static,
    /// VMDK with uncompressed grains.
    MonolithicSparse,
    /// VMDK with compressed grains.
    StreamOptimized,
}

/// What a user may want to know of a qcow2 header.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Qcow2Features {
    /// 2 or 3.
    pub version: u32,
    /// Size of a cluster: a power of two from 512 bytes to 2 MiB.
    pub cluster_size: u64,
    /// The compression method of compressed clusters, if there are any.
    pub compression: Compression,
    /// Whether L2 entries have subcluster bitmaps.
    pub extended_l2: bool,
    /// Whether refcounts may be out of date; does not matter for reading.
    pub dirty: bool,
    /// Whether refcounts are written lazily; does not matter for reading.
    pub lazy_refcounts: bool,
    /// Width of a refcount in bits.
    pub refcount_bits: u32,
    /// Internal snapshots; only the active layer is read.
    pub snapshots: u32,
    /// Persistent dirty bitmaps; do not matter for reading.
    pub bitmaps: u32,
}

/// A qcow2 image's compression method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Raw deflate; QEMU calls it zlib.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// The compression formats for whole raw images.
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
