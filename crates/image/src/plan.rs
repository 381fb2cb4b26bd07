//! What must be done to turn an image into the guest's disk.

pub(crate) mod batch;
pub(crate) mod extent;

pub use batch::Batch;
pub use extent::{Encoding, Extent};

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Content, Format, ImageType, sniff_raw};
use crate::limits::{MAX_BATCH_BYTES, MAX_FILE_SIZE, MAX_RAW_BYTES};
use crate::qcow2;
use crate::source::ReadAt;
use batch::{BatchBuilder, Totals};
use extent::{Bounds, SECTOR};

/// What is known of an image once it has been opened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageInfo {
    /// What the image is.
    pub format: Format,
    /// Length of the image file in bytes.
    pub file_size: u64,
    /// Size of the guest's disk in bytes, always whole sectors of 512 bytes. `None` only for
    /// [`Format::RawStream`], whose size is known when the stream has been decoded.
    pub virtual_size: Option<u64>,
    /// Guest bytes that have data in the image; the others read as zero.
    pub allocated_bytes: u64,
    /// Host bytes that hold them. Of a compressed cluster the sectors that its stream touches.
    pub host_data_bytes: u64,
    /// How many extents the image's batches have together.
    pub extents: u64,
    /// How many clusters are compressed.
    pub compressed_clusters: u64,
    /// The greatest power of two up to 4096 that divides every extent's guest offset, and, but for
    /// an extent that ends with the disk, every guest length.
    pub alignment: u64,
}

/// Opens an image, refuses what must be refused, and says what stands where.
///
/// ```
/// use lvp_image::format::ImageType;
/// use lvp_image::plan::Planner;
///
/// let disk = vec![7_u8; 4096];
/// let mut planner = Planner::open(disk.as_slice(), ImageType::Raw)?;
/// let batch = planner.next_batch()?.expect("a raw image has one batch");
/// assert_eq!(batch.guest_range(), 0..4096);
/// assert_eq!(batch.extent(0).host_range(), 0..4096);
/// assert_eq!(batch.zero_ranges().count(), 0);
/// # Ok::<(), lvp_image::Error>(())
/// ```
#[derive(Debug)]
pub struct Planner<S> {
    source: S,
    info: ImageInfo,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The whole disk's map, until it is taken.
    Whole(Option<Batch>),
    /// The map is made batch by batch; the next one begins at this guest offset.
    Batches {
        image: qcow2::Image,
        next: u64,
        batch_bytes: usize,
    },
}

impl<S: ReadAt> Planner<S> {
    /// Reads the header and validates every table that the active layer points to.
    ///
    /// Every refusal that needs no decompression happens here, before anybody writes a byte.
    pub fn open(source: S, declared: ImageType) -> Result<Self> {
        Self::open_within(source, declared, MAX_BATCH_BYTES)
    }

    /// [`open`](Self::open) with another budget for a batch than [`MAX_BATCH_BYTES`].
    ///
    /// A cluster's 32 possible extents have to fit.
    pub fn open_within(source: S, declared: ImageType, batch_bytes: usize) -> Result<Self> {
        let file_size = source.len();
        if file_size > MAX_FILE_SIZE {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("The image file has {file_size} bytes, more than {MAX_FILE_SIZE}"),
            ));
        }
        match declared {
            ImageType::Raw => Self::open_raw(source),
            ImageType::Qcow2 => Self::open_qcow2(source, batch_bytes),
        }
    }

    fn open_qcow2(source: S, batch_bytes: usize) -> Result<Self> {
        // Less would not take one cluster's entries, and no batch would ever get anywhere.
        const MIN_BATCH_BYTES: usize = 64 * size_of::<extent::Packed>();
        let batch_bytes = batch_bytes.max(MIN_BATCH_BYTES);
        let opened = qcow2::open(&source, batch_bytes)?;
        Ok(Self {
            info: info(
                Format::Qcow2(opened.features),
                source.len(),
                Some(opened.virtual_size),
                &opened.totals,
            ),
            source,
            state: match opened.whole {
                Some(batch) => State::Whole(Some(batch)),
                None => State::Batches {
                    image: opened.image,
                    next: 0,
                    batch_bytes,
                },
            },
        })
    }

    fn open_raw(source: S) -> Result<Self> {
        let file_size = source.len();
        if let Content::Stream(codec) = sniff_raw(&source)? {
            return Ok(Self {
                info: info(
                    Format::RawStream(codec),
                    file_size,
                    None,
                    &Totals::default(),
                ),
                source,
                state: State::Whole(None),
            });
        }
        if file_size > MAX_RAW_BYTES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("The raw image has {file_size} bytes, more than {MAX_RAW_BYTES}"),
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
        Ok(Self {
            info: info(Format::Raw, file_size, Some(virtual_size), &totals),
            source,
            state: State::Whole(Some(batch.finish())),
        })
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
        match &mut self.state {
            State::Whole(batch) => Ok(batch.take()),
            State::Batches {
                image,
                next,
                batch_bytes,
            } => {
                if Some(*next) == self.info.virtual_size {
                    return Ok(None);
                }
                let batch = image.batch_at(&self.source, *next, *batch_bytes)?;
                *next = batch.guest_range().end;
                Ok(Some(batch))
            }
        }
    }

    /// Whether one batch maps the whole disk, so that the source may be read once, front to back.
    /// True for [`Format::RawStream`] as well.
    pub fn is_one_pass(&self) -> bool {
        matches!(self.state, State::Whole(_))
    }

    /// Gives the source back.
    pub fn into_source(self) -> S {
        self.source
    }
}

fn info(format: Format, file_size: u64, virtual_size: Option<u64>, totals: &Totals) -> ImageInfo {
    ImageInfo {
        format,
        file_size,
        virtual_size,
        allocated_bytes: totals.allocated_bytes,
        host_data_bytes: totals.host_data_bytes,
        extents: totals.extents,
        compressed_clusters: totals.compressed_clusters,
        alignment: totals.alignment(),
    }
}
