//! `expand: gpt`: the backup GPT is moved to the end of the volume, as sgdisk and sfdisk judge it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use lvp_api::plan::Plan;
use lvp_api::{Expand, JobState, JobStatus, Method, VerifiedVolume, VolumeList};
use lvp_testkit::daemon::Daemon;
use lvp_testkit::loopdev::LoopDevice;
use lvp_testkit::require::{command, require};
use serde_json::{Value, json};

use crate::clones::Sharing;
use crate::support::{MIB, World};

const DISK: u64 = 24 * MIB;
const VOLUME: u64 = 40 * MIB;

/// Runs a tool on a disk that has logical blocks of this size, and returns what it says.
fn tool(disk: &Path, block_bytes: u32, program: &str, arguments: &[&str]) -> String {
    // The tools ask a device for the size; of a file they take it to be 512.
    let device = (block_bytes != 512).then(|| LoopDevice::over(disk, block_bytes).expect("a loop"));
    let path = device.as_ref().map_or(disk, LoopDevice::path);
    let output = command(program)
        .args(arguments)
        .arg(path)
        .output()
        .expect("the tool starts");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8(output.stdout).expect("it is text")
}

/// A disk with a boot sector, two partitions and data in both, as a file.
pub(crate) fn disk(path: &Path, bytes: u64, block_bytes: u32) {
    let file = fs::File::create(path).expect("it is created");
    file.set_len(bytes).expect("it is sized");
    let first = (2 * MIB / u64::from(block_bytes)).to_string();
    let arguments = [
        "--clear",
        &format!("--new=1:{first}:+4M"),
        "--typecode=1:ef00",
        "--change-name=1:EFI",
        "--new=2:0:0",
    ];
    tool(path, block_bytes, "sgdisk", &arguments);
    let file = OpenOptions::new().write(true).open(path).expect("it opens");
    for (offset, byte) in [
        (0, 0xeb),
        (64 << 10, 3),
        (2 * MIB, 1),
        (9 * MIB, 2),
        // The last byte before the backup's array.
        (bytes - 5 * u64::from(block_bytes) - 16384, 4),
    ] {
        file.write_all_at(&[byte; 300], offset)
            .expect("it is written");
    }
    file.sync_all().expect("it is synced");
}

/// The table as sfdisk reads it: the last usable block, and everything about the partitions.
fn table(disk: &Path, block_bytes: u32) -> (u64, Value) {
    let text = tool(disk, block_bytes, "sfdisk", &["--json"]);
    let table: Value = serde_json::from_str(&text).expect("it is JSON");
    let table = &table["partitiontable"];
    let mut partitions = table["partitions"].clone();
    for partition in partitions.as_array_mut().expect("a list") {
        partition["node"] = Value::Null;
    }
    let last = table["lastlba"].as_u64().expect("a number");
    (last, json!([table["id"], table["firstlba"], partitions]))
}

/// Fails unless the volume holds the image with its backup GPT at the volume's end, and nothing else changed.
pub(crate) fn check(volume: &Path, image: &Path, block_bytes: u32) {
    let block = u64::from(block_bytes);
    let verdict = tool(volume, block_bytes, "sgdisk", &["--verify"]);
    assert!(verdict.contains("No problems found"), "{verdict}");
    let (found, expected) = (table(volume, block_bytes), table(image, block_bytes));
    assert_eq!(found.1, expected.1);
    let volume = fs::read(volume).expect("it is read");
    let blocks = volume.len() as u64 / block;
    assert_eq!(found.0, blocks - 2 - 16384 / block);
    let mbr_blocks = u32::from_le_bytes(volume[458..462].try_into().expect("four bytes"));
    assert_eq!(u64::from(mbr_blocks), blocks - 1);
    let image = fs::read(image).expect("it is read");
    let at = |offset: u64| usize::try_from(offset).expect("it fits");
    // Between the primary header and the old backup, all is as it was.
    let backup = image.len() - at(block) - 16384;
    let array = at(2 * block);
    assert_eq!(volume[..440], image[..440], "the boot code");
    assert!(volume[array..backup] == image[array..backup], "the disk");
    let moved_to = volume.len() / at(block) * at(block) - at(block) - 16384;
    let between = &volume[backup..moved_to];
    assert!(between.iter().all(|byte| *byte == 0), "the old backup");
}

async fn asked(daemon: &Daemon, url: &str, volume: &str, more: Value) -> JobStatus {
    let mut body = json!({
        "image_url": url, "volume_name": volume, "volume_size_bytes": VOLUME, "image_type": "raw",
        "expand": "gpt",
    });
    let fields = body.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    let job = daemon.submit("/api/v1/jobs", body).await.expect("accepted");
    daemon.ended(&job).await.expect("it ends")
}

fn says(status: &JobStatus, part: &str) -> bool {
    status.notes.iter().any(|note| note.contains(part))
}

async fn expanded(daemon: &Daemon, name: &str) -> Option<Expand> {
    let listed: VolumeList = daemon.get("/api/v1/volumes").await.expect("a list");
    let mut volumes = listed.volumes.into_iter();
    let found = volumes.find(|volume| volume.name.as_str() == name);
    found.expect("it is there").expanded
}

#[tokio::test]
async fn the_backup_gpt_is_moved_to_the_volumes_end_as_sgdisk_would_do_it() {
    if !require("sgdisk") || !require("sfdisk") || !require("qemu-img") {
        return;
    }
    let world = World::new().await;
    let image = world.home.path().join("disk.raw");
    disk(&image, DISK, 512);
    let raw = fs::read(&image).expect("it is read");
    let packed = world.home.path().join("disk.qcow2");
    let converted = command("qemu-img")
        .args(["convert", "-c", "-f", "raw", "-O", "qcow2"])
        .args([&image, &packed])
        .status();
    assert!(converted.expect("it runs").success());
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&raw).expect("it is compressed");
    let daemon = world.start();
    for (name, bytes, image_type) in [
        ("raw", raw.clone(), "raw"),
        ("qcow2", fs::read(&packed).expect("it is read"), "qcow2"),
        ("gz", gzip.finish().expect("it ends"), "raw"),
    ] {
        let url = world.put(name, &bytes);
        // Far away, so near that the places overlap, and by no whole granule.
        for (index, more) in [VOLUME - DISK, 512, 5 * 512, 4096, 33 * 512, MIB]
            .iter()
            .enumerate()
        {
            let volume = format!("{name}-{index}");
            let fields = json!({"image_type": image_type, "volume_size_bytes": DISK + more});
            let status = asked(&daemon, &url, &volume, fields).await;
            assert_eq!(status.status, JobState::Completed, "{volume} {status:?}");
            assert!(
                says(&status, "Moved the backup GPT from byte"),
                "{status:?}"
            );
            assert_eq!(status.expand, Some(Expand::Gpt));
            check(&world.home.volume(&volume), &image, 512);
            assert_eq!(expanded(&daemon, &volume).await, Some(Expand::Gpt));
        }
        // Without it, the disk is the image's byte for byte.
        let status = asked(
            &daemon,
            &url,
            "plain",
            json!({"image_type": image_type, "expand": "none"}),
        )
        .await;
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        let found = fs::read(world.home.volume("plain")).expect("it is read");
        assert!(found[..raw.len()] == raw, "{name}");
        assert_eq!(expanded(&daemon, "plain").await, None);
    }
}

#[tokio::test]
async fn disks_with_blocks_of_4_kib_get_a_table_with_blocks_of_4_kib() {
    if !require("sgdisk") || !require("sfdisk") || !require("loop") {
        return;
    }
    let world = World::new().await.with("VOLUME_EXPAND", "gpt");
    let image = world.home.path().join("disk.raw");
    disk(&image, DISK, 4096);
    let url = world.put("a.raw", &fs::read(&image).expect("it is read"));
    let daemon = world.start();
    for (index, bytes) in [VOLUME, DISK + 4096].into_iter().enumerate() {
        let volume = format!("vm-{index}");
        // As the configuration says, without a word in the request.
        let fields = json!({"expand": null, "volume_size_bytes": bytes});
        let status = asked(&daemon, &url, &volume, fields).await;
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        assert!(says(&status, "logical blocks of 4096 bytes"), "{status:?}");
        check(&world.home.volume(&volume), &image, 4096);
    }
}

#[tokio::test]
async fn disks_without_a_gpt_are_left_and_damaged_ones_refused_before_they_could_boot() {
    if !require("sgdisk") {
        return;
    }
    let world = World::new().await;
    let image = world.home.path().join("disk.raw");
    disk(&image, DISK, 512);
    let sound = fs::read(&image).expect("it is read");
    let daemon = world.start();

    let mut other = sound.clone();
    other[446 + 4] = 0x83;
    let url = world.put("mbr.raw", &other);
    let status = asked(&daemon, &url, "mbr", json!({})).await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(says(&status, "has no GPT"), "{status:?}");
    let found = fs::read(world.home.volume("mbr")).expect("it is read");
    assert!(found[..other.len()] == other);
    assert_eq!(expanded(&daemon, "mbr").await, None);

    // A volume as large as the disk.
    let url = world.put("a.raw", &sound);
    let same = json!({"volume_size_bytes": DISK});
    let status = asked(&daemon, &url, "same", same).await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(says(&status, "at the volume's end already"), "{status:?}");
    assert!(fs::read(world.home.volume("same")).expect("it is read") == sound);

    // A volume that was there, so that it stays after the failure and shows what was written.
    let status = asked(&daemon, &url, "kept", json!({})).await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    for (name, offset) in [("header", 512 + 40), ("entries", 1024 + 40)] {
        let mut damaged = sound.clone();
        damaged[offset] ^= 1;
        let url = world.put(name, &damaged);
        // Fetched, and from the cache.
        for _ in 0..2 {
            let status = asked(&daemon, &url, "kept", json!({})).await;
            assert_eq!(status.status, JobState::Failed, "{name} {status:?}");
            let word = status.error_type.as_deref();
            assert_eq!(word, Some("bad_partition_table"), "{status:?}");
            let error = status.error.expect("it says why");
            assert!(
                error.contains("GPT is damaged") && error.contains("sgdisk"),
                "{error}"
            );
            let found = fs::read(world.home.volume("kept")).expect("it is read");
            let mib = usize::try_from(MIB).expect("it fits");
            assert!(
                found[..mib].iter().all(|byte| *byte == 0),
                "{name}: the head"
            );
            let end = &found[found.len() - mib..];
            assert!(end.iter().all(|byte| *byte == 0), "{name}: the end");
        }
        // Without, it is what the image is.
        let status = asked(&daemon, &url, "as-is", json!({"expand": "none"})).await;
        assert_eq!(status.status, JobState::Completed, "{status:?}");
    }
    let refused = json!({
        "image_url": url, "volume_name": "x", "volume_size_gb": 1, "expand": "mbr",
    });
    let answer = daemon.call("POST", "/api/v1/jobs", Some(refused)).await;
    assert_eq!(answer.expect("it answers").status, 400);
}

#[tokio::test]
async fn a_clone_is_expanded_and_can_still_be_verified() {
    if !require("sgdisk") || !require("sfdisk") || !require("xfs") {
        return;
    }
    let world = Sharing::on("xfs").await;
    let image = world.home.path().join("disk.raw");
    disk(&image, DISK, 512);
    let raw = fs::read(&image).expect("it is read");
    let url = world.put("a.raw", &raw);
    let daemon = world.start();
    // The one that makes the golden volume, a second one, one that is replaced, one that overlaps.
    for (volume, bytes) in [
        ("vm-1", VOLUME),
        ("vm-2", VOLUME + 512),
        ("vm-1", VOLUME),
        ("vm-3", DISK + 512),
    ] {
        let fields = json!({"volume_size_bytes": bytes, "clone": "require"});
        let status = asked(&daemon, &url, volume, fields).await;
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        assert_eq!(status.method, Some(Method::Clone));
        assert!(says(&status, "Moved the backup GPT"), "{status:?}");
        check(&world.home.volume(volume), &image, 512);
        assert_eq!(expanded(&daemon, volume).await, Some(Expand::Gpt));
        let verified = verify(&daemon, volume).await;
        assert!(verified.matches, "{verified:?}");
        assert_eq!(verified.found_digest, verified.expected_digest);
    }
    // The golden volume is the image's disk as ever.
    let status = asked(
        &daemon,
        &url,
        "plain",
        json!({"expand": "none", "clone": "require"}),
    )
    .await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    let plain = fs::read(world.home.volume("plain")).expect("it is read");
    assert!(plain[..raw.len()] == raw);
    // What is changed is seen, in the table and elsewhere.
    for (volume, offset) in [("vm-1", VOLUME - 100), ("vm-2", 2 * MIB), ("vm-3", 520)] {
        let path = world.home.volume(volume);
        let file = OpenOptions::new().write(true).open(path).expect("it opens");
        file.write_all_at(b"!", offset).expect("it is written");
        drop(file);
        let verified = verify(&daemon, volume).await;
        assert!(!verified.matches, "{volume} {verified:?}");
        let part = verified.differences.first().expect("it is told where");
        assert!(
            (part.offset..part.offset + part.length).contains(&offset),
            "{verified:?}"
        );
    }
}

async fn verify(daemon: &Daemon, volume: &str) -> VerifiedVolume {
    let path = format!("/api/v1/volumes/{volume}/verify");
    let answer = daemon.call("POST", &path, None).await.expect("it answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_value(answer.body).expect("a verdict")
}

#[tokio::test]
async fn a_plan_says_whether_the_backup_gpt_would_be_moved() {
    if !require("sgdisk") {
        return;
    }
    let world = World::new().await;
    let image = world.home.path().join("disk.raw");
    disk(&image, DISK, 512);
    let url = world.put("a.raw", &fs::read(&image).expect("it is read"));
    let daemon = world.start();
    for (bytes, expand, expected) in [
        (VOLUME, "gpt", Some(Expand::Gpt)),
        (DISK, "gpt", None),
        (VOLUME, "none", None),
    ] {
        let body = json!({
            "image_url": url, "volume_name": "vm", "volume_size_bytes": bytes, "image_type": "raw",
            "expand": expand,
        });
        let answer = daemon.call("POST", "/api/v1/plan", Some(body)).await;
        let plan: Plan = serde_json::from_value(answer.expect("it answers").body).expect("a plan");
        assert_eq!(plan.expand, expected, "{plan:?}");
        let is_told = plan
            .warnings
            .iter()
            .any(|text| text.contains("stay where it is"));
        assert_eq!(is_told, bytes == DISK, "{plan:?}");
    }
}
