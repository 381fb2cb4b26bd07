//! Images without a declared type: the content must identify exactly one format.

use super::content::{Recognised, kinds, other_format_of};
use crate::error::{Error, ErrorKind, Result};
use crate::format::ImageType;
use crate::source::ReadAt;

/// The type that the content shows; never [`ImageType::Auto`].
pub(super) fn recognise(source: &dyn ReadAt) -> Result<ImageType> {
    match kinds(source)?[..] {
        [] | [Recognised::Disk | Recognised::Stream(_)] => Ok(ImageType::Raw),
        [Recognised::Other(name)] => other_format_of(name).ok_or_else(|| {
            Error::new(
                ErrorKind::OtherFormat,
                format!(
                    "The image's content is {name}, which is not supported; convert it to qcow2"
                ),
            )
        }),
        [first, second, ..] => Err(Error::new(
            ErrorKind::OtherFormat,
            format!(
                "The image's content is both {first} and {second}: declare what it is instead of auto"
            ),
        )),
    }
}
