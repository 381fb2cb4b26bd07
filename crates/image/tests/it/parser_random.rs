//! Random operations build an image; QEMU and this crate read the same disk from it.

use proptest::prelude::*;

use crate::parser_support::{Lab, qemu};

#[derive(Debug, Clone)]
enum Op {
    Write { at: u64, len: u64, byte: u8 },
    Zero { at: u64, len: u64, unmap: bool },
    Discard { at: u64, len: u64 },
    Compress { at: u64, byte: u8 },
    Snapshot,
    Revert,
    Forget,
    Grow { by: u64 },
}

#[derive(Debug, Clone)]
struct Image {
    cluster_bits: u32,
    options: &'static str,
    size: u64,
}

fn image() -> impl Strategy<Value = Image> {
    let options = prop_oneof![
        Just("compat=1.1"),
        Just("compat=0.10"),
        Just("compression_type=zstd"),
        Just("extended_l2=on"),
        Just("extended_l2=on,compression_type=zstd"),
        Just("lazy_refcounts=on,refcount_bits=8"),
        Just("preallocation=metadata"),
        Just("preallocation=metadata,extended_l2=on"),
        Just("refcount_bits=64"),
    ];
    (9..=21_u32, options, 1..6000_u64).prop_map(|(cluster_bits, options, sectors)| Image {
        cluster_bits: if options.contains("extended_l2") {
            cluster_bits.max(14)
        } else {
            cluster_bits
        },
        options,
        size: sectors * 512,
    })
}

/// A random place, as fractions of the disk that it is later cut to.
fn op() -> impl Strategy<Value = Op> {
    let at = 0..3_000_000_u64;
    let len = prop_oneof![1..2000_u64, 1..200_000_u64];
    prop_oneof![
        6 => (at.clone(), len.clone(), 1..=255_u8).prop_map(|(at, len, byte)| Op::Write { at, len, byte }),
        2 => (at.clone(), len.clone(), any::<bool>()).prop_map(|(at, len, unmap)| Op::Zero { at, len, unmap }),
        2 => (at.clone(), len).prop_map(|(at, len)| Op::Discard { at, len }),
        3 => (at, 1..=255_u8).prop_map(|(at, byte)| Op::Compress { at, byte }),
        1 => Just(Op::Snapshot),
        1 => Just(Op::Revert),
        1 => Just(Op::Forget),
        1 => (1..4000_u64).prop_map(|sectors| Op::Grow { by: sectors * 512 }),
    ]
}

/// Runs what was collected, in one process.
fn flush(lab: &Lab, commands: &mut Vec<String>) {
    if !commands.is_empty() {
        // QEMU does not compress over a cluster that is in use; that fails and changes nothing.
        let output = lab.io_that_may_fail(&commands.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(!output.contains("No such file"), "{output}");
        commands.clear();
    }
}

fn build(image: &Image, ops: &[Op]) -> Lab {
    let cluster = 1 << image.cluster_bits;
    let options = format!("cluster_size={cluster},{}", image.options);
    let lab = Lab::create(&options, &image.size.to_string());
    let mut size = image.size;
    let mut snapshots = 0_u32;
    let mut commands = Vec::new();
    for op in ops {
        let cut = |at: u64, len: u64| {
            let at = at % size / 512 * 512;
            (at, (len.next_multiple_of(512)).min(size - at))
        };
        match *op {
            Op::Write { at, len, byte } => {
                let (at, len) = cut(at, len);
                commands.push(format!("write -P {byte} {at} {len}"));
            }
            Op::Zero { at, len, unmap } => {
                let (at, len) = cut(at, len);
                let unmap = if unmap { "-u" } else { "" };
                commands.push(format!("write -z {unmap} {at} {len}"));
            }
            Op::Discard { at, len } => {
                let (at, len) = cut(at, len);
                commands.push(format!("discard {at} {len}"));
            }
            Op::Compress { at, byte } => {
                // QEMU 10 appends to its last compressed cluster even when that has been freed
                // and taken by something else since, and damages the image; a new process forgets
                // where it was.
                if !commands.last().is_some_and(|last| last.contains("-c")) {
                    flush(&lab, &mut commands);
                }
                let at = at % size / cluster * cluster;
                let len = cluster.min(size - at);
                commands.push(format!("write -c -P {byte} {at} {len}"));
            }
            Op::Snapshot => {
                flush(&lab, &mut commands);
                snapshots += 1;
                lab.img(&["snapshot", "-q", "-c", &format!("s{snapshots}")]);
            }
            Op::Revert if snapshots > 0 && size == image.size => {
                flush(&lab, &mut commands);
                lab.img(&["snapshot", "-q", "-a", &format!("s{snapshots}")]);
            }
            Op::Forget if snapshots > 0 => {
                flush(&lab, &mut commands);
                lab.img(&["snapshot", "-q", "-d", &format!("s{snapshots}")]);
                snapshots -= 1;
            }
            Op::Grow { by } if snapshots == 0 => {
                flush(&lab, &mut commands);
                size += by;
                lab.resize(&[], &size.to_string());
            }
            Op::Revert | Op::Forget | Op::Grow { .. } => {}
        }
    }
    flush(&lab, &mut commands);
    lab
}

/// Some more writes, after which QEMU dies without flushing or closing anything. No discards: what
/// they free is gone before the tables say so.
fn crash(lab: &Lab, ops: &[Op], size: u64) {
    let mut commands = Vec::new();
    for op in ops {
        let at = |at: u64| at % size / 512 * 512;
        match *op {
            Op::Write { at: to, len, byte } => {
                let len = len.next_multiple_of(512).min(size - at(to));
                commands.push(format!("write -P {byte} {} {len}", at(to)));
            }
            Op::Snapshot => commands.push("flush".to_owned()),
            _ => {}
        }
    }
    commands.push("abort".to_owned());
    lab.io_that_may_fail(&commands.iter().map(String::as_str).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(32),
        max_shrink_iters: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn an_image_of_random_operations_reads_as_qemu_reads_it(
        image in image(),
        ops in prop::collection::vec(op(), 1..40),
    ) {
        if !qemu() {
            return Ok(());
        }
        build(&image, &ops).compare(&format!("{image:?}"));
    }

    #[test]
    fn an_image_that_a_crash_left_reads_as_qemu_reads_it(
        image in image(),
        ops in prop::collection::vec(op(), 1..10),
        last in prop::collection::vec(op(), 1..20),
    ) {
        if !qemu() {
            return Ok(());
        }
        let lab = build(&image, &ops);
        crash(&lab, &last, image.size);
        lab.compare(&format!("{image:?}"));
    }
}
