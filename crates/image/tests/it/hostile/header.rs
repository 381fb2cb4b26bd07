//! The header and its features, damaged.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests know how large their numbers are"
)]

use lvp_image::ErrorKind;

use super::{CLUSTER, COVERAGE, Set, field, plain, snapshot, version_2};

pub(super) fn header(set: &mut Set) {
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

pub(super) fn features(set: &mut Set) {
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
            format!("{name} with a far backing file"),
            BackingFile,
            base.clone(),
            |p| {
                p.u64(field::BACKING_OFFSET, u64::MAX)
                    .u32(field::BACKING_SIZE, 1);
            },
        );
        for (offset, len) in [(1024, 1024), (1024, u32::MAX), (4090, 7), (4096, 1)] {
            set.add(
                format!("{name} with a name of {len} bytes at {offset}"),
                BackingFile,
                base.clone(),
                |p| {
                    p.u64(field::BACKING_OFFSET, offset)
                        .u32(field::BACKING_SIZE, len);
                },
            );
        }
        for offset in [4097, 1 << 40, u64::MAX] {
            set.add(
                format!("{name} with an empty name at {offset:#x}"),
                BadHeader,
                base.clone(),
                |p| {
                    p.u64(field::BACKING_OFFSET, offset);
                },
            );
        }
        set.add(
            format!("{name} with an extension in the way of an empty name"),
            BadHeader,
            base.clone(),
            |p| {
                let start = p.header_length();
                p.u32(start, 0x1234_5678).u32(start + 4, 100);
                p.u64(field::BACKING_OFFSET, start as u64 + 8 + 99);
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
