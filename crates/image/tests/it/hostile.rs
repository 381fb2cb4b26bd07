//! The hostile set: sound images, damaged field by field, each with the refusal it deserves.

use lvp_image::ErrorKind;
use lvp_image::builder::{ImageBuilder, Stored};
use lvp_image::format::{Compression, ImageType};

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) declared: ImageType,
    pub(crate) bytes: Vec<u8>,
    pub(crate) kind: ErrorKind,
    /// Another kind that is as right.
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
    let mut table = Vec::new();
    table.extend_from_slice(&l1_copy.to_be_bytes());
    table.extend_from_slice(&4_u32.to_be_bytes());
    table.extend_from_slice(&[0, 1, 0, 3]); // lengths of id and name
    table.extend_from_slice(&[0; 20]);
    table.extend_from_slice(&16_u32.to_be_bytes()); // extra data
    table.extend_from_slice(&[0; 8]);
    table.extend_from_slice(&SIZE.to_be_bytes());
    table.extend_from_slice(b"1one");
    let table = patient.append(&table);
    patient
        .u32(field::SNAPSHOTS, 1)
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
    header(&mut set);
    features(&mut set);
    places(&mut set);
    entries(&mut set);
    overlaps(&mut set);
    snapshots(&mut set);
    bitmap_directories(&mut set);
    streams(&mut set);
    cuts(&mut set);
    other_formats(&mut set);
    raw_streams(&mut set);
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

fn header(set: &mut Set) {
    use ErrorKind::{BadHeader, NotThisFormat, TooLarge};
    for at in 0..4 {
        set.add(format!("magic byte {at}"), NotThisFormat, plain(), |p| {
            p.bytes[at] ^= 0x20
        });
    }
    for version in [0, 1] {
        set.add(format!("version {version}"), NotThisFormat, plain(), |p| {
            p.u32(field::VERSION, version);
        });
    }
    for version in [4, 0x0300_0000, u32::MAX] {
        set.add(format!("version {version}"), BadHeader, plain(), |p| {
            p.u32(field::VERSION, version);
        });
    }
    for bits in [0, 1, 8, 22, 31, 32, 63, 64, u32::MAX] {
        for base in [plain(), version_2()] {
            set.add(format!("clusters of 2^{bits}"), BadHeader, base, |p| {
                p.u32(field::CLUSTER_BITS, bits);
            });
        }
    }
    for size in [1 << 63, u64::MAX, u64::MAX - 511, (1 << 56) + 512] {
        set.add(format!("virtual size {size:#x}"), TooLarge, plain(), |p| {
            p.u64(field::SIZE, size);
        });
    }
    for size in [4 * COVERAGE + 512, 1 << 40, 1 << 56] {
        set.add(
            format!("virtual size {size:#x} for a small L1"),
            BadHeader,
            plain(),
            |p| {
                p.u64(field::SIZE, size);
            },
        );
    }
    for entries in [0, 1, 3] {
        set.add(
            format!("L1 of {entries} entries"),
            BadHeader,
            plain(),
            |p| {
                p.u32(field::L1_SIZE, entries);
            },
        );
    }
    for entries in [(32 << 20) / 8 + 1, 1 << 29, u32::MAX] {
        set.add(format!("L1 of {entries} entries"), TooLarge, plain(), |p| {
            p.u32(field::L1_SIZE, entries);
        });
    }
    for offset in [1, 512, u64::MAX, u64::MAX - 4095, (1 << 63) - 4096 + 8] {
        for (name, at) in [
            ("L1 table", field::L1_OFFSET),
            ("refcount table", field::REFTABLE_OFFSET),
            ("snapshot table", field::SNAPSHOTS_OFFSET),
        ] {
            set.add(format!("{name} at {offset:#x}"), BadHeader, plain(), |p| {
                let offset = if offset == u64::MAX - 4095 {
                    offset + 1
                } else {
                    offset
                };
                p.u64(at, offset);
            });
        }
    }
    set.add("no refcount table", BadHeader, plain(), |p| {
        p.u32(field::REFTABLE_CLUSTERS, 0);
    });
    for clusters in [2049, 1 << 20, u32::MAX] {
        set.add(
            format!("refcount table of {clusters} clusters"),
            TooLarge,
            plain(),
            |p| {
                p.u32(field::REFTABLE_CLUSTERS, clusters);
            },
        );
    }
    for count in [65537, 1 << 31, u32::MAX] {
        set.add(format!("{count} snapshots"), TooLarge, snapshot(), |p| {
            p.u32(field::SNAPSHOTS, count);
        });
    }
    for order in [7, 8, 64, u32::MAX] {
        set.add(
            format!("refcounts of 2^{order} bits"),
            BadHeader,
            plain(),
            |p| {
                p.u32(field::REFCOUNT_ORDER, order);
            },
        );
    }
    for length in [0, 72, 96, 103, 105, 109, 4104, u32::MAX] {
        set.add(
            format!("header of {length} bytes"),
            BadHeader,
            plain(),
            |p| {
                p.u32(field::HEADER_LENGTH, length);
            },
        );
    }
    for (name, extension, len) in [
        ("unknown", 0x1234_5678, 4000),
        ("unknown", 0x1234_5678, u32::MAX),
        ("end", 0, 4000),
        ("backing format", 0xe279_2aca, 16),
        ("bitmaps", 0x2385_2875, 23),
        ("bitmaps", 0x2385_2875, 32),
    ] {
        set.add(
            format!("{name} extension of {len} bytes"),
            BadHeader,
            plain(),
            |p| {
                p.u32(field::EXTENSIONS, extension)
                    .u32(field::EXTENSIONS + 4, len);
            },
        );
    }
    set.add(
        "extension over the cluster's end",
        BadHeader,
        plain(),
        |p| {
            p.u32(field::EXTENSIONS, 0x1234_5678)
                .u32(
                    field::EXTENSIONS + 4,
                    (CLUSTER - field::EXTENSIONS - 8 - 8) as u32,
                )
                .u32(CLUSTER - 8, 0x1234_5678)
                .u32(CLUSTER - 4, 1);
        },
    );
}

fn features(set: &mut Set) {
    use ErrorKind::{BackingFile, BadHeader, Corrupt, Encrypted, ExternalDataFile, UnknownFeature};
    for (name, base) in [("v3", plain()), ("v2", version_2())] {
        set.add(
            format!("{name} with a backing file"),
            BackingFile,
            base.clone(),
            |p| {
                p.u64(field::BACKING_OFFSET, 1024)
                    .u32(field::BACKING_SIZE, 11);
                p.put(1024, b"/etc/passwd");
            },
        );
        set.add(
            format!("{name} with a backing file's offset"),
            BackingFile,
            base.clone(),
            |p| {
                p.u64(field::BACKING_OFFSET, 1024);
            },
        );
        set.add(
            format!("{name} with a far backing file"),
            BackingFile,
            base.clone(),
            |p| {
                p.u64(field::BACKING_OFFSET, u64::MAX)
                    .u32(field::BACKING_SIZE, 1);
            },
        );
        set.add(
            format!("{name} with a backing file's size"),
            BackingFile,
            base.clone(),
            |p| {
                p.u32(field::BACKING_SIZE, 11);
            },
        );
        for method in [1, 2, 3, u32::MAX] {
            set.add(
                format!("{name} encrypted by {method}"),
                Encrypted,
                base.clone(),
                |p| {
                    p.u32(field::CRYPT, method);
                },
            );
        }
    }
    set.add("encryption header", Encrypted, plain(), |p| {
        p.extensions(&[(0x0537_be77, &[0; 16])]);
    });
    set.add("corrupt bit", Corrupt, plain(), |p| {
        p.u64(field::INCOMPATIBLE, 1 << 1);
    });
    set.add("external data bit", ExternalDataFile, plain(), |p| {
        p.u64(field::INCOMPATIBLE, 1 << 2);
    });
    set.add(
        "external data bit and name",
        ExternalDataFile,
        plain(),
        |p| {
            p.u64(field::INCOMPATIBLE, 1 << 2)
                .extensions(&[(0x4441_5441, b"/etc/passwd")]);
        },
    );
    set.add(
        "external data name without its bit",
        ExternalDataFile,
        plain(),
        |p| {
            p.extensions(&[(0x4441_5441, b"/etc/passwd")]);
        },
    );
    set.add(
        "external data name, version 2",
        ExternalDataFile,
        version_2(),
        |p| {
            p.u32(72, 0x4441_5441).u32(76, 11).put(80, b"/etc/passwd");
        },
    );
    set.add(
        "external data name after others",
        ExternalDataFile,
        plain(),
        |p| {
            p.extensions(&[
                (0xe279_2aca, b"raw"),
                (0x1234_5678, &[9; 33]),
                (0x4441_5441, b"json:{}"),
            ]);
        },
    );
    set.add("raw external data bit", ExternalDataFile, plain(), |p| {
        p.u64(field::AUTOCLEAR, 1 << 1);
    });
    for bit in 5..64 {
        set.add(
            format!("incompatible bit {bit}"),
            UnknownFeature,
            plain(),
            |p| {
                p.u64(field::INCOMPATIBLE, 1 << bit);
            },
        );
    }
    for method in [2, 3, 255] {
        for bits in [0, 1 << 3] {
            set.add(
                format!("compression {method}, bits {bits}"),
                UnknownFeature,
                plain(),
                |p| {
                    p.u64(field::INCOMPATIBLE, bits);
                    p.bytes[field::COMPRESSION] = method;
                },
            );
        }
    }
    set.add("zstd without its bit", BadHeader, plain(), |p| {
        p.bytes[field::COMPRESSION] = 1
    });
    set.add("zlib with the bit", BadHeader, plain(), |p| {
        p.u64(field::INCOMPATIBLE, 1 << 3);
    });
    set.add("zstd beyond a short header", BadHeader, plain(), |p| {
        p.u64(field::INCOMPATIBLE, 1 << 3)
            .u32(field::HEADER_LENGTH, 104);
        p.bytes[field::COMPRESSION] = 1;
    });
    set.add("subclusters of 128 bytes", BadHeader, plain(), |p| {
        p.u64(field::INCOMPATIBLE, 1 << 4);
    });
}

/// Tables and clusters outside the file or off their alignment.
fn places(set: &mut Set) {
    use ErrorKind::{BadTable, OutsideFile, Truncated};
    let len = plain().bytes.len() as u64;
    for offset in [len, len + (1 << 20), 1 << 40, 1 << 55, 1 << 62] {
        for (name, at) in [
            ("L1", field::L1_OFFSET),
            ("refcount", field::REFTABLE_OFFSET),
        ] {
            set.add(
                format!("{name} table at {offset:#x}"),
                OutsideFile,
                plain(),
                |p| {
                    p.u64(at, offset);
                },
            );
        }
    }
    set.add("refcount table past the end", Truncated, plain(), |p| {
        p.u32(field::REFTABLE_CLUSTERS, 100);
    });
    set.add("L1 table past the end", Truncated, plain(), |p| {
        p.u32(field::L1_SIZE, 1 << 20);
    });
    for offset in [len, 1 << 40, 1 << 55] {
        set.add(
            format!("L2 table at {offset:#x}"),
            OutsideFile,
            plain(),
            |p| {
                p.u64(p.l1(), offset | COPIED);
            },
        );
        set.add(
            format!("cluster at {offset:#x}"),
            OutsideFile,
            plain(),
            |p| {
                p.u64(p.l2(0), offset | COPIED);
            },
        );
        set.add(
            format!("zero cluster at {offset:#x}"),
            OutsideFile,
            plain(),
            |p| {
                p.u64(p.l2(0), offset | COPIED | 1);
            },
        );
        set.add(
            format!("stream at {offset:#x}"),
            OutsideFile,
            version_2(),
            |p| {
                p.u64(p.l2(1), (offset + 100) | COMPRESSED);
            },
        );
        set.add(
            format!("subclusters at {offset:#x}"),
            OutsideFile,
            subclusters(),
            |p| {
                p.u64(p.l2(0), (offset << 3) % (1 << 55) | COPIED | (1 << 54));
            },
        );
        set.add(
            format!("refcount block at {offset:#x}"),
            OutsideFile,
            plain(),
            |p| {
                p.u64(p.reftable(), offset);
            },
        );
        set.add(
            format!("second refcount block at {offset:#x}"),
            OutsideFile,
            plain(),
            |p| {
                p.u64(p.reftable() + 8, offset);
            },
        );
    }
    set.add(
        "refcount block at the end of numbers",
        OutsideFile,
        plain(),
        |p| {
            p.u64(p.reftable(), u64::MAX - 4095);
        },
    );
    for offset in [512, 1024, 2048, 4096 + 512] {
        set.add(format!("L2 table at {offset:#x}"), BadTable, plain(), |p| {
            p.u64(p.l1(), offset | COPIED);
        });
        set.add(format!("cluster at {offset:#x}"), BadTable, plain(), |p| {
            p.u64(p.l2(0), offset | COPIED);
        });
        set.add(
            format!("zero cluster at {offset:#x}"),
            BadTable,
            plain(),
            |p| {
                p.u64(p.l2(0), offset | COPIED | 1);
            },
        );
        set.add(
            format!("refcount block at {offset:#x}"),
            BadTable,
            plain(),
            |p| {
                p.u64(p.reftable(), offset);
            },
        );
    }
    set.add(
        "a counted cluster beyond the file",
        Truncated,
        plain(),
        |p| {
            let block = p.get(p.reftable()) as usize;
            let beyond = p.bytes.len() / CLUSTER;
            p.put(block + beyond * 2, &[0, 1]);
        },
    );
    set.add(
        "a counted cluster far beyond the file",
        Truncated,
        plain(),
        |p| {
            let block = p.append(&[0; 4094]);
            p.bytes[block as usize + 4095] = 1;
            p.u64(p.reftable() + 100 * 8, block);
        },
    );
    set.add(
        "a table of a saved state outside",
        OutsideFile,
        plain(),
        |p| {
            let l1 = p.l1();
            p.u32(field::L1_SIZE, 6).u64(l1 + 40, 1 << 30 | COPIED);
        },
    );
}

/// Entries with bits that mean nothing, or that contradict each other.
fn entries(set: &mut Set) {
    use ErrorKind::{BadTable, OutsideFile};
    for bit in (0..9).chain(56..63) {
        set.add(format!("L1 bit {bit}"), BadTable, plain(), |p| {
            p.u64(p.l1(), p.get(p.l1()) | 1 << bit);
        });
        set.add(
            format!("unused L1 entry with bit {bit}"),
            BadTable,
            plain(),
            |p| {
                p.u64(p.l1() + 16, 1 << bit);
            },
        );
    }
    for bit in (1..9).chain(56..62) {
        set.add(format!("L2 bit {bit}"), BadTable, plain(), |p| {
            p.u64(p.l2(0), p.get(p.l2(0)) | 1 << bit);
        });
    }
    for bit in 0..9 {
        set.add(
            format!("refcount table bit {bit}"),
            BadTable,
            plain(),
            |p| {
                p.u64(p.reftable(), p.get(p.reftable()) | 1 << bit);
            },
        );
    }
    set.add("zero flag in version 2", BadTable, version_2(), |p| {
        p.u64(p.l2(0), p.get(p.l2(0)) | 1);
    });
    set.add("plain zero in version 2", BadTable, version_2(), |p| {
        p.u64(p.l2(0) + 8 * 100, 1);
    });
    set.add("in-use flag without an L2 table", BadTable, plain(), |p| {
        p.u64(p.l1() + 16, COPIED);
    });
    set.add("in-use flag without a cluster", BadTable, plain(), |p| {
        p.u64(p.l2(0) + 8 * 100, COPIED);
    });
    set.add("in-use flag on a stream", BadTable, version_2(), |p| {
        p.u64(p.l2(1), p.get(p.l2(1)) | COPIED);
    });
    set.add("stream beyond 56 bits", BadTable, version_2(), |p| {
        p.u64(p.l2(1), COMPRESSED | 1 << 57);
    });
    set.add("every bit of an L1 entry", BadTable, plain(), |p| {
        p.u64(p.l1(), u64::MAX);
    });
    set.add("every bit of an L2 entry", BadTable, plain(), |p| {
        p.u64(p.l2(0), u64::MAX);
    });
    set.add("an L2 table of garbage", BadTable, plain(), |p| {
        let l2 = p.l2(0);
        p.put(l2, &[0xa5; CLUSTER]);
    });
    set.add(
        "an entry beyond the disk's end",
        OutsideFile,
        plain(),
        |p| {
            p.u64(p.l2(3) + 8 * 50, 1 << 40 | COPIED);
        },
    );
    for (name, entry, bitmap) in [
        ("data and zero at once", None, 0x0000_0001_0000_0001),
        ("all data and all zero", None, u64::MAX),
        ("data without a cluster", Some(0), 1),
        ("a zero flag", Some(1), 0),
    ] {
        set.add(
            format!("subclusters: {name}"),
            BadTable,
            subclusters(),
            |p| {
                let l2 = p.l2(0);
                let entry = entry.unwrap_or_else(|| p.get(l2));
                p.u64(l2, entry).u64(l2 + 8, bitmap);
            },
        );
    }
    set.add(
        "subclusters: a zero flag on a cluster",
        BadTable,
        subclusters(),
        |p| {
            p.u64(p.l2(0), p.get(p.l2(0)) | 1);
        },
    );
    set.add("subclusters: of a stream", BadTable, subclusters(), |p| {
        let l2 = p.l2(0);
        let offset = p.get(l2) & !COPIED;
        p.u64(l2, offset | COMPRESSED).u64(l2 + 8, 1);
    });
}

/// Things that stand where something else does: the way of loops.
fn overlaps(set: &mut Set) {
    use ErrorKind::Overlap;
    let base = plain();
    let (l1, l2) = (base.l1() as u64, base.l2(0) as u64);
    let (other_l2, table) = (base.l2(1) as u64, base.reftable() as u64);
    let block = base.get(base.reftable());
    let data = base.get(base.l2(0)) & !COPIED;
    set.add("L1 in the header", Overlap, base.clone(), |p| {
        p.u64(field::L1_OFFSET, 0);
    });
    set.add("refcount table in the header", Overlap, base.clone(), |p| {
        p.u64(field::REFTABLE_OFFSET, 0);
    });
    set.add("L1 in the refcount table", Overlap, base.clone(), |p| {
        p.u64(field::L1_OFFSET, table);
    });
    for (name, place) in [
        ("the L1", l1),
        ("the refcount table", table),
        ("the refcount block", block),
        ("itself", l2),
        ("another L2", other_l2),
        ("a cluster", data),
    ] {
        if place != l2 {
            set.add(format!("L2 in {name}"), Overlap, base.clone(), |p| {
                p.u64(p.l1(), place | COPIED);
            });
            // The guest's bytes are no L2 table, which shows first.
            set.or(ErrorKind::BadTable);
        }
        if place != data {
            set.add(format!("cluster in {name}"), Overlap, base.clone(), |p| {
                p.u64(p.l2(0), place | COPIED);
            });
            set.add(
                format!("unmarked cluster in {name}"),
                Overlap,
                base.clone(),
                |p| {
                    p.u64(p.l2(0), place);
                },
            );
            set.add(
                format!("zero cluster in {name}"),
                Overlap,
                base.clone(),
                |p| {
                    p.u64(p.l2(0), place | COPIED | 1);
                },
            );
            set.add(format!("stream in {name}"), Overlap, base.clone(), |p| {
                p.u64(p.l2(0), (place + 100) | COMPRESSED);
            });
        }
        if place != block {
            set.add(
                format!("refcount block in {name}"),
                Overlap,
                base.clone(),
                |p| {
                    p.u64(p.reftable(), place);
                },
            );
        }
        set.add(
            format!("second refcount block in {name}"),
            Overlap,
            base.clone(),
            |p| {
                p.u64(p.reftable() + 8, place);
            },
        );
    }
    set.add("a cluster mapped twice", Overlap, base.clone(), |p| {
        p.u64(p.l2(0) + 8 * 300, data);
    });
    set.add(
        "a cluster mapped by two tables",
        Overlap,
        base.clone(),
        |p| {
            p.u64(p.l2(1) + 8 * 300, data);
        },
    );
    set.add(
        "an L2 table for every L1 entry",
        Overlap,
        base.clone(),
        |p| {
            for index in 0..4 {
                p.u64(p.l1() + index * 8, l2);
            }
        },
    );
    set.add("a stream in the header", Overlap, version_2(), |p| {
        p.u64(p.l2(1), 200 | COMPRESSED);
    });
    set.add("a stream in a plain cluster", Overlap, version_2(), |p| {
        let plain = p.get(p.l2(0)) & !COPIED;
        p.u64(p.l2(1), (plain + 7) | COMPRESSED);
    });
    set.add(
        "a stream that reaches into a table",
        Overlap,
        version_2(),
        |p| {
            let tables = p.l2(0).min(p.l2(1)) as u64;
            p.u64(p.l2(1), (tables - 8) | 1 << 58 | COMPRESSED);
        },
    );
}

fn snapshots(set: &mut Set) {
    use ErrorKind::{BadTable, OutsideFile, Overlap, TooLarge, Truncated};
    let base = snapshot();
    let table = base.get(field::SNAPSHOTS_OFFSET) as usize;
    let (l1, len) = (base.l1() as u64, base.bytes.len() as u64);
    set.add("snapshots outside", OutsideFile, base.clone(), |p| {
        p.u64(field::SNAPSHOTS_OFFSET, 1 << 40);
    });
    set.add("snapshots in the L1", TooLarge, base.clone(), |p| {
        p.u64(field::SNAPSHOTS_OFFSET, l1);
    });
    set.add("snapshots in the header", BadTable, base.clone(), |p| {
        p.u64(field::SNAPSHOTS_OFFSET, 0);
    });
    set.add(
        "more snapshots than there are",
        Truncated,
        base.clone(),
        |p| {
            p.u32(field::SNAPSHOTS, 60000);
        },
    );
    set.add("extra data of 1025 bytes", TooLarge, base.clone(), |p| {
        p.u32(table + 36, 1025);
    });
    set.add("extra data without end", TooLarge, base.clone(), |p| {
        p.u32(table + 36, u32::MAX);
    });
    set.add("a name past the end", Truncated, base.clone(), |p| {
        p.put(table + 14, &[0xff, 0xff]);
    });
    set.add("a snapshot's L1 without end", TooLarge, base.clone(), |p| {
        p.u32(table + 8, u32::MAX);
    });
    set.add(
        "a snapshot's L1 past the end",
        Truncated,
        base.clone(),
        |p| {
            p.u32(table + 8, 4_000_000);
        },
    );
    set.add("a snapshot's L1 outside", OutsideFile, base.clone(), |p| {
        p.u64(table, len + (1 << 30));
    });
    set.add(
        "a snapshot's L1 off its alignment",
        BadTable,
        base.clone(),
        |p| {
            p.u64(table, 512);
        },
    );
    set.add(
        "a snapshot's L1 is the active one",
        Overlap,
        base.clone(),
        |p| {
            p.u64(table, l1);
        },
    );
    set.add("a snapshot's L1 is its table", Overlap, base, |p| {
        p.u64(table, table as u64);
    });
}

fn bitmap_directories(set: &mut Set) {
    use ErrorKind::{BadHeader, BadTable, OutsideFile, Overlap, TooLarge, Truncated};
    let base = bitmaps();
    let extension = field::EXTENSIONS + 8;
    let directory = base.get(extension + 16) as usize;
    let (table, l1) = (base.get(directory) as usize, base.l1() as u64);
    set.add("no bitmaps", BadHeader, base.clone(), |p| {
        p.u32(extension, 0);
    });
    set.add("65536 bitmaps", TooLarge, base.clone(), |p| {
        p.u32(extension, 65536);
    });
    set.add("reserved field of bitmaps", BadHeader, base.clone(), |p| {
        p.u32(extension + 4, 1);
    });
    for len in [0, 31, 33, 64 << 20] {
        let kind = match len {
            0 => BadHeader,
            31 | 33 => Truncated,
            _ => TooLarge,
        };
        let kind = if len == 33 { Truncated } else { kind };
        set.add(
            format!("bitmap directory of {len} bytes"),
            kind,
            base.clone(),
            |p| {
                p.u64(extension + 8, len);
            },
        );
    }
    set.add("bitmap directory with room", BadTable, base.clone(), |p| {
        p.u64(extension + 8, 72);
    });
    set.add("bitmap directory outside", OutsideFile, base.clone(), |p| {
        p.u64(extension + 16, 1 << 40);
    });
    set.add(
        "bitmap directory at the end of numbers",
        BadHeader,
        base.clone(),
        |p| {
            p.u64(extension + 16, u64::MAX - 4095 + 4080);
        },
    );
    set.add(
        "bitmap directory off its alignment",
        BadTable,
        base.clone(),
        |p| {
            p.u64(extension + 16, directory as u64 + 8);
        },
    );
    set.add("bitmap directory in the L1", Overlap, base.clone(), |p| {
        p.u64(extension + 16, l1);
    });
    for (name, at, value) in [
        ("table at zero", 0, 0_u64),
        ("table off its alignment", 0, 513),
        ("reserved flags", 8, 1 << 32 | 4),
        ("no table", 8, 2),
        ("too many clusters", 8, 2 << 32 | 2),
        ("unknown kind", 16, 0x0210_0003_0000_0000),
        ("fine granularity", 16, 0x0108_0003_0000_0000),
        ("coarse granularity", 16, 0x0120_0003_0000_0000),
        ("a long name", 16, 0x0110_0400_0000_0000),
        ("extra data", 16, 0x0110_0003_0000_0008),
    ] {
        set.add(format!("bitmap with {name}"), BadTable, base.clone(), |p| {
            p.u64(directory + at, value);
        });
    }
    set.add("bitmap table outside", OutsideFile, base.clone(), |p| {
        p.u64(directory, 1 << 40);
    });
    set.add("bitmap table in the L1", Overlap, base.clone(), |p| {
        p.u64(directory, l1);
    });
    for (name, kind, entry) in [
        ("reserved bit 1", BadTable, 2),
        ("reserved bit 56", BadTable, 1 << 56),
        ("ones and a place", BadTable, table as u64 | 1),
        ("a place off its alignment", BadTable, 512),
        ("a place outside", OutsideFile, 1 << 40),
        ("a place in the L1", Overlap, l1),
    ] {
        set.add(
            format!("bitmap table with {name}"),
            kind,
            base.clone(),
            |p| {
                p.u64(table, entry);
            },
        );
    }
}

/// Compressed clusters that are not.
fn streams(set: &mut Set) {
    use ErrorKind::BadCluster;
    for (name, method) in [("zlib", Compression::Zlib), ("zstd", Compression::Zstd)] {
        let base = compressed(method);
        let entry = base.get(base.l2(0));
        let start = (entry & 0xff_ffff) as usize;
        set.add(format!("{name} garbage"), BadCluster, base.clone(), |p| {
            p.put(start, &[0xff; 16]);
        });
        set.add(format!("{name} zeros"), BadCluster, base.clone(), |p| {
            p.put(start, &[0; 64]);
        });
        set.add(
            format!("{name} from its second byte"),
            BadCluster,
            base.clone(),
            |p| {
                p.u64(p.l2(0), entry + 1);
            },
        );
        let half = vec![5; CLUSTER / 2];
        let mut short = ImageBuilder::new(1 << 20)
            .cluster_bits(11)
            .compression(method);
        short.write(0, &half, Stored::Compressed);
        let short = Patient::new(&short);
        let stream = (short.get(short.l2(0)) & 0xff_ffff) as usize;
        let stream = short.bytes[stream..stream + 40].to_vec();
        set.add(
            format!("{name} of half a cluster"),
            BadCluster,
            base.clone(),
            |p| {
                p.put(start, &stream);
            },
        );
    }
}

/// The same image, cut.
fn cuts(set: &mut Set) {
    for (name, base) in [
        ("plain", plain()),
        ("v2", version_2()),
        ("zlib", compressed(Compression::Zlib)),
        ("zstd", compressed(Compression::Zstd)),
        ("subclusters", subclusters()),
        ("snapshot", snapshot()),
        ("bitmaps", bitmaps()),
    ] {
        let len = base.bytes.len();
        for cut in [
            3,
            71,
            100,
            103,
            111,
            600,
            CLUSTER - 1,
            CLUSTER,
            CLUSTER + 8,
            len / 4,
            len / 2,
            len * 3 / 4,
            len * 9 / 10,
            len - CLUSTER,
            len - CLUSTER + 1,
        ] {
            let mut bytes = base.bytes.clone();
            bytes.truncate(cut);
            let name = format!("{name} cut at {cut}");
            set.bytes(name, ErrorKind::Truncated, ImageType::Qcow2, bytes);
            // What the cut leaves of the tables points to where the file was.
            set.or(ErrorKind::OutsideFile);
        }
    }
    set.bytes(
        "empty qcow2",
        ErrorKind::Truncated,
        ImageType::Qcow2,
        Vec::new(),
    );
    set.bytes(
        "empty raw",
        ErrorKind::Truncated,
        ImageType::Raw,
        Vec::new(),
    );
}

/// Images of other formats that are declared raw or qcow2.
fn other_formats(set: &mut Set) {
    let magics: &[(&str, usize, &[u8])] = &[
        ("qcow", 0, b"QFI\xfb\0\0\0\x01"),
        ("qcow2", 0, b"QFI\xfb\0\0\0\x03"),
        ("QED", 0, b"QED\0"),
        ("VMDK", 0, b"KDMV\x01\0\0\0"),
        ("ESX VMDK", 0, b"COWD\x01\0\0\0"),
        (
            "VMDK text",
            0,
            b"# Disk DescriptorFile\nversion=1\nRW 1 FLAT \"/etc/passwd\" 0\n",
        ),
        (
            "VMDK text with comments",
            0,
            b"#\n#x\n \nversion=1\nRW 1 FLAT \"/etc/passwd\" 0\n",
        ),
        (
            "VMDK text, DOS lines",
            0,
            b"# Disk DescriptorFile\r\nversion=1\r\n",
        ),
        ("VHD", 0, b"conectix\0\0\0\x02\0\x01\0\0"),
        ("VHDX", 0, b"vhdxfile"),
        ("VDI", 0x40, b"\x7f\x10\xda\xbe\x01\0\x01\0"),
        ("LUKS", 0, b"LUKS\xba\xbe\0\x01"),
        ("LUKS2", 0, b"LUKS\xba\xbe\0\x02"),
        ("Parallels", 0, b"WithoutFreeSpace\x02\0\0\0"),
        ("Parallels ext", 0, b"WithouFreSpacExt\x02\0\0\0"),
        ("Bochs", 0, b"Bochs Virtual HD Image\0"),
        (
            "cloop",
            0,
            b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0",
        ),
        ("tar", 257, b"ustar\x0000"),
        ("GNU tar", 257, b"ustar  \0"),
        ("ZIP", 0, b"PK\x03\x04\x14\0"),
        ("7-Zip", 0, b"7z\xbc\xaf\x27\x1c\0\x04"),
        ("LZ4", 0, b"\x04\x22\x4d\x18"),
    ];
    for (name, offset, magic) in magics {
        let mut bytes = vec![0; 64 << 10];
        bytes[*offset..offset + magic.len()].copy_from_slice(magic);
        set.bytes(
            format!("{name} as raw"),
            ErrorKind::OtherFormat,
            ImageType::Raw,
            bytes.clone(),
        );
        if !magic.starts_with(b"QFI\xfb\0\0\0\x03") {
            set.bytes(
                format!("{name} as qcow2"),
                ErrorKind::NotThisFormat,
                ImageType::Qcow2,
                bytes,
            );
        }
    }
    for (name, trailer) in [("fixed VHD", b"conectix"), ("DMG", b"koly\0\0\0\x04")] {
        let mut bytes = vec![7; 64 << 10];
        let at = bytes.len() - 512;
        bytes[at..at + 8].copy_from_slice(trailer);
        set.bytes(
            format!("{name} as raw"),
            ErrorKind::OtherFormat,
            ImageType::Raw,
            bytes,
        );
    }
    let whole = plain().bytes;
    set.bytes(
        "a whole qcow2 as raw",
        ErrorKind::OtherFormat,
        ImageType::Raw,
        whole,
    );
    let disk = vec![0; 1 << 20];
    set.bytes(
        "a disk of zeros as qcow2",
        ErrorKind::NotThisFormat,
        ImageType::Qcow2,
        disk,
    );
}

/// Raw images in streams that are damaged or hold something else.
fn raw_streams(set: &mut Set) {
    use ErrorKind::{BadStream, OtherFormat, Truncated};
    let disk: Vec<u8> = (0..200_000_usize).map(|at| (at / 300) as u8).collect();
    for (name, pack) in PACKERS {
        let packed = pack(&disk);
        let raw = ImageType::Raw;
        for cut in [
            1,
            2,
            5,
            packed.len() / 2,
            packed.len() - 9,
            packed.len() - 1,
        ] {
            let bytes = packed[..cut].to_vec();
            set.bytes(format!("{name} cut at {cut}"), Truncated, raw, bytes);
        }
        let mut bytes = packed.clone();
        bytes.extend_from_slice(b"something else entirely");
        set.bytes(format!("{name} with a tail"), BadStream, raw, bytes);
        let mut bytes = packed.clone();
        bytes.extend_from_slice(&packed[..packed.len() / 2]);
        set.bytes(
            format!("{name} with half a member more"),
            Truncated,
            raw,
            bytes,
        );
        let middle = packed.len() / 2;
        let mut bytes = packed.clone();
        for byte in &mut bytes[middle..middle + 8] {
            *byte ^= 0xff;
        }
        set.bytes(format!("{name} damaged"), BadStream, raw, bytes);
        set.bytes(format!("{name} of nothing"), Truncated, raw, pack(&[]));
        set.bytes(
            format!("{name} of qcow2"),
            OtherFormat,
            raw,
            pack(&plain().bytes),
        );
        let mut vhd = disk.clone();
        vhd[200_000 - 512..][..8].copy_from_slice(b"conectix");
        set.bytes(
            format!("{name} of a fixed VHD"),
            OtherFormat,
            raw,
            pack(&vhd),
        );
        set.bytes(
            format!("{name} of a stream"),
            OtherFormat,
            raw,
            pack(&packed),
        );
        set.bytes(format!("{name} of a VMDK"), OtherFormat, raw, pack(b"KDMV"));
        set.bytes(
            format!("{name} as qcow2"),
            ErrorKind::NotThisFormat,
            ImageType::Qcow2,
            packed,
        );
    }
}

pub(crate) type Packer = fn(&[u8]) -> Vec<u8>;

/// The four codecs, by their libraries.
pub(crate) const PACKERS: &[(&str, Packer)] =
    &[("gzip", gzip), ("xz", xz), ("zstd", zstd), ("bzip2", bzip2)];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let mut out = vec![0; compressor.gzip_compress_bound(bytes.len())];
    let len = compressor.gzip_compress(bytes, &mut out).unwrap();
    out.truncate(len);
    out
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut context = zstd_safe::CCtx::create();
    context
        .set_parameter(zstd_safe::CParameter::ChecksumFlag(true))
        .unwrap();
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
    context.compress2(&mut out, bytes).unwrap();
    out
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
