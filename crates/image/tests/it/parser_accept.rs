//! Sound images of every kind that QEMU writes read as QEMU reads them.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests know how large their numbers are"
)]

use lvp_image::ErrorKind;
use lvp_image::format::ImageType;

use crate::parser_support::{Lab, qemu, read_file, run};

/// Writes of many kinds, in an order that is not the guest's.
const MIXED: &[&str] = &[
    "write -P 0x11 5M 1M",
    "write -P 0x22 0 3000k",
    "write -P 0x33 9000k 512",
    "write -P 0x44 7M 65536",
    "write -z 1M 300k",
    "write -z -u 2M 200k",
    "discard 5200k 400k",
    "write -P 0x55 5300k 1k",
    "write -P 0x66 12M 3M",
    "write -P 0x77 12289k 511k",
    "discard 13M 1M",
];

#[test]
fn every_cluster_size_and_version_reads_as_qemu_reads_it() {
    if !qemu() {
        return;
    }
    for bits in 9..=21 {
        for compat in ["0.10", "1.1"] {
            let options = format!("cluster_size={},compat={compat}", 1_u64 << bits);
            let lab = Lab::create(&options, "16M");
            lab.compare(&format!("{options}, empty"));
            lab.io(MIXED);
            lab.compare(&options);
        }
    }
}

#[test]
fn compressed_clusters_read_as_qemu_reads_them() {
    if !qemu() {
        return;
    }
    for bits in [9, 12, 14, 16, 21] {
        let source = Lab::create("cluster_size=65536", "16M");
        source.io(&[
            "write -P 0x99 4M 4M",
            "write -P 1 10M 100k",
            "write -P 7 15M 1M",
        ]);
        for method in ["zlib", "zstd"] {
            for extended in ["off", "on"] {
                if extended == "on" && bits < 14 {
                    continue;
                }
                let options = format!(
                    "cluster_size={},compression_type={method},extended_l2={extended}",
                    1_u64 << bits
                );
                let lab = Lab::converted(&source, &["-c", "-o", &options]);
                lab.compare(&format!("{options}, compressed"));
                lab.io(MIXED);
                lab.compare(&format!("{options}, compressed and written"));
            }
        }
    }
}

#[test]
fn compressed_clusters_of_random_bytes_read_as_qemu_reads_them() {
    if !qemu() {
        return;
    }
    let source = Lab::new();
    let raw = source.file("noise.raw");
    std::fs::write(&raw, noise(3 << 20)).unwrap();
    for bits in [9, 12, 16, 21] {
        for method in ["zlib", "zstd"] {
            let options = format!("cluster_size={},compression_type={method}", 1_u64 << bits);
            let lab = Lab::new();
            let args = [
                "convert",
                "-c",
                "-O",
                "qcow2",
                "-o",
                &options,
                &raw,
                lab.path(),
            ];
            run("qemu-img", &args);
            lab.compare(&options);
        }
    }
}

/// Half of it compresses, half does not.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    (0..len)
        .map(|index| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            if index / 5000 % 2 == 0 {
                (state >> 56) as u8
            } else {
                (index / 700) as u8
            }
        })
        .collect()
}

#[test]
fn subclusters_read_as_qemu_reads_them() {
    if !qemu() {
        return;
    }
    for bits in 14..=21 {
        let options = format!("cluster_size={},extended_l2=on", 1_u64 << bits);
        let lab = Lab::create(&options, "16M");
        lab.io(MIXED);
        lab.compare(&options);
        let pieces: Vec<String> = (0..60)
            .map(|index| {
                let offset = (index * 2_345_678_u64) % (15 << 20) / 512 * 512;
                match index % 4 {
                    0 => format!("write -z {offset} 8k"),
                    1 => format!("discard {offset} 40k"),
                    _ => format!("write -P {index} {offset} {}", 512 + index * 512),
                }
            })
            .collect();
        lab.io(&pieces.iter().map(String::as_str).collect::<Vec<_>>());
        lab.compare(&format!("{options}, in pieces"));
    }
}

#[test]
fn every_refcount_width_and_lazy_refcounts_read_as_qemu_reads_them() {
    if !qemu() {
        return;
    }
    for bits in [1, 2, 4, 8, 16, 32, 64] {
        for lazy in ["on", "off"] {
            let options = format!("refcount_bits={bits},lazy_refcounts={lazy},cluster_size=4096");
            let lab = Lab::create(&options, "16M");
            lab.io(MIXED);
            lab.compare(&options);
        }
    }
}

#[test]
fn preallocated_images_read_as_qemu_reads_them() {
    if !qemu() {
        return;
    }
    for mode in ["metadata", "falloc", "full"] {
        for cluster in [512, 4096, 65536, 2 << 20] {
            for size in ["8M", "8389120", "512", "1536k"] {
                if mode == "full" && cluster != 65536 {
                    continue;
                }
                for more in [
                    "compat=0.10",
                    "compat=1.1",
                    "extended_l2=on",
                    "lazy_refcounts=on",
                ] {
                    if more == "extended_l2=on" && cluster < 16384 {
                        continue;
                    }
                    let options = format!("preallocation={mode},cluster_size={cluster},{more}");
                    let lab = Lab::create(&options, size);
                    lab.compare(&format!("{options}, {size}"));
                    lab.io(&["write -P 5 0 512", "write -z 0 512"]);
                    lab.compare(&format!("{options}, {size}, written"));
                }
            }
        }
    }
}

#[test]
fn odd_sizes_read_as_qemu_reads_them() {
    if !qemu() {
        return;
    }
    for size in [0_u64, 512, 1024, 65024, 65536, 66048, 1_000_448, 5_242_368] {
        for cluster in [512, 65536, 2 << 20] {
            let options = format!("cluster_size={cluster}");
            let lab = Lab::create(&options, &size.to_string());
            lab.compare(&format!("{options}, {size}, empty"));
            if size > 0 {
                lab.io(&[&format!("write -P 9 {} 512", size - 512)]);
                lab.compare(&format!("{options}, {size}, last sector"));
                let compressed = Lab::converted(&lab, &["-c", "-o", &options]);
                compressed.compare(&format!("{options}, {size}, compressed"));
                lab.io(&[&format!("write -P 8 0 {size}")]);
                lab.compare(&format!("{options}, {size}, full"));
            }
        }
    }
}

#[test]
fn images_that_convert_writes_read_as_qemu_reads_them() {
    if !qemu() {
        return;
    }
    let source = Lab::create("cluster_size=4096", "10000k");
    source.io(&[
        "write -P 1 0 100k",
        "write -P 2 3M 1M",
        "write -P 4 9999k 512",
    ]);
    for args in [
        &["-S", "0"][..],
        &["-W", "-m", "8"],
        &["-o", "preallocation=metadata"],
        &["-o", "preallocation=falloc"],
        &["-c", "-W", "-m", "8"],
        &["-c", "-o", "compression_type=zstd,cluster_size=2M"],
        &["-o", "cluster_size=512,compat=0.10"],
        &["-o", "extended_l2=on,cluster_size=2M"],
    ] {
        Lab::converted(&source, args).compare(&format!("{args:?}"));
    }
}

#[test]
fn a_sparse_image_of_a_tebibyte_takes_milliseconds_and_kilobytes() {
    use crate::parser_support::Counted;
    use lvp_image::format::ImageType;
    use lvp_image::plan::Planner;
    use lvp_image::source::FileSource;

    if !qemu() {
        return;
    }
    let lab = Lab::create("cluster_size=65536", "1T");
    lab.io(&[
        "write -P 1 0 64k",
        "write -P 2 512G 128k",
        "write -P 3 1099511562240 64k",
    ]);
    let source = Counted::new(FileSource::new(std::fs::File::open(&lab.image).unwrap()).unwrap());
    let mut planner = Planner::open(&source, ImageType::Qcow2).unwrap();
    let batch = planner.next_batch().unwrap().unwrap();
    assert!(planner.next_batch().unwrap().is_none());
    assert_eq!(batch.len(), 3);
    assert_eq!(batch.zero_ranges().count(), 2);
    assert_eq!(planner.info().allocated_bytes, 4 << 16);
    let bytes = source.bytes.load(std::sync::atomic::Ordering::Relaxed);
    let reads = source.reads.load(std::sync::atomic::Ordering::Relaxed);
    assert!(
        bytes < 600_000 && reads < 12,
        "{bytes} bytes in {reads} reads"
    );
    lab.compare("1T");
}

#[test]
fn a_dirty_image_is_read_without_repair() {
    if !qemu() {
        return;
    }
    let lab = Lab::create("lazy_refcounts=on", "16M");
    let args = [
        "-c",
        "write -P 7 1M 3M",
        "-c",
        "flush",
        "-c",
        "abort",
        lab.path(),
    ];
    let output = crate::parser_support::try_run("qemu-io", &args);
    assert!(!output.status.success());
    assert_eq!(lab.bytes()[79] & 1, 1, "the dirty bit is set");
    lab.compare("dirty");
}

#[test]
fn amended_and_flattened_images_read_as_qemu_reads_them() {
    if !qemu() {
        return;
    }
    let lab = Lab::create("cluster_size=4096", "8M");
    lab.io(&["write -P 1 1M 1M", "write -z 1M 64k"]);
    let amend = |option: &str| {
        run(
            "qemu-img",
            &["amend", "-f", "qcow2", "-o", option, lab.path()],
        );
        lab.compare(&format!("amended, {option}"));
    };
    amend("refcount_bits=64");
    amend("refcount_bits=1");
    amend("lazy_refcounts=on");
    amend("refcount_bits=16");
    amend("lazy_refcounts=off");
    amend("compat=0.10");
    amend("compat=1.1");

    let base = Lab::create("cluster_size=65536", "8M");
    base.io(&["write -P 2 0 3M"]);
    for compat in ["0.10", "1.1"] {
        let top = Lab::new();
        let options = format!("compat={compat},backing_fmt=qcow2");
        let args = [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            &options,
            "-b",
            base.path(),
            top.path(),
        ];
        run("qemu-img", &args);
        top.io(&["write -P 3 1M 1M"]);
        let refused = read_file(&top.image, ImageType::Qcow2).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::BackingFile);
        run("qemu-img", &["rebase", "-b", "", top.path()]);
        top.compare(&format!("flattened, {compat}"));
    }
}
