//! A walk over the active layer in guest order: L1 entries, L2 tables, clusters.

use std::ops::Range;

use super::claims::Claims;
use super::entry::{Cluster, Impossible, decode, l2_table_offset};
use super::geometry::inside;
use super::header::Header;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::bytes::{be64, read};
use crate::limits::{MAX_L2_BYTES, MAX_TABLE_GAP_BYTES, TABLE_READ_GAP_BYTES, TABLE_WINDOW_BYTES};
use crate::map::batch::BatchBuilder;
use crate::map::extent::{Bounds, SECTOR};
use crate::source::ReadAt;

/// L1 entries that are read at a time: 64 KiB.
const L1_CHUNK_ENTRIES: u64 = 8192;

/// A cluster adds at most this many extents and zero ranges: one for every subcluster.
const MAX_ENTRIES_PER_CLUSTER: usize = 32;

/// How much of the image is checked during the walk.
pub(super) enum Check<'a> {
    /// Everything, and every cluster is claimed. [`claim_tables`] was called before.
    Claims(&'a mut Claims),
    /// Every entry by itself: the image was checked before.
    Entries,
}

/// Checks every L1 entry, and claims the L2 tables they point to.
///
/// This is done before the first of them is read, so that an image that exceeds a limit is refused
/// at once. Entries after those that map the disk point to saved machine states; only their place
/// is checked.
pub(super) fn claim_tables<S: ReadAt>(
    source: &S,
    header: &Header,
    claims: &mut Claims,
) -> Result<()> {
    let table_len = header.geometry.cluster_size();
    let mut l2_bytes = 0;
    let mut next_l1 = 0;
    while next_l1 < u64::from(header.l1_entries) {
        let count = (u64::from(header.l1_entries) - next_l1).min(L1_CHUNK_ENTRIES);
        for entry in read_l1(source, header, next_l1, count)? {
            let host_offset =
                l2_table_offset(entry, &header.geometry).map_err(|why| bad_l1(next_l1, why))?;
            if host_offset != 0 {
                let what = || format!("The L2 table of L1 entry {next_l1}");
                let place = host_offset..host_offset + table_len;
                inside(&what(), &place, source.len())?;
                claims.exclusive(place, what)?;
                l2_bytes += table_len;
            }
            next_l1 += 1;
        }
        if l2_bytes > MAX_L2_BYTES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "The image has more than {} MiB of L2 tables; convert it with larger clusters",
                    MAX_L2_BYTES >> 20
                ),
            ));
        }
    }
    Ok(())
}

/// `count` entries of the L1 table.
fn read_l1<S: ReadAt>(
    source: &S,
    header: &Header,
    first: u64,
    count: u64,
) -> Result<impl Iterator<Item = u64> + use<S>> {
    let mut bytes = vec![0; usize::try_from(count).unwrap_or(0) * 8];
    read(
        source,
        "the L1 table",
        header.l1_offset + first * 8,
        &mut bytes,
    )?;
    let len = bytes.len();
    Ok((0..len).step_by(8).map(move |at| be64(&bytes, at)))
}

/// A walk over an image's L2 tables, a window of them at a time.
pub(super) struct Walk<'a, S> {
    source: &'a S,
    header: &'a Header,
    bounds: Bounds,
    /// The first L1 entry after the window.
    next_l1: u64,
    /// The part of the window that is still to be processed, in reverse.
    window: Vec<Table>,
    /// The window's tables, concatenated.
    tables: Vec<u8>,
    /// A hole of the source, as far as it is known to extend.
    hole: Range<u64>,
    /// How much may still be read only to join reads.
    gap_bytes: u64,
}

/// One L1 entry of a window.
#[derive(Debug, Clone, Copy)]
struct Table {
    l1_index: u64,
    /// Zero if there is no table.
    host_offset: u64,
    /// Offset of the table in `Walk::tables`.
    at: usize,
}

impl<'a, S: ReadAt> Walk<'a, S> {
    /// A walk that begins at guest offset `start`.
    pub(super) fn new(source: &'a S, header: &'a Header, bounds: Bounds, start: u64) -> Self {
        Self {
            source,
            header,
            bounds,
            next_l1: start / header.geometry.l2_coverage(),
            window: Vec::new(),
            tables: Vec::new(),
            hole: 0..0,
            gap_bytes: MAX_TABLE_GAP_BYTES,
        }
    }

    /// Adds clusters to `batch` until it is full (true) or the walk is complete (false).
    pub(super) fn advance(
        &mut self,
        batch: &mut BatchBuilder,
        mut check: Check<'_>,
    ) -> Result<bool> {
        loop {
            while let Some(table) = self.window.last().copied() {
                if self.table(table, batch, &mut check)? {
                    return Ok(true);
                }
                self.window.pop();
            }
            if !self.load_window()? {
                return Ok(false);
            }
        }
    }

    /// How many L1 entries map the disk; those after them point to saved machine states.
    fn disk_l1_entries(&self) -> u64 {
        self.header
            .virtual_size
            .div_ceil(self.header.geometry.l2_coverage())
    }

    /// Reads the next L1 entries and the tables they point to. False if there are none left.
    fn load_window(&mut self) -> Result<bool> {
        let count = self.disk_l1_entries().saturating_sub(self.next_l1);
        let count = count.min(L1_CHUNK_ENTRIES);
        if count == 0 {
            return Ok(false);
        }
        let table_len = self.header.geometry.l2_table_len();
        let mut used = 0;
        for entry in read_l1(self.source, self.header, self.next_l1, count)? {
            if used + table_len > TABLE_WINDOW_BYTES {
                break;
            }
            let l1_index = self.next_l1;
            let mut host_offset = l2_table_offset(entry, &self.header.geometry)
                .map_err(|why| bad_l1(l1_index, why))?;
            if host_offset != 0 && self.is_hole(host_offset..host_offset + table_len as u64) {
                // A table of zeros maps nothing, as if it did not exist.
                host_offset = 0;
            }
            self.window.push(Table {
                l1_index,
                host_offset,
                at: used,
            });
            used += if host_offset == 0 { 0 } else { table_len };
            self.next_l1 += 1;
        }
        self.window.reverse();
        self.read_tables(used)?;
        Ok(true)
    }

    /// Whether the source knows that these bytes are zero.
    fn is_hole(&mut self, range: Range<u64>) -> bool {
        if !(self.hole.start <= range.start && range.end <= self.hole.end) {
            self.hole = range.start..self.source.next_data(range.start);
        }
        range.end <= self.hole.end
    }

    /// Reads the window's tables in host order, nearby ones with one read.
    fn read_tables(&mut self, used: usize) -> Result<()> {
        self.tables.resize(used, 0);
        let table_len = self.header.geometry.l2_table_len();
        let mut order: Vec<Table> = self.window.clone();
        order.retain(|table| table.host_offset != 0);
        order.sort_unstable_by_key(|table| table.host_offset);

        let mut rest = order.as_slice();
        let mut run_bytes = Vec::new();
        while let Some(first) = rest.first() {
            let run_len = 1 + self.joined(rest);
            let (run, after) = rest.split_at(run_len);
            rest = after;
            if let [table] = run {
                let place = &mut self.tables[table.at..table.at + table_len];
                read(self.source, "an L2 table", table.host_offset, place)?;
                continue;
            }
            let span = run[run_len - 1].host_offset - first.host_offset;
            let span = usize::try_from(span).unwrap_or(usize::MAX - table_len);
            run_bytes.resize(span + table_len, 0);
            read(self.source, "L2 tables", first.host_offset, &mut run_bytes)?;
            for table in run {
                let from = usize::try_from(table.host_offset - first.host_offset).unwrap_or(0);
                self.tables[table.at..table.at + table_len]
                    .copy_from_slice(&run_bytes[from..from + table_len]);
            }
        }
        Ok(())
    }

    /// How many tables after the first are near enough to be read with it.
    fn joined(&mut self, tables: &[Table]) -> usize {
        let table_len = self.header.geometry.cluster_size();
        let Some(first) = tables.first() else {
            return 0;
        };
        let mut count = 0;
        for (one, next) in tables.iter().zip(tables.iter().skip(1)) {
            // A damaged image may name one table twice; it is refused when that is claimed.
            let gap = next.host_offset.saturating_sub(one.host_offset + table_len);
            let len = next.host_offset - first.host_offset + table_len;
            if gap > TABLE_READ_GAP_BYTES || gap > self.gap_bytes || len > TABLE_WINDOW_BYTES as u64
            {
                break;
            }
            self.gap_bytes -= gap;
            count += 1;
        }
        count
    }

    /// Adds a table's clusters to the batch, from the end of the batch on. True if the batch is
    /// full.
    fn table(&self, table: Table, batch: &mut BatchBuilder, check: &mut Check<'_>) -> Result<bool> {
        let geometry = &self.header.geometry;
        let start = table.l1_index * geometry.l2_coverage();
        if table.host_offset == 0 {
            if batch.is_full(1) {
                return Ok(true);
            }
            batch.zero(start + geometry.l2_coverage() - batch.next_guest_offset());
            return Ok(false);
        }
        let entry_len = geometry.l2_entry_len();
        let entries = &self.tables[table.at..table.at + geometry.l2_table_len()];
        let done = (batch.next_guest_offset() - start) >> geometry.cluster_bits;
        let mut index = usize::try_from(done).unwrap_or(usize::MAX);
        while let Some(entry) = entries.get(index * entry_len..(index + 1) * entry_len) {
            let guest_offset = start + ((index as u64) << geometry.cluster_bits);
            if batch.is_full(MAX_ENTRIES_PER_CLUSTER) && guest_offset < self.bounds.virtual_size {
                return Ok(true);
            }
            let unused = leading_zeros(&entries[index * entry_len..]) / entry_len;
            if unused > 0 {
                batch.zero((unused as u64) << geometry.cluster_bits);
                index += unused;
                continue;
            }
            index += 1;
            let bitmap = if entry_len == 16 { be64(entry, 8) } else { 0 };
            let cluster = decode(be64(entry, 0), bitmap, geometry)
                .map_err(|why| self.bad_l2(guest_offset, be64(entry, 0), why))?;
            let guest_len = self
                .bounds
                .virtual_size
                .saturating_sub(guest_offset)
                .min(geometry.cluster_size());
            self.check_cluster(cluster, guest_offset, guest_len, check)?;
            if guest_len > 0 {
                self.add(cluster, batch);
            }
        }
        Ok(false)
    }

    /// Checks the place of a cluster, of which the guest sees the first `guest_len` bytes.
    fn check_cluster(
        &self,
        cluster: Cluster,
        guest_offset: u64,
        guest_len: u64,
        check: &mut Check<'_>,
    ) -> Result<()> {
        let file_size = self.bounds.file_size;
        let what = || format!("The cluster for guest offset {guest_offset:#x}");
        let (place, needed) = match cluster {
            Cluster::Unallocated => return Ok(()),
            Cluster::Compressed {
                host_offset,
                sectors,
            } => {
                let end = (host_offset / SECTOR + sectors) * SECTOR;
                // The stream may end with the file, inside a sector: the decoder finds out whether
                // it is complete.
                inside(&what(), &(host_offset..host_offset + 1), file_size)?;
                if let Check::Claims(claims) = check {
                    claims.compressed(host_offset..end.min(file_size), what)?;
                }
                return Ok(());
            }
            Cluster::ZeroAllocated { host_offset } => (host_offset, 1),
            Cluster::Plain { host_offset } => (host_offset, guest_len.max(1)),
            Cluster::Partial { host_offset, data } => {
                let subcluster = self.header.geometry.cluster_size() / 32;
                let end = u64::from(32 - data.leading_zeros()) * subcluster;
                (host_offset, end.min(guest_len.max(1)))
            }
        };
        inside(&what(), &(place..place + needed), file_size)?;
        if let Check::Claims(claims) = check {
            claims.exclusive(place..place + self.header.geometry.cluster_size(), what)?;
        }
        Ok(())
    }

    fn add(&self, cluster: Cluster, batch: &mut BatchBuilder) {
        let cluster_size = self.header.geometry.cluster_size();
        match cluster {
            Cluster::Unallocated | Cluster::ZeroAllocated { .. } => batch.zero(cluster_size),
            Cluster::Plain { host_offset } => batch.plain(host_offset, cluster_size),
            Cluster::Compressed {
                host_offset,
                sectors,
            } => batch.compressed(host_offset, sectors, self.header.encoding, cluster_size),
            Cluster::Partial {
                host_offset, data, ..
            } => {
                let subcluster = cluster_size / 32;
                for index in 0..32 {
                    if data & (1 << index) == 0 {
                        batch.zero(subcluster);
                    } else {
                        batch.plain(host_offset + index * subcluster, subcluster);
                    }
                }
            }
        }
    }

    fn bad_l2(&self, guest_offset: u64, entry: u64, Impossible(why): Impossible) -> Error {
        Error::new(
            ErrorKind::BadTable,
            format!("The L2 entry {entry:#018x} for guest offset {guest_offset:#x} {why}"),
        )
    }
}

fn bad_l1(index: u64, Impossible(why): Impossible) -> Error {
    Error::new(
        ErrorKind::BadTable,
        format!("Entry {index} of the L1 table {why}"),
    )
}

/// How many bytes come before the first that is not zero, in whole words.
fn leading_zeros(bytes: &[u8]) -> usize {
    let (words, _) = bytes.as_chunks::<8>();
    let zeros = words.iter().take_while(|word| **word == [0; 8]).count();
    zeros * 8
}
