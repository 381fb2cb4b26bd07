//! Raw images: the disk's bytes without any format, or in one compressed stream.

use super::content::{Recognised, other_format, sniff_raw};
use super::reader::{ImageFormat, Map, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Format;
use crate::limits::{MAX_BATCH_BYTES, MAX_RAW_BYTES};
use crate::map::batch::{BatchBuilder, Totals};
use crate::map::extent::{Bounds, SECTOR};
use crate::source::ReadAt;

/// The disk's bytes without any format.
pub(super) struct Raw;

impl ImageFormat for Raw {
    fn open(&self, source: &dyn ReadAt, _batch_bytes: usize) -> Result<Opened> {
        match sniff_raw(source)? {
            Recognised::Stream(codec) => Ok(Opened {
                format: Format::RawStream(codec),
                virtual_size: None,
                cluster_size: None,
                totals: Totals::default(),
                map: Map::Whole(None),
            }),
            Recognised::Disk => open_disk(source.len()),
            Recognised::Other(name) => Err(other_format(name)),
        }
    }
}

/// A disk of this length, in which every byte counts as data.
pub(crate) fn open_disk(file_size: u64) -> Result<Opened> {
    if file_size > MAX_RAW_BYTES {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "The raw image has {file_size} bytes, and at most {MAX_RAW_BYTES} are supported"
            ),
        ));
    }
    let virtual_size = file_size.next_multiple_of(SECTOR);
    let bounds = Bounds {
        file_size,
        virtual_size,
        cluster_size: SECTOR,
    };
    let mut batch = BatchBuilder::new(0, bounds, MAX_BATCH_BYTES);
    batch.plain(0, virtual_size);
    let mut totals = Totals::default();
    totals.add(&batch);
    Ok(Opened {
        format: Format::Raw,
        virtual_size: Some(virtual_size),
        cluster_size: None,
        totals,
        map: Map::Whole(Some(batch.finish())),
    })
}
