//! The hostile set: valid images, damaged field by field, each with the expected refusal.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests know how large their numbers are"
)]

mod extras;
mod header;
mod raw;
mod tables;

use lvp_image::ErrorKind;
use lvp_image::builder::{ImageBuilder, Stored};
use lvp_image::format::{Compression, ImageType};

pub(crate) use raw::PACKERS;

/// An image, and what it is to be refused as.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) declared: ImageType,
    pub(crate) bytes: Vec<u8>,
    pub(crate) kind: ErrorKind,
    /// Another acceptable kind.
    pub(crate) or: Option<ErrorKind>,
}

/// Offsets of the header's fields.
pub(crate) mod field {
    pub(crate) const VERSION: usize = 4;
    pub(crate) const BACKING_OFFSET: usize = 8;
    pub(crate) const BACKING_SIZE: usize = 16;
    pub(crate) const CLUSTER_BITS: usize = 20;
    pub(crate) const SIZE: usize = 24;
    pub(crate) const CRYPT: usize = 32;
    pub(crate) const L1_SIZE: usize = 36;
    pub(crate) const L1_OFFSET: usize = 40;
    pub(crate) const REFTABLE_OFFSET: usize = 48;
    pub(crate) const REFTABLE_CLUSTERS: usize = 56;
    pub(crate) const SNAPSHOTS: usize = 60;
    pub(crate) const SNAPSHOTS_OFFSET: usize = 64;
    pub(crate) const INCOMPATIBLE: usize = 72;
    pub(crate) const AUTOCLEAR: usize = 88;
    pub(crate) const REFCOUNT_ORDER: usize = 96;
    pub(crate) const HEADER_LENGTH: usize = 100;
    pub(crate) const COMPRESSION: usize = 104;
    /// Where the builder's header ends and extensions begin.
    pub(crate) const EXTENSIONS: usize = 112;
}

pub(crate) const COPIED: u64 = 1 << 63;
pub(crate) const COMPRESSED: u64 = 1 << 62;

/// An image to be damaged.
#[derive(Clone)]
pub(crate) struct Patient {
    pub(crate) bytes: Vec<u8>,
}

impl Patient {
    pub(crate) fn new(builder: &ImageBuilder) -> Self {
        Self {
            bytes: builder.build(),
        }
    }

    pub(crate) fn u32(&mut self, at: usize, value: u32) -> &mut Self {
        self.bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn u64(&mut self, at: usize, value: u64) -> &mut Self {
        self.bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn get(&self, at: usize) -> u64 {
        u64::from_be_bytes(*self.bytes[at..].first_chunk().unwrap())
    }

    pub(crate) fn l1(&self) -> usize {
        self.get(field::L1_OFFSET) as usize
    }

    /// The L2 table of an L1 entry.
    pub(crate) fn l2(&self, index: usize) -> usize {
        (self.get(self.l1() + index * 8) & !COPIED) as usize
    }

    pub(crate) fn header_length(&self) -> usize {
        match self.bytes[field::VERSION + 3] {
            2 => 72,
            _ => (self.get(field::HEADER_LENGTH - 4) & 0xffff_ffff) as usize,
        }
    }

    pub(crate) fn reftable(&self) -> usize {
        self.get(field::REFTABLE_OFFSET) as usize
    }

    /// Header extensions from where the builder's header ends, with an end mark.
    pub(crate) fn extensions(&mut self, extensions: &[(u32, &[u8])]) -> &mut Self {
        let mut at = field::EXTENSIONS;
        for (kind, data) in extensions {
            self.u32(at, *kind).u32(at + 4, data.len() as u32);
            self.put(at + 8, data);
            at += 8 + data.len().next_multiple_of(8);
        }
        self
    }

    /// Appends one cluster that begins with `bytes`; returns where it is.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> u64 {
        let start = self.bytes.len().next_multiple_of(CLUSTER);
        self.bytes.resize(start, 0);
        self.bytes.extend_from_slice(bytes);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(CLUSTER), 0);
        start as u64
    }
}

pub(crate) const CLUSTER: usize = 4096;
/// What one L2 table of such clusters maps.
pub(crate) const COVERAGE: u64 = 512 * CLUSTER as u64;
const SIZE: u64 = 3 * COVERAGE + 1536;

fn builder() -> ImageBuilder {
    ImageBuilder::new(SIZE).cluster_bits(12)
}

/// Three L1 entries in use, the first with plain clusters 0-3 and a zero cluster 4.
pub(crate) fn plain() -> Patient {
    let mut image = builder();
    image.write(0, &[1; 4 * CLUSTER], Stored::Plain);
    image.write(4 * CLUSTER as u64, &[1; CLUSTER], Stored::ZeroAllocated);
    image.write(COVERAGE, &[2; CLUSTER], Stored::Plain);
    image.write(3 * COVERAGE, &[3; 1536], Stored::Plain);
    Patient::new(&image)
}

pub(crate) fn version_2() -> Patient {
    let mut image = builder().version(2);
    image.write(0, &[1; 4 * CLUSTER], Stored::Plain);
    image.write(COVERAGE, &[2; 2 * CLUSTER], Stored::Compressed);
    Patient::new(&image)
}

pub(crate) fn compressed(compression: Compression) -> Patient {
    let mut image = builder().compression(compression);
    for index in 0..3 {
        let text: Vec<u8> = (0..CLUSTER).map(|at| (at / 9 + index) as u8).collect();
        image.write((index * CLUSTER) as u64, &text, Stored::Compressed);
    }
    Patient::new(&image)
}

/// 16 KiB clusters with subclusters of 512 bytes; entry 0 is whole, 1 and 2 are in parts.
pub(crate) fn subclusters() -> Patient {
    let mut image = ImageBuilder::new(16 << 20).cluster_bits(14);
    image.write(0, &[1; 2 << 14], Stored::Plain);
    let mut patient = Patient::new(&image);
    let l2 = patient.l2(0);
    let (first, second) = (patient.get(l2), patient.get(l2 + 8));
    let incompatible = patient.get(field::INCOMPATIBLE);
    patient
        .u64(field::INCOMPATIBLE, incompatible | 1 << 4)
        .u64(l2, first)
        .u64(l2 + 8, 0xffff_ffff)
        .u64(l2 + 16, second)
        .u64(l2 + 24, 0x0000_ff00_8000_000f)
        .u64(l2 + 32, 0)
        .u64(l2 + 40, 0xffff_0000 << 32);
    patient
}

/// A snapshot whose L1 table is a copy of the active one.
pub(crate) fn snapshot() -> Patient {
    let mut patient = plain();
    let l1 = patient.l1();
    let copy = patient.bytes[l1..l1 + 32].to_vec();
    let l1_copy = patient.append(&copy);
    with_snapshots(patient, &[(l1_copy, 4)])
}

/// Gives an image snapshots, each with its L1 table's place and number of entries.
pub(crate) fn with_snapshots(mut patient: Patient, l1_tables: &[(u64, u32)]) -> Patient {
    let mut table = Vec::new();
    for (offset, entries) in l1_tables {
        table.resize(table.len().next_multiple_of(8), 0);
        table.extend_from_slice(&offset.to_be_bytes());
        table.extend_from_slice(&entries.to_be_bytes());
        table.extend_from_slice(&[0, 1, 0, 3]); // lengths of id and name
        table.extend_from_slice(&[0; 20]);
        table.extend_from_slice(&16_u32.to_be_bytes()); // extra data
        table.extend_from_slice(&[0; 8]);
        table.extend_from_slice(&SIZE.to_be_bytes());
        table.extend_from_slice(b"1one");
    }
    let table = patient.append(&table);
    patient
        .u32(field::SNAPSHOTS, l1_tables.len() as u32)
        .u64(field::SNAPSHOTS_OFFSET, table);
    patient
}

/// Two bitmaps of one cluster each, the second in use.
pub(crate) fn bitmaps() -> Patient {
    let mut patient = plain();
    let data = patient.append(&[0xff; 16]);
    let table = patient.append(&data.to_be_bytes());
    let unused = patient.append(&[0; 8]);
    let mut directory = Vec::new();
    for (table, flags, name) in [(table, 2_u32, b"one"), (unused, 1, b"two")] {
        directory.extend_from_slice(&table.to_be_bytes());
        directory.extend_from_slice(&1_u32.to_be_bytes());
        directory.extend_from_slice(&flags.to_be_bytes());
        directory.extend_from_slice(&[1, 16, 0, 3, 0, 0, 0, 0]);
        directory.extend_from_slice(name);
        directory.resize(directory.len().next_multiple_of(8), 0);
    }
    let len = directory.len() as u64;
    let directory = patient.append(&directory);
    let mut extension = Vec::new();
    extension.extend_from_slice(&2_u32.to_be_bytes());
    extension.extend_from_slice(&[0; 4]);
    extension.extend_from_slice(&len.to_be_bytes());
    extension.extend_from_slice(&directory.to_be_bytes());
    patient
        .extensions(&[(0x2385_2875, &extension)])
        .u64(field::AUTOCLEAR, 1);
    patient
}

/// All cases.
pub(crate) fn cases() -> Vec<Case> {
    let mut set = Set(Vec::new());
    header::header(&mut set);
    header::features(&mut set);
    tables::places(&mut set);
    tables::entries(&mut set);
    tables::overlaps(&mut set);
    extras::snapshots(&mut set);
    extras::bitmap_directories(&mut set);
    extras::streams(&mut set);
    extras::cuts(&mut set);
    raw::other_formats(&mut set);
    raw::raw_streams(&mut set);
    set.0
}

struct Set(Vec<Case>);

impl Set {
    /// `base` as `damage` leaves it is refused as `kind`.
    fn add(
        &mut self,
        name: impl Into<String>,
        kind: ErrorKind,
        base: Patient,
        damage: impl FnOnce(&mut Patient),
    ) {
        let mut patient = base;
        damage(&mut patient);
        self.bytes(name, kind, ImageType::Qcow2, patient.bytes);
    }

    /// The case added last may be refused as `kind` too.
    fn or(&mut self, kind: ErrorKind) {
        self.0.last_mut().unwrap().or = Some(kind);
    }

    fn bytes(
        &mut self,
        name: impl Into<String>,
        kind: ErrorKind,
        declared: ImageType,
        bytes: Vec<u8>,
    ) {
        self.0.push(Case {
            name: name.into(),
            declared,
            bytes,
            kind,
            or: None,
        });
    }
}
