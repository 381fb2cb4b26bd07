//! Writes small qcow2 images, for demonstrations, tests and fuzzing.
//!
//! The images are simple and sound: `qemu-img check` reports nothing. The whole image is kept in
//! memory, and snapshots and subclusters are not supported; use qemu-img for those.

use std::collections::BTreeMap;

use crate::format::Compression;

/// How a cluster is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stored {
    /// Uncompressed.
    Plain,
    /// Compressed, or uncompressed if compression saves nothing.
    Compressed,
    /// As an entry with the zero flag. Its bytes are dropped; version 3 only.
    Zero,
    /// As an entry with the zero flag that keeps a host cluster with its bytes; version 3 only.
    ZeroAllocated,
}

/// An image that is being built.
///
/// ```
/// use lvp_image::builder::{ImageBuilder, Stored};
/// use lvp_image::format::ImageType;
/// use lvp_image::plan::Planner;
///
/// let mut builder = ImageBuilder::new(1 << 30);
/// builder.write(0, b"boot sector", Stored::Plain);
/// builder.write(1 << 29, &[7; 100_000], Stored::Compressed);
/// let image = builder.build();
///
/// let planner = Planner::open(image.as_slice(), ImageType::Qcow2)?;
/// assert_eq!(planner.info().virtual_size, Some(1 << 30));
/// assert_eq!(planner.info().compressed_clusters, 2);
/// # Ok::<(), lvp_image::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    virtual_size: u64,
    version: u32,
    cluster_bits: u32,
    compression: Compression,
    seed: Option<u64>,
    clusters: BTreeMap<u64, (Stored, Vec<u8>)>,
}

impl ImageBuilder {
    /// An empty disk of this size: version 3, 64 KiB clusters, zlib, clusters in guest order.
    pub fn new(virtual_size: u64) -> Self {
        Self {
            virtual_size,
            version: 3,
            cluster_bits: 16,
            compression: Compression::Zlib,
            seed: None,
            clusters: BTreeMap::new(),
        }
    }

    /// Version 2 or 3.
    ///
    /// # Panics
    ///
    /// For any other version.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        assert!(matches!(version, 2 | 3), "qcow2 has versions 2 and 3");
        self.version = version;
        self
    }

    /// Sets the size of clusters to 2^`bits` bytes. Must be called before anything is written.
    ///
    /// # Panics
    ///
    /// If that is less than 512 bytes or more than 2 MiB, or something was written before.
    #[must_use]
    pub fn cluster_bits(mut self, bits: u32) -> Self {
        assert!((9..=21).contains(&bits), "a cluster has 2^9 to 2^21 bytes");
        assert!(
            self.clusters.is_empty(),
            "the cluster size is set before anything is written"
        );
        self.cluster_bits = bits;
        self
    }

    /// The compression method for [`Stored::Compressed`]; zstd needs version 3.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Shuffles the clusters in the file with this seed.
    #[must_use]
    pub fn shuffled(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Writes bytes at a guest offset. Every cluster that they touch is stored as `stored` says.
    ///
    /// # Panics
    ///
    /// If the bytes extend past the end of the disk.
    pub fn write(&mut self, guest_offset: u64, bytes: &[u8], stored: Stored) {
        let end = guest_offset + bytes.len() as u64;
        assert!(
            end <= self.virtual_size,
            "the write extends past the end of the disk"
        );
        let cluster_size = self.cluster_size();
        let (mut offset, mut bytes) = (guest_offset, bytes);
        while !bytes.is_empty() {
            let inside = to_usize(offset) % cluster_size;
            let (piece, rest) = bytes.split_at(bytes.len().min(cluster_size - inside));
            let (how, cluster) = self
                .clusters
                .entry(offset >> self.cluster_bits)
                .or_insert_with(|| (stored, vec![0; cluster_size]));
            *how = stored;
            cluster[inside..inside + piece.len()].copy_from_slice(piece);
            offset += piece.len() as u64;
            bytes = rest;
        }
    }

    /// The disk's bytes as a guest sees them, for disks that fit in memory.
    pub fn disk(&self) -> Vec<u8> {
        let mut disk = vec![0; to_usize(self.virtual_size)];
        for (index, (stored, bytes)) in &self.clusters {
            if matches!(stored, Stored::Plain | Stored::Compressed) {
                let start = to_usize(index << self.cluster_bits);
                let len = bytes.len().min(disk.len() - start);
                disk[start..start + len].copy_from_slice(&bytes[..len]);
            }
        }
        disk
    }

    /// The image file's bytes.
    ///
    /// # Panics
    ///
    /// If version 2 is combined with zstd or zero clusters.
    pub fn build(&self) -> Vec<u8> {
        Layout::new(self).build()
    }

    fn cluster_size(&self) -> usize {
        1 << self.cluster_bits
    }

    fn compress(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = vec![0; bytes.len()];
        let len = match self.compression {
            Compression::Zlib => {
                libdeflater::Compressor::new(libdeflater::CompressionLvl::default())
                    .deflate_compress(bytes, &mut out)
                    .ok()?
            }
            Compression::Zstd => zstd_safe::compress(out.as_mut_slice(), bytes, 3).ok()?,
        };
        out.truncate(len);
        (len < bytes.len()).then_some(out)
    }
}

/// The layout of the file.
struct Layout<'a> {
    image: &'a ImageBuilder,
    file: Vec<u8>,
    /// Host clusters and their refcounts.
    refcounts: BTreeMap<u64, u16>,
}

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

impl<'a> Layout<'a> {
    fn new(image: &'a ImageBuilder) -> Self {
        Self {
            image,
            file: Vec::new(),
            refcounts: BTreeMap::new(),
        }
    }

    fn build(mut self) -> Vec<u8> {
        let cluster_size = self.image.cluster_size();
        let coverage = (cluster_size as u64 / 8) << self.image.cluster_bits;
        let l1_entries = self.image.virtual_size.div_ceil(coverage);

        self.allocate(cluster_size); // the header
        let l1_offset = self.allocate(to_usize(l1_entries) * 8);
        let entries = self.store_clusters();
        let mut tables: BTreeMap<u64, u64> = BTreeMap::new();
        for (index, entry) in entries {
            let l1_index = (index << self.image.cluster_bits) / coverage;
            let table = *tables
                .entry(l1_index)
                .or_insert_with(|| self.allocate(cluster_size));
            let l2_index = to_usize(index) % (cluster_size / 8);
            self.put(to_usize(table) + l2_index * 8, &entry.to_be_bytes());
        }
        for (l1_index, table) in tables {
            let place = to_usize(l1_offset + l1_index * 8);
            self.put(place, &(table | COPIED).to_be_bytes());
        }
        let (table_offset, table_clusters) = self.store_refcounts();
        self.header(l1_offset, l1_entries, table_offset, table_clusters);
        self.file
    }

    /// Reserves room for `len` bytes at the start of the next cluster, and counts references to its
    /// clusters.
    fn allocate(&mut self, len: usize) -> u64 {
        let cluster_size = self.image.cluster_size();
        let start = self.file.len().next_multiple_of(cluster_size);
        let end = start + len.next_multiple_of(cluster_size);
        self.file.resize(end, 0);
        for cluster in start / cluster_size..end / cluster_size {
            *self.refcounts.entry(cluster as u64).or_default() += 1;
        }
        start as u64
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.file[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Stores all clusters, and returns each one's L2 entry.
    fn store_clusters(&mut self) -> Vec<(u64, u64)> {
        let mut order: Vec<_> = self.image.clusters.iter().collect();
        if let Some(seed) = self.image.seed {
            let mut state = seed;
            order.sort_by_cached_key(|_| split_mix(&mut state));
        }
        order
            .into_iter()
            .map(|(index, (stored, bytes))| (*index, self.store(*stored, bytes)))
            .collect()
    }

    fn store(&mut self, stored: Stored, bytes: &[u8]) -> u64 {
        let is_version_3 = self.image.version == 3;
        match stored {
            Stored::Zero => {
                assert!(is_version_3, "version 2 has no zero clusters");
                return ZERO;
            }
            Stored::Compressed => {
                if let Some(stream) = self.image.compress(bytes) {
                    return self.store_stream(&stream);
                }
            }
            Stored::ZeroAllocated => assert!(is_version_3, "version 2 has no zero clusters"),
            Stored::Plain => {}
        }
        let offset = self.allocate(bytes.len());
        self.put(to_usize(offset), bytes);
        let flags = if stored == Stored::ZeroAllocated {
            COPIED | ZERO
        } else {
            COPIED
        };
        offset | flags
    }

    /// Appends a compressed stream directly after the previous one, if that is compressed as well.
    fn store_stream(&mut self, stream: &[u8]) -> u64 {
        let cluster_bits = self.image.cluster_bits;
        let start = self.file.len();
        self.file.extend_from_slice(stream);
        let last = self.file.len() - 1;
        for cluster in start >> cluster_bits..(last >> cluster_bits) + 1 {
            *self.refcounts.entry(cluster as u64).or_default() += 1;
        }
        let sectors = (last / 512 - start / 512) as u64;
        COMPRESSED | (sectors << (62 - (cluster_bits - 8))) | start as u64
    }

    /// The refcount table and its blocks of 16-bit entries, which cover themselves as well.
    fn store_refcounts(&mut self) -> (u64, u64) {
        let cluster_size = self.image.cluster_size();
        let per_block = cluster_size / 2;
        let used = self.file.len().div_ceil(cluster_size);
        let mut blocks = 1_usize;
        let table_clusters = loop {
            let table_clusters = (blocks * 8).div_ceil(cluster_size);
            if used + blocks + table_clusters <= blocks * per_block {
                break table_clusters;
            }
            blocks += 1;
        };
        let first_block = to_usize(self.allocate(blocks * cluster_size));
        let table = self.allocate(table_clusters * cluster_size);
        for block in 0..blocks {
            let offset = (first_block + block * cluster_size) as u64;
            self.put(to_usize(table) + block * 8, &offset.to_be_bytes());
        }
        for (cluster, count) in std::mem::take(&mut self.refcounts) {
            self.put(first_block + to_usize(cluster) * 2, &count.to_be_bytes());
        }
        (table, table_clusters as u64)
    }

    fn header(&mut self, l1_offset: u64, l1_entries: u64, table: u64, table_clusters: u64) {
        let image = self.image;
        let is_zstd = image.compression == Compression::Zstd;
        assert!(
            image.version == 3 || !is_zstd,
            "version 2 supports only zlib"
        );
        let mut header = Vec::with_capacity(112);
        header.extend_from_slice(&crate::formats::qcow2::MAGIC);
        header.extend_from_slice(&image.version.to_be_bytes());
        header.extend_from_slice(&[0; 12]); // no backing file
        header.extend_from_slice(&image.cluster_bits.to_be_bytes());
        header.extend_from_slice(&image.virtual_size.to_be_bytes());
        header.extend_from_slice(&[0; 4]); // not encrypted
        header.extend_from_slice(&low_half(l1_entries).to_be_bytes());
        header.extend_from_slice(&l1_offset.to_be_bytes());
        header.extend_from_slice(&table.to_be_bytes());
        header.extend_from_slice(&low_half(table_clusters).to_be_bytes());
        header.extend_from_slice(&[0; 12]); // no snapshots
        if image.version == 3 {
            let incompatible = u64::from(is_zstd) << 3;
            header.extend_from_slice(&incompatible.to_be_bytes());
            header.extend_from_slice(&[0; 16]); // no other features
            header.extend_from_slice(&4_u32.to_be_bytes()); // refcounts of 2^4 bits
            header.extend_from_slice(&112_u32.to_be_bytes()); // this header's length
            header.extend_from_slice(&[u8::from(is_zstd), 0, 0, 0, 0, 0, 0, 0]);
        }
        // The rest is zero: the end of the header extensions.
        self.put(0, &header);
    }
}

/// Converts an index; it fits because images are built in memory.
fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("an image in memory is no longer than memory")
}

fn low_half(value: u64) -> u32 {
    u32::try_from(value).expect("a table in memory has fewer entries")
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough to shuffle with.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
