//! The formats that are read: each is a module here, with one arm in [`reader_of`].
//!
//! | module | what it is |
//! |---|---|
//! | `reader` | what a format has to do: open, say what it is, give batches of extents |
//! | `content` | recognises an image by its first and last bytes |
//! | `qcow2` | QEMU's copy-on-write format |
//! | `raw` | the disk's bytes as they are |
//! | `stream` | decodes a raw image that is inside one compressed stream |
//!
//! To add one: its module, an arm below, and its names in [`format`](crate::format).

pub(crate) mod content;
pub(crate) mod qcow2;
mod raw;
pub(crate) mod reader;
pub mod stream;

use crate::format::ImageType;
use reader::ImageFormat;

/// Who reads images that are declared to be of this type.
pub(crate) fn reader_of(declared: ImageType) -> &'static dyn ImageFormat {
    match declared {
        ImageType::Qcow2 => &qcow2::Qcow2,
        ImageType::Raw => &raw::Raw,
    }
}
