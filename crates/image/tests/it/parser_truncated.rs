//! An image that was cut anywhere is refused, unless the guest cannot see what is missing.

use lvp_image::format::ImageType;

use crate::parser_support::{Lab, qemu, read};

/// Cuts the image in every sector and next to its end.
#[track_caller]
fn check(name: &str, lab: &Lab, may_lose: usize) {
    let bytes = lab.bytes();
    let whole = read(bytes.as_slice(), ImageType::Qcow2).unwrap();
    let step = 512.max(bytes.len() / 600 / 512 * 512);
    let near_end = bytes.len().saturating_sub(20)..bytes.len();
    for cut in (0..bytes.len()).step_by(step).chain(near_end) {
        let Ok(disk) = read(&bytes[..cut], ImageType::Qcow2) else {
            continue;
        };
        let lost = bytes.len() - cut;
        assert!(lost <= may_lose, "{name}: accepted without {lost} bytes");
        disk.assert_same(&whole, name);
    }
}

#[test]
fn an_image_that_was_cut_anywhere_is_refused() {
    if !qemu() {
        return;
    }
    for (cluster, more) in [
        (65536, "compat=1.1"),
        (512, "compat=1.1"),
        (4096, "compat=0.10"),
        (16384, "extended_l2=on"),
        (2 << 20, "compat=1.1"),
        (4096, "preallocation=metadata"),
        (4096, "preallocation=full"),
    ] {
        let options = &format!("cluster_size={cluster},{more}");
        // Whole clusters: bytes after the end of the disk are not needed.
        let lab = Lab::create(options, if cluster > 1 << 20 { "4M" } else { "1M" });
        check(&format!("{options}, empty"), &lab, 0);
        lab.io(&["write -P 1 10k 100k", "write -z 40k 8k", "discard 60k 10k"]);
        check(options, &lab, 0);
        lab.img(&["snapshot", "-q", "-c", "one"]);
        check(&format!("{options}, snapshot"), &lab, 0);
        lab.io(&["write -P 2 30k 600k"]);
        check(&format!("{options}, snapshot and written"), &lab, 0);
        lab.img(&["snapshot", "-q", "-c", "two"]);
        lab.img(&["snapshot", "-q", "-a", "one"]);
        // The last cluster now holds data of the second snapshot alone: that the file has some of
        // that cluster is all that its refcount asks for.
        check(&format!("{options}, reverted"), &lab, cluster - 1);
    }
    let lab = Lab::create("cluster_size=4096", "1M");
    lab.bitmap(&["--add", "-g", "4096"], "fine");
    check("bitmap", &lab, 0);
    lab.io(&["write -P 1 10k 100k"]);
    check("bitmap with bits", &lab, 0);
}

#[test]
fn what_follows_a_stream_or_the_disk_s_end_may_be_missing() {
    if !qemu() {
        return;
    }
    let from = Lab::create("cluster_size=65536", "1000k");
    from.io(&["write -P 1 990k 10k"]);
    // The last cluster's 24 KiB beyond the disk's end.
    check("the disk's end", &from, 24 << 10);
    from.io(&["write -P 2 10k 400k"]);
    for method in ["zlib", "zstd"] {
        let option = format!("compression_type={method}");
        let lab = Lab::converted(&from, &["-c", "-o", &option]);
        // qemu-img fills the last sector up with zeros.
        check(method, &lab, 511);
    }
}
