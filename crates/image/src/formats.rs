//! The formats that are read: each is a module here, with one arm in [`reader_of`].
//!
//! | module | what it is |
//! |---|---|
//! | `reader` | what a format has to do: open, say what it is, give batches of extents |
//! | `blocks` | from a table of equal blocks to extents, for the formats that have one |
//! | `content` | recognises an image by its first and last bytes |
//! | `packed` | what an image may be inside of: streams, archives |
//! | `qcow2` | QEMU's copy-on-write format |
//! | `raw` | the disk's bytes as they are |
//! | `vmdk` | VMware's format, as far as it is one file |
//! | `vhd`, `vhdx` | Microsoft's formats |
//! | `vdi` | VirtualBox's format |
//! | `auto` | whichever of these the content is |
//! | `stream` | decodes a raw image that is inside one compressed stream |
//!
//! To add one: its module, an arm below, and its names in [`format`](crate::format).

mod auto;
mod blocks;
mod bytes;
pub(crate) mod content;
pub(crate) mod packed;
pub(crate) mod qcow2;
mod raw;
pub(crate) mod reader;
pub mod stream;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

use crate::format::ImageType;
use reader::ImageFormat;

/// Who reads images that are declared to be of this type.
pub(crate) fn reader_of(declared: ImageType) -> &'static dyn ImageFormat {
    match declared {
        ImageType::Qcow2 => &qcow2::Qcow2,
        ImageType::Raw => &raw::Raw,
        ImageType::Vmdk => &vmdk::Vmdk,
        ImageType::Vhd => &vhd::Vhd,
        ImageType::Vhdx => &vhdx::Vhdx,
        ImageType::Vdi => &vdi::Vdi,
        ImageType::Auto => &auto::Auto,
    }
}
