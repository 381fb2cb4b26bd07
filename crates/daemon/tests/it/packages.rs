//! Images of other formats than qcow2, and images inside streams and archives, as jobs write them.

use std::fs;
use std::path::PathBuf;

use lvp_api::{JobState, JobStatus};
use lvp_testkit::daemon::Daemon;
use lvp_testkit::require::{command, require};
use serde_json::json;

use crate::support::{MIB, World, holds, image};

async fn run(daemon: &Daemon, key: &str, volume: &str, image_type: &str) -> JobStatus {
    let body = json!({
        "image_url": format!("s3://images/{key}"), "volume_name": volume,
        "volume_size_bytes": 64 * MIB, "image_type": image_type,
    });
    let job = daemon
        .submit("/provision", body)
        .await
        .expect("it is accepted");
    daemon.ended(&job).await.expect("it ends")
}

fn ran(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = command(program)
        .args(arguments)
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{program} {arguments:?}");
    output.stdout
}

fn file(world: &World, name: &str) -> PathBuf {
    world.home.path().join(name)
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("it is text")
}

#[tokio::test]
async fn every_format_is_written_when_declared_and_when_detected() {
    if !require("qemu-img") {
        return;
    }
    let world = World::new().await;
    let daemon = world.start();
    let disk = image(48 * MIB, 60, 11).disk();
    let raw = file(&world, "disk.raw");
    fs::write(&raw, &disk).expect("there is room");
    for (image_type, format, options) in [
        ("vmdk", "vmdk", "subformat=monolithicSparse"),
        ("vmdk", "vmdk", "subformat=streamOptimized"),
        ("vhd", "vpc", "force_size=on"),
        ("vhd", "vpc", "force_size=on,subformat=fixed"),
        ("vhdx", "vhdx", "block_size=2M"),
        ("vdi", "vdi", "static=off"),
    ] {
        let made = file(&world, "made");
        let arguments = [
            "convert",
            "-O",
            format,
            "-o",
            options,
            text(&raw),
            text(&made),
        ];
        ran("qemu-img", &arguments);
        let key = format!("{image_type}-{}", options.replace(['=', ','], "-"));
        world.put(&key, &fs::read(&made).expect("it is there"));
        for declared in [image_type, "auto"] {
            let status = run(&daemon, &key, "vm", declared).await;
            assert_eq!(status.status, JobState::Completed, "{key}: {status:?}");
            assert!(
                holds(&world.home.volume("vm"), &disk),
                "{key} as {declared}"
            );
        }
        let status = run(&daemon, &key, "vm", "qcow2").await;
        assert_eq!(
            status.error_type.as_deref(),
            Some("not_this_format"),
            "{key}"
        );
        assert!(
            status
                .error
                .expect("one")
                .contains(&format!("declare it {image_type}"))
        );
    }
}

#[tokio::test]
async fn an_image_in_a_stream_or_an_archive_is_unpacked_beside_the_cached_one() {
    if !require("qemu-img") {
        return;
    }
    let world = World::new().await.with("CACHE_UNPACKED", "never");
    let daemon = world.start();
    let builder = image(48 * MIB, 60, 12);
    let (disk, qcow2) = (builder.disk(), file(&world, "a.qcow2"));
    fs::write(&qcow2, builder.build()).expect("there is room");
    fs::write(file(&world, "disk.raw"), &disk).expect("there is room");
    let directory = world.home.path().to_owned();
    let tar = |name: &str| ran("tar", &["-C", text(&directory), "-c", "-O", name]);
    let cases = [
        (
            "a.qcow2.xz",
            "qcow2",
            ran("xz", &["-c", "-1", text(&qcow2)]),
            "from xz",
        ),
        (
            "a.qcow2.gz",
            "auto",
            ran("gzip", &["-c", text(&qcow2)]),
            "from gzip",
        ),
        ("b.tar", "raw", tar("disk.raw"), "\"disk.raw\" from tar"),
        ("c.tar", "qcow2", tar("a.qcow2"), "\"a.qcow2\" from tar"),
    ];
    for (key, image_type, bytes, note) in cases {
        world.put(key, &bytes);
        for (volume, hit) in [("vm", false), ("vm-2", true)] {
            let status = run(&daemon, key, volume, image_type).await;
            assert_eq!(status.status, JobState::Completed, "{key}: {status:?}");
            assert_eq!(status.cache_hit, Some(hit), "{key}");
            assert!(
                holds(&world.home.volume(volume), &disk),
                "{key}: the volume is wrong"
            );
            let said = status.notes.iter().any(|line| line.contains(note));
            assert!(said, "{key}: {:?}", status.notes);
        }
    }
    // What is cached is the object as it is stored, and nothing else is left.
    assert_eq!(
        world.home.cache_files().len(),
        4,
        "{:?}",
        world.home.cache_files()
    );
}

#[tokio::test]
async fn bytes_after_a_gzip_stream_are_ignored_with_a_note() {
    let world = World::new().await;
    let daemon = world.start();
    let disk = image(48 * MIB, 60, 13).disk();
    let raw = file(&world, "disk.raw");
    fs::write(&raw, &disk).expect("there is room");
    let mut packed = ran("gzip", &["-1", "-c", text(&raw)]);
    packed.extend_from_slice(b"{\"metadata_version\":\"1.1\"}\nFWx0");
    world.put("a.img.gz", &packed);
    let status = run(&daemon, "a.img.gz", "vm", "raw").await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(
        holds(&world.home.volume("vm"), &disk),
        "the volume is wrong"
    );
    let said = |line: &String| line.starts_with("31 bytes after the compressed stream");
    assert!(status.notes.iter().any(said), "{:?}", status.notes);
}

#[tokio::test]
async fn an_image_that_does_not_fit_the_cache_unpacked_is_refused_and_leaves_nothing() {
    let world = World::new().await.with("CACHE_MAX_SIZE_BYTES", "8M");
    let daemon = world.start();
    // A qcow2 of 24 MiB of zeros that were written, as a stream of some kilobytes.
    let mut builder = lvp_image::builder::ImageBuilder::new(48 * MIB);
    let zeros = vec![0; 24 << 20];
    builder.write(0, &zeros, lvp_image::builder::Stored::Plain);
    let qcow2 = file(&world, "a.qcow2");
    fs::write(&qcow2, builder.build()).expect("there is room");
    world.put("bomb.xz", &ran("xz", &["-c", "-1", text(&qcow2)]));
    let status = run(&daemon, "bomb.xz", "vm", "qcow2").await;
    assert_eq!(
        status.error_type.as_deref(),
        Some("too_large"),
        "{status:?}"
    );
    assert_eq!(world.home.volume_files(), Vec::<String>::new());
}
