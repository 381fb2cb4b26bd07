//! The supported formats: each is a module here, with one arm in [`reader_of`].
//!
//! | module | what it is |
//! |---|---|
//! | `reader` | the interface of a format: open, describe, give batches of extents |
//! | `blocks` | turns a table of equal blocks into extents, for the formats that have one |
//! | `content` | recognises an image by its first and last bytes |
//! | `packed` | recognises what an image is packed in: streams, archives |
//! | `qcow2` | QEMU's copy-on-write format |
//! | `raw` | the disk's bytes without any format |
//! | `vmdk` | VMware's format, if it is a single file |
//! | `vhd`, `vhdx` | Microsoft's formats |
//! | `vdi` | VirtualBox's format |
//! | `auto` | detects the format from the content |
//! | `stream` | decodes a raw image in a compressed stream |
//!
//! To add a format: add its module, an arm below, and its names in [`format`](crate::format).

mod auto;
mod blocks;
mod bytes;
pub(crate) mod content;
pub(crate) mod packed;
pub(crate) mod qcow2;
pub(crate) mod raw;
pub(crate) mod reader;
pub mod stream;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

use crate::error::Result;
use crate::format::ImageType;
use crate::source::ReadAt;
use reader::ImageFormat;

/// The reader of images of this declared type, which for `auto` is the one that the content shows.
pub(crate) fn reader_of(
    declared: ImageType,
    source: &dyn ReadAt,
) -> Result<&'static dyn ImageFormat> {
    Ok(match declared {
        ImageType::Qcow2 => &qcow2::Qcow2,
        ImageType::Raw => &raw::Raw,
        ImageType::Vmdk => &vmdk::Vmdk,
        ImageType::Vhd => &vhd::Vhd,
        ImageType::Vhdx => &vhdx::Vhdx,
        ImageType::Vdi => &vdi::Vdi,
        ImageType::Auto => return reader_of(auto::recognise(source)?, source),
    })
}
