//! Images with more than one layer, with bitmaps, or of another size than at first, as QEMU writes them.

use crate::parser_support::{Lab, qemu};

#[test]
fn the_active_layer_of_an_image_with_snapshots_is_read() {
    if !qemu() {
        return;
    }
    for options in [
        "cluster_size=65536",
        "cluster_size=512,compat=0.10",
        "cluster_size=16384,extended_l2=on",
    ] {
        let lab = Lab::create(options, "8M");
        lab.io(&["write -P 1 0 4M"]);
        lab.img(&["snapshot", "-q", "-c", "one"]);
        lab.compare(&format!("{options}, one snapshot"));
        lab.io(&["write -P 2 1M 2M", "write -z 3M 1M", "discard 0 512k"]);
        lab.img(&["snapshot", "-q", "-c", "two"]);
        lab.io(&["write -P 3 2M 5M"]);
        lab.compare(&format!("{options}, two snapshots"));
        lab.img(&["snapshot", "-q", "-a", "one"]);
        lab.compare(&format!("{options}, reverted"));
        lab.io(&["write -P 4 0 100k"]);
        lab.img(&["snapshot", "-q", "-d", "one"]);
        lab.compare(&format!("{options}, the first deleted"));
        if !options.contains("0.10") {
            lab.resize(&[], "20M");
            lab.compare(&format!("{options}, grown with a snapshot"));
        }
        lab.img(&["snapshot", "-q", "-d", "two"]);
        lab.compare(&format!("{options}, both deleted"));
    }
}

#[test]
fn images_with_bitmaps_read_as_qemu_reads_them() {
    if !qemu() {
        return;
    }
    for (cluster, size) in [
        (65536, "64M"),
        (512, "8M"),
        (4096, "8389120"),
        (2 << 20, "100M"),
    ] {
        let options = format!("cluster_size={cluster}");
        let lab = Lab::create(&options, size);
        lab.bitmap(&["--add", "-g", "4096"], "fine");
        lab.bitmap(&["--add"], "coarse");
        lab.compare(&format!("{options}, empty bitmaps"));
        lab.io(&["write -P 1 1M 2M", "write -P 1 7M 100k"]);
        lab.compare(&format!("{options}, bitmaps in use"));
        lab.bitmap(&["--disable"], "fine");
        lab.compare(&format!("{options}, one disabled"));
        lab.resize(&[], "300M");
        lab.compare(&format!("{options}, grown"));
        lab.bitmap(&["--remove"], "coarse");
        lab.bitmap(&["--remove"], "fine");
        lab.compare(&format!("{options}, removed"));
    }
}

#[test]
fn resized_images_read_as_qemu_reads_them() {
    if !qemu() {
        return;
    }
    for cluster in [512, 4096, 65536, 2 << 20] {
        for compat in ["0.10", "1.1"] {
            let options = format!("cluster_size={cluster},compat={compat}");
            let lab = Lab::create(&options, "4M");
            lab.io(&["write -P 3 1M 3M"]);
            lab.resize(&[], "90M");
            lab.compare(&format!("{options}, grown"));
            lab.io(&["write -P 4 80M 1M", "write -P 5 89M 1M"]);
            lab.compare(&format!("{options}, grown and written"));
            lab.resize(&["--shrink"], "85M");
            lab.compare(&format!("{options}, shrunk"));
            lab.resize(&["--shrink"], "2000k");
            lab.compare(&format!("{options}, shrunk to an odd size"));
            lab.resize(&["--preallocation=metadata"], "3M");
            lab.compare(&format!("{options}, grown with metadata"));
            lab.resize(&["--preallocation=falloc"], "5M");
            lab.compare(&format!("{options}, grown with falloc"));
            lab.io(&["write -P 6 2500k 2500k"]);
            lab.compare(&format!("{options}, grown and written again"));
        }
    }
}
