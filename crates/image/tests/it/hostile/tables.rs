//! L1, L2 and refcount tables, damaged.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests know how large their numbers are"
)]

use lvp_image::ErrorKind;

use super::{CLUSTER, COMPRESSED, COPIED, Set, field, plain, subclusters, version_2};

/// Tables and clusters outside the file or off their alignment.
pub(super) fn places(set: &mut Set) {
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
                p.u64(p.l2(0), ((offset << 3) % (1 << 55)) | COPIED | (1 << 54));
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
pub(super) fn entries(set: &mut Set) {
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

/// Parts of an image that overlap others, which is how loops are made.
pub(super) fn overlaps(set: &mut Set) {
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
    set.add("a stream for two clusters", Overlap, version_2(), |p| {
        p.u64(p.l2(1) + 8 * 300, p.get(p.l2(1)));
    });
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
