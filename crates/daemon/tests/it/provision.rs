//! The main purpose: an image in S3 is verified and written to a volume.

use std::fs;

use lvp_api::JobState;
use lvp_testkit::require::{command, require};
use serde_json::json;

use crate::support::{MIB, World, accepted, completed, ended, holds, image, qemu_disk};

#[tokio::test]
async fn an_image_is_provisioned_on_a_miss_and_again_on_a_hit() {
    let world = World::new().await;
    let builder = image(256 * MIB, 300, 1);
    let url = world.put("debian.qcow2", &builder.build());
    let daemon = world.start();
    for (volume, hit) in [("vm-1", false), ("vm-2", true)] {
        let job = accepted(&daemon, &url, volume, 300 * MIB).await;
        let status = daemon.ended(&job).await.expect("it ends");
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        assert_eq!(status.cache_hit, Some(hit));
        let progress = status.progress.expect("a completed job has progress");
        assert_eq!((progress.percent, progress.overall_percent), (100.0, 100.0));
        assert!(
            holds(&world.home.volume(volume), &builder.disk()),
            "{volume} is wrong"
        );
        let cached = status.image_path.expect("the image is cached");
        assert_eq!(fs::read(cached).expect("it is there"), builder.build());
    }
    let traffic = world.s3.traffic().object("images/debian.qcow2");
    let size = builder.build().len() as u64;
    assert!(
        // The first answer's connection is ended while the server sends.
        traffic.sent_bytes < size + size / 4 + 12 * MIB,
        "read more than once: {traffic:?}"
    );
}

#[tokio::test]
async fn every_kind_of_qemu_image_is_written_as_qemu_img_reads_it() {
    if !require("qemu-img") || !require("qemu-io") {
        return;
    }
    let world = World::new().await;
    let daemon = world.start();
    for (index, options) in [
        &["-o", "compat=0.10"][..],
        &["-c"],
        &["-c", "-o", "compression_type=zstd"],
        &["-o", "cluster_size=4k"],
        &["-c", "-o", "cluster_size=1M"],
        &["-o", "cluster_size=2M,extended_l2=on"],
        &["-o", "preallocation=metadata"],
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("image-{index}.qcow2");
        let file = world.home.path().join(&key);
        qemu_image(&world, &file, options);
        let url = world.put(&key, &fs::read(&file).expect("the image is there"));
        let volume = format!("vm-{index}");
        let status = ended(&daemon, &url, &volume, 3 << 30).await;
        assert_eq!(
            status.status,
            JobState::Completed,
            "{options:?}: {status:?}"
        );
        let mut volume = fs::File::open(world.home.volume(&volume)).expect("the volume is there");
        let disk = qemu_disk(&file);
        assert!(
            same_head(&mut volume, &disk),
            "{options:?}: the volume is wrong"
        );
    }
}

/// A disk of a few hundred MiB with scattered data, as qemu-img writes it with these options.
fn qemu_image(world: &World, file: &std::path::Path, options: &[&str]) {
    let raw = world.home.path().join("disk.raw");
    let mut arguments = vec!["-f".to_owned(), "raw".to_owned()];
    for index in 0..24_u64 {
        // Written in an order that is not the disk's.
        let offset = (index * 7 % 24) * 12 * MIB + index * 512;
        arguments.extend([
            "-c".to_owned(),
            format!("write -P {} {offset} {}", index + 1, 300 << 10),
        ]);
    }
    let raw_text = raw.display().to_string();
    run(
        "qemu-img",
        &["create", "-q", "-f", "raw", &raw_text, "301M"],
    );
    arguments.push(raw_text.clone());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run("qemu-io", &arguments);
    let file = file.display().to_string();
    let convert = [
        &["convert", "-f", "raw", "-O", "qcow2"],
        options,
        &[&raw_text, &file],
    ]
    .concat();
    run("qemu-img", &convert);
}

fn run(program: &str, arguments: &[&str]) {
    let output = command(program)
        .args(arguments)
        .output()
        .expect("the program starts");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
}

fn same_head(volume: &mut fs::File, disk: &[u8]) -> bool {
    use std::io::Read as _;
    let mut block = vec![0; 1 << 20];
    disk.chunks(block.len()).all(|expected| {
        let found = &mut block[..expected.len()];
        volume.read_exact(found).is_ok() && found == expected
    })
}

#[tokio::test]
async fn a_raw_image_is_provisioned_and_so_is_one_in_a_compressed_stream() {
    let world = World::new().await;
    let daemon = world.start();
    let disk = image(64 * MIB, 40, 3).disk();
    world.put("disk.raw", &disk);
    let raw = world.s3.objects().path("images", "disk.raw");
    for (key, program) in [
        ("disk.raw", None),
        ("disk.raw.gz", Some("gzip")),
        ("disk.raw.xz", Some("xz")),
    ] {
        if let Some(program) = program {
            let packed = command(program)
                .args(["-1", "-c"])
                .arg(&raw)
                .output()
                .expect("it starts");
            world.put(key, &packed.stdout);
        }
        let volume = key.replace('.', "-");
        let body = json!({
            "image_url": format!("{}/images/{key}", world.s3.endpoint()), "volume_name": volume,
            "volume_size_bytes": 64 * MIB, "image_type": "raw",
        });
        let job = daemon
            .submit("/provision", body)
            .await
            .expect("it is accepted");
        let status = daemon.ended(&job).await.expect("it ends");
        assert_eq!(status.status, JobState::Completed, "{key}: {status:?}");
        assert!(
            holds(&world.home.volume(&volume), &disk),
            "{key}: the volume is wrong"
        );
    }
}

#[tokio::test]
async fn reprovisioning_rewrites_the_whole_volume() {
    let world = World::new().await;
    let (first, second) = (image(64 * MIB, 200, 5), image(32 * MIB, 10, 6));
    let urls = [
        world.put("a.qcow2", &first.build()),
        world.put("b.qcow2", &second.build()),
    ];
    let daemon = world.start();
    for (url, disk) in [(&urls[0], first.disk()), (&urls[1], second.disk())] {
        completed(&daemon, url, "vm", 64 * MIB).await;
        assert!(
            holds(&world.home.volume("vm"), &disk),
            "older bytes are left"
        );
    }
}

#[tokio::test]
async fn a_hundred_requests_for_one_image_download_it_once() {
    let world = World::new().await;
    let builder = image(32 * MIB, 60, 7);
    let url = world.put("one.qcow2", &builder.build());
    let daemon = world.start();
    let requests = (0..100).map(|index| {
        let (daemon, url) = (&daemon, &url);
        async move {
            daemon
                .provision(url, &format!("vm-{index}"), 32 * MIB)
                .await
        }
    });
    let jobs = futures::future::join_all(requests).await;
    let mut misses = 0;
    for job in jobs {
        let status = daemon
            .ended(&job.expect("it is accepted"))
            .await
            .expect("it ends");
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        misses += usize::from(status.cache_hit == Some(false));
    }
    let disk = builder.disk();
    for index in 0..100 {
        assert!(
            holds(&world.home.volume(&format!("vm-{index}")), &disk),
            "vm-{index} is wrong"
        );
    }
    let traffic = world.s3.traffic().object("images/one.qcow2");
    let size = builder.build().len() as u64;
    assert!(
        traffic.sent_bytes < size + 2 * MIB,
        "read more than once: {traffic:?}"
    );
    assert!(
        (1..=2).contains(&misses),
        "{misses} jobs missed: two run at once"
    );
}
