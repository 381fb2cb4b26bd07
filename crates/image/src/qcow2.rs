//! QEMU's copy-on-write format, by its specification (`docs/interop/qcow2` in QEMU's sources).
//!
//! ```text
//! header ─┬─> L1 table ──> L2 tables ──> clusters: plain, compressed, zero     the active layer
//!         ├─> refcount table ──> refcount blocks                  where they stand is checked
//!         ├─> snapshot table ──> L1 tables of the snapshots       where they stand is checked
//!         └─> bitmap directory ──> bitmap tables ──> bitmaps      where they stand is checked
//! ```
//!
//! [`open`] reads the header and everything in that picture but the clusters themselves, the
//! snapshots' L2 tables, and the refcounts of clusters inside the file. Every table and cluster
//! claims the host clusters it takes ([`claims`]); what is claimed twice, points outside the file
//! or has a reserved bit set is refused. One walk over the L2 tables does that and collects the
//! extents; images whose map is beyond its budget are walked again, batch by batch.

mod backing;
mod bitmaps;
mod bytes;
mod claims;
mod entry;
mod extensions;
mod header;
mod refcounts;
mod snapshots;
mod walk;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Compression, Qcow2Features};
use crate::plan::batch::{Batch, BatchBuilder, Totals};
use crate::plan::extent::{Bounds, Encoding};
use crate::source::ReadAt;
use claims::Claims;
use header::Header;
pub(crate) use header::MAGIC;
use walk::{Check, Walk};

/// A qcow2 image whose every table has been checked.
#[derive(Debug)]
pub(crate) struct Image {
    header: Header,
    file_size: u64,
    bounds: Bounds,
}

/// What [`open`] found.
pub(crate) struct Opened {
    pub(crate) image: Image,
    pub(crate) features: Qcow2Features,
    pub(crate) virtual_size: u64,
    pub(crate) totals: Totals,
    /// The whole disk's map, if it is within its budget.
    pub(crate) whole: Option<Batch>,
}

/// Reads and checks all of an image's metadata.
pub(crate) fn open<S: ReadAt>(source: &S, budget_bytes: usize) -> Result<Opened> {
    let file_size = source.len();
    let header = Header::read(source)?;
    let mut claims = Claims::new(header.geometry.cluster_bits);
    claims.header()?;
    header.claim_tables(file_size, &mut claims)?;
    let strays = refcounts::check(source, &header, &mut claims)?;
    snapshots::check(source, &header, &mut claims)?;
    bitmaps::check(source, &header, &mut claims)?;
    walk::claim_tables(source, &header, &mut claims)?;

    let bounds = Bounds {
        file_size,
        virtual_size: header.virtual_size,
        cluster_size: header.geometry.cluster_size(),
    };
    let mut walk = Walk::new(source, &header, bounds, 0);
    let mut batch = BatchBuilder::new(0, bounds, budget_bytes);
    let mut totals = Totals::default();
    let mut is_whole = true;
    while walk.advance(&mut batch, Check::Claims(&mut claims))? {
        is_whole = false;
        check_streams(&mut batch)?;
        totals.add(&batch);
        batch.restart();
    }
    drop(claims);
    refcounts::check_strays(source, &header, &strays)?;
    check_streams(&mut batch)?;
    totals.add(&batch);
    Ok(Opened {
        features: Qcow2Features {
            version: header.version,
            cluster_size: bounds.cluster_size,
            compression: match header.encoding {
                Encoding::Zstd => Compression::Zstd,
                Encoding::Plain | Encoding::Deflate => Compression::Zlib,
            },
            extended_l2: header.geometry.extended_l2,
            dirty: header.dirty,
            lazy_refcounts: header.lazy_refcounts,
            refcount_bits: 1 << header.refcount_order,
            snapshots: header.snapshot_count,
            bitmaps: header.bitmaps.as_ref().map_or(0, |bitmaps| bitmaps.count),
        },
        virtual_size: header.virtual_size,
        totals,
        whole: is_whole.then(|| batch.finish()),
        image: Image {
            header,
            file_size,
            bounds,
        },
    })
}

/// Refuses two clusters of one stream, as they are found in one batch.
///
/// Streams may share a host cluster, which is all that claims know. One stream for a million
/// clusters would be a small file that takes hours to write.
fn check_streams(batch: &mut BatchBuilder) -> Result<()> {
    match batch.shared_stream() {
        None => Ok(()),
        Some(host_offset) => Err(Error::new(
            ErrorKind::Overlap,
            format!("The compressed cluster at {host_offset:#x} stands for several of the disk's"),
        )),
    }
}

impl Image {
    /// The batch that begins at guest offset `start`.
    ///
    /// `source` is the one that was opened. Should its content have changed since, the batch may be
    /// refused or map other bytes of the source, but nothing else.
    pub(crate) fn batch_at<S: ReadAt>(
        &self,
        source: &S,
        start: u64,
        budget_bytes: usize,
    ) -> Result<Batch> {
        debug_assert_eq!(source.len(), self.file_size);
        let mut batch = BatchBuilder::new(start, self.bounds, budget_bytes);
        let mut walk = Walk::new(source, &self.header, self.bounds, start);
        walk.advance(&mut batch, Check::Entries)?;
        Ok(batch.finish())
    }
}
