//! An image that was cut anywhere is refused.

use lvp_image::format::ImageType;

use crate::parser_support::{Lab, qemu, verdict};

#[test]
fn explore() {
    if !qemu() {
        return;
    }
    for (name, lab) in labs() {
        let bytes = lab.bytes();
        lab.compare(name);
        let mut accepted = Vec::new();
        let step = 512.max(bytes.len() / 4000 / 512 * 512);
        for cut in (0..bytes.len())
            .step_by(step)
            .chain([bytes.len() - 1, bytes.len() - 2])
        {
            if verdict(&bytes[..cut], ImageType::Qcow2).is_none() {
                accepted.push(cut);
            }
        }
        eprintln!(
            "{name}: {} bytes, accepted {:x?}",
            bytes.len(),
            &accepted[..accepted.len().min(20)]
        );
    }
}

fn labs() -> Vec<(&'static str, Lab)> {
    let mut labs = Vec::new();
    let lab = Lab::create("cluster_size=65536", "1M");
    labs.push(("empty", lab));
    let lab = Lab::create("cluster_size=4096", "1M");
    lab.io(&["write -P 1 10k 100k"]);
    labs.push(("plain", lab));
    let lab = Lab::create("cluster_size=65536", "1000k");
    lab.io(&["write -P 1 990k 10k"]);
    labs.push(("odd tail", lab));
    let lab = Lab::create("cluster_size=65536,extended_l2=on", "1000k");
    lab.io(&["write -P 1 90k 3k"]);
    labs.push(("subclusters", lab));
    for m in ["zlib", "zstd"] {
        let from = Lab::create("cluster_size=65536", "1M");
        from.io(&["write -P 1 10k 400k"]);
        let lab = Lab::converted(&from, &["-c", "-o", &format!("compression_type={m}")]);
        labs.push(("compressed", lab));
    }
    for m in ["metadata", "falloc", "full"] {
        labs.push((
            "prealloc",
            Lab::create(&format!("preallocation={m},cluster_size=4096"), "1M"),
        ));
    }
    let lab = Lab::create("cluster_size=4096", "1M");
    lab.io(&["write -P 1 10k 100k"]);
    lab.img(&["snapshot", "-q", "-c", "one"]);
    labs.push(("snapshot", lab));
    let lab = Lab::create("cluster_size=4096", "1M");
    lab.io(&["write -P 1 10k 100k"]);
    lab.img(&["snapshot", "-q", "-c", "one"]);
    lab.io(&["write -P 1 10k 100k"]);
    lab.img(&["snapshot", "-q", "-c", "two"]);
    lab.img(&["snapshot", "-q", "-a", "one"]);
    labs.push(("snapshot reverted", lab));
    let lab = Lab::create("cluster_size=4096", "1M");
    lab.bitmap(&["--add", "-g", "4096"], "fine");
    labs.push(("bitmap", lab));
    let lab = Lab::create("cluster_size=4096", "1M");
    lab.bitmap(&["--add", "-g", "4096"], "fine");
    lab.io(&["write -P 1 10k 100k"]);
    labs.push(("bitmap used", lab));
    let lab = Lab::create("cluster_size=4096", "1M");
    lab.io(&[
        "write -P 1 10k 100k",
        "write -z 10k 4k",
        "write -z -u 18k 20k",
        "discard 50k 30k",
    ]);
    labs.push(("zeroed", lab));
    let lab = Lab::create("cluster_size=4096", "1M");
    lab.io(&["write -P 1 10k 100k", "write -z 10k 100k"]);
    labs.push(("all zeroed", lab));
    let lab = Lab::create("cluster_size=512", "4M");
    lab.io(&["write -P 1 0 3M"]);
    labs.push(("512", lab));
    let lab = Lab::create("cluster_size=2M", "4M");
    lab.io(&["write -P 1 0 100k"]);
    labs.push(("2M", lab));
    labs
}
