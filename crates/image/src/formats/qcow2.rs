//! QEMU's copy-on-write format, according to its specification (`docs/interop/qcow2` in QEMU's
//! sources).
//!
//! ```text
//! header ─┬─> L1 table ──> L2 tables ──> clusters: plain, compressed, zero     the active layer
//!         ├─> refcount table ──> refcount blocks                  only their place is checked
//!         ├─> snapshot table ──> L1 tables of the snapshots       only their place is checked
//!         └─> bitmap directory ──> bitmap tables ──> bitmaps      only their place is checked
//! ```
//!
//! Opening an image reads the header and everything in that picture except the clusters themselves,
//! the snapshots' L2 tables, and the refcounts of clusters inside the file. Every table and cluster
//! claims the host clusters it takes ([`claims`]); what is claimed twice, points outside the file
//! or has a reserved bit set is refused. One walk over the L2 tables does that and collects the
//! extents; images whose map exceeds its budget are walked again, batch by batch.

mod backing;
mod bitmaps;

mod claims;
mod entry;
mod extensions;
mod features;
mod geometry;
mod header;
mod refcounts;
mod snapshots;
mod walk;

use super::reader::{Batches, ImageFormat, Map, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Compression, Format, Qcow2Features};
use crate::map::batch::{Batch, BatchBuilder, Totals};
use crate::map::extent::{Bounds, Encoding};
use crate::source::ReadAt;
use claims::Claims;
use header::Header;
pub(crate) use header::MAGIC;
use walk::{Check, Walk};

/// QEMU's copy-on-write format, versions 2 and 3.
pub(super) struct Qcow2;

impl ImageFormat for Qcow2 {
    fn open(&self, source: &dyn ReadAt, batch_bytes: usize) -> Result<Opened> {
        open(&source, batch_bytes)
    }
}

/// A qcow2 image whose every table has been checked.
#[derive(Debug)]
struct Image {
    header: Header,
    file_size: u64,
    bounds: Bounds,
}

/// Reads and checks all of an image's metadata.
fn open<S: ReadAt>(source: &S, budget_bytes: usize) -> Result<Opened> {
    let file_size = source.len();
    let header = Header::read(source)?;
    let mut claims = Claims::new(header.geometry.cluster_bits);
    claims.header()?;
    header.claim_tables(file_size, &mut claims)?;
    let beyond_end = refcounts::check(source, &header, &mut claims)?;
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
    refcounts::check_blocks_beyond_end(source, &header, &beyond_end)?;
    check_streams(&mut batch)?;
    totals.add(&batch);
    Ok(Opened {
        format: Format::Qcow2(Qcow2Features {
            version: header.version,
            cluster_size: bounds.cluster_size,
            compression: match header.encoding {
                Encoding::Zstd => Compression::Zstd,
                Encoding::Plain | Encoding::Deflate | Encoding::Grain => Compression::Zlib,
            },
            extended_l2: header.geometry.extended_l2,
            dirty: header.dirty,
            lazy_refcounts: header.lazy_refcounts,
            refcount_bits: 1 << header.refcount_order,
            snapshots: header.snapshot_count,
            bitmaps: header.bitmaps.as_ref().map_or(0, |bitmaps| bitmaps.count),
        }),
        virtual_size: Some(header.virtual_size),
        cluster_size: Some(bounds.cluster_size),
        totals,
        map: if is_whole {
            Map::Whole(Some(batch.finish()))
        } else {
            Map::Batches(Box::new(Image {
                header,
                file_size,
                bounds,
            }))
        },
    })
}

/// Refuses two clusters that use the same stream, if both are in one batch.
///
/// Streams may share a host cluster, which is all that claims record. With one stream for a million
/// clusters, a small file would take hours to write.
fn check_streams(batch: &mut BatchBuilder) -> Result<()> {
    match batch.shared_stream() {
        None => Ok(()),
        Some(host_offset) => Err(Error::new(
            ErrorKind::Overlap,
            format!(
                "The compressed cluster at {host_offset:#x} is used for several clusters of the disk"
            ),
        )),
    }
}

impl Batches for Image {
    fn batch_at(&self, source: &dyn ReadAt, start: u64, batch_bytes: usize) -> Result<Batch> {
        debug_assert_eq!(source.len(), self.file_size);
        let mut batch = BatchBuilder::new(start, self.bounds, batch_bytes);
        let mut walk = Walk::new(&source, &self.header, self.bounds, start);
        walk.advance(&mut batch, Check::Entries)?;
        Ok(batch.finish())
    }
}
