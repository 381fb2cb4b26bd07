//! What must be done to turn an image into the guest's disk.

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Format, ImageType};
use crate::formats::raw::open_disk;
use crate::formats::reader::{Batches, Map, Opened};
use crate::formats::{packed, reader_of};
use crate::limits::{MAX_BATCH_BYTES, MAX_FILE_SIZE};
pub use crate::map::{Batch, Encoding, Extent};
use crate::sandbox::Decoders;
use crate::source::ReadAt;

/// What is known about an image once it has been opened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageInfo {
    /// The format.
    pub format: Format,
    /// Length of the image file in bytes.
    pub file_size: u64,
    /// Size of the guest's disk in bytes, always whole sectors of 512 bytes. `None` only for
    /// [`Format::RawStream`], whose size is known once the stream has been decoded.
    pub virtual_size: Option<u64>,
    /// The decoded size of a compressed cluster in bytes; `None` for formats without clusters.
    pub cluster_size: Option<u64>,
    /// Guest bytes that have data in the image; the others read as zero.
    pub allocated_bytes: u64,
    /// Host bytes that hold them. Of a compressed cluster, the sectors that its stream touches.
    pub host_data_bytes: u64,
    /// Number of extents in all of the image's batches.
    pub extents: u64,
    /// How many clusters are compressed.
    pub compressed_clusters: u64,
    /// The largest power of two up to 4096 that divides every extent's guest offset, and every
    /// guest length except that of an extent that ends with the disk.
    pub alignment: u64,
}

/// Opens an image, refuses what must be refused, and maps guest bytes to host bytes.
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

/// Room for one cluster's entries: 32 subclusters, twice.
const MIN_BATCH_BYTES: usize = 64 * 16;

#[derive(Debug)]
enum State {
    /// The whole disk's map, until it is taken.
    Whole(Option<Batch>),
    /// The map is made batch by batch; the next one begins at this guest offset.
    Batches {
        image: Box<dyn Batches>,
        next: u64,
        batch_bytes: usize,
    },
}

impl<S: ReadAt> Planner<S> {
    /// Reads the header and validates every table that the active layer points to.
    ///
    /// Every refusal that needs no decompression happens here, before any byte is written. An image that
    /// has to be unpacked first is [`ErrorKind::Packed`]; see [`unpack`](crate::unpack).
    pub fn open(source: S, declared: ImageType) -> Result<Self> {
        Self::open_within(source, declared, MAX_BATCH_BYTES)
    }

    /// [`open`](Self::open), with what is compressed decoded where `decoders` says.
    pub fn open_with(source: S, declared: ImageType, decoders: &Decoders) -> Result<Self> {
        Self::open_by(source, declared, MAX_BATCH_BYTES, decoders)
    }

    /// [`open`](Self::open) with a budget for a batch other than [`MAX_BATCH_BYTES`].
    ///
    /// A cluster's 32 possible extents have to fit.
    pub fn open_within(source: S, declared: ImageType, batch_bytes: usize) -> Result<Self> {
        Self::open_by(source, declared, batch_bytes, &Decoders::here())
    }

    fn open_by(
        source: S,
        declared: ImageType,
        batch_bytes: usize,
        decoders: &Decoders,
    ) -> Result<Self> {
        let file_size = source.len();
        if file_size > MAX_FILE_SIZE {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "The image file has {file_size} bytes, and at most {MAX_FILE_SIZE} are supported"
                ),
            ));
        }
        // A smaller batch could not take one cluster's entries, and no batch would make progress.
        let batch_bytes = batch_bytes.max(MIN_BATCH_BYTES);
        packed::check(&source, declared, decoders)?;
        let opened = reader_of(declared, &source)?.open(&source, batch_bytes)?;
        Ok(Self::of(opened, source, batch_bytes))
    }

    /// The bytes of a disk, whatever they look like: a guest may have another image, or a stream, at the
    /// beginning of its disk. For files that this program wrote itself.
    pub fn of_disk(source: S) -> Result<Self> {
        let opened = open_disk(source.len())?;
        Ok(Self::of(opened, source, MAX_BATCH_BYTES))
    }

    fn of(opened: Opened, source: S, batch_bytes: usize) -> Self {
        Self {
            info: ImageInfo {
                format: opened.format,
                file_size: source.len(),
                virtual_size: opened.virtual_size,
                cluster_size: opened.cluster_size,
                allocated_bytes: opened.totals.allocated_bytes,
                host_data_bytes: opened.totals.host_data_bytes,
                extents: opened.totals.extents,
                compressed_clusters: opened.totals.compressed_clusters,
                alignment: opened.totals.alignment(),
            },
            source,
            state: match opened.map {
                Map::Whole(batch) => State::Whole(batch),
                Map::Batches(image) => State::Batches {
                    image,
                    next: 0,
                    batch_bytes,
                },
            },
        }
    }

    /// What is known about the image.
    pub fn info(&self) -> &ImageInfo {
        &self.info
    }

    /// The source of the image's bytes.
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

    /// Whether one batch maps the whole disk, so that the source can be read once, front to back.
    /// True for [`Format::RawStream`] as well.
    pub fn is_one_pass(&self) -> bool {
        matches!(self.state, State::Whole(_))
    }

    /// Returns the source.
    pub fn into_source(self) -> S {
        self.source
    }
}
