//! Images without a declared type: the content must identify exactly one format.

use super::content::{Recognised, kinds, other_format_of};
use super::qcow2::Qcow2;
use super::raw::Raw;
use super::reader::{ImageFormat, Opened};
use super::vdi::Vdi;
use super::vhd::Vhd;
use super::vhdx::Vhdx;
use super::vmdk::Vmdk;
use crate::error::{Error, ErrorKind, Result};
use crate::format::ImageType;
use crate::source::ReadAt;

/// The format that the content shows.
pub(super) struct Auto;

impl ImageFormat for Auto {
    fn open(&self, source: &dyn ReadAt, batch_bytes: usize) -> Result<Opened> {
        let format: &dyn ImageFormat = match kinds(source)?[..] {
            [] | [Recognised::Disk | Recognised::Stream(_)] => &Raw,
            [Recognised::Other(name)] => match other_format_of(name) {
                Some(ImageType::Qcow2) => &Qcow2,
                Some(ImageType::Vmdk) => &Vmdk,
                Some(ImageType::Vhd) => &Vhd,
                Some(ImageType::Vhdx) => &Vhdx,
                Some(ImageType::Vdi) => &Vdi,
                Some(ImageType::Raw | ImageType::Auto) | None => {
                    return Err(Error::new(
                        ErrorKind::OtherFormat,
                        format!(
                            "The image's content is {name}, which is not read; convert it to qcow2"
                        ),
                    ));
                }
            },
            [first, second, ..] => {
                return Err(Error::new(
                    ErrorKind::OtherFormat,
                    format!(
                        "The image's content is both {first} and {second}: declare what it is instead \
                         of auto"
                    ),
                ));
            }
        };
        format.open(source, batch_bytes)
    }
}
