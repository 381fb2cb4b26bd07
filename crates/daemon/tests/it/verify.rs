//! Verification of volumes that were written, on a host whose volumes cannot share content.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use lvp_api::{JobState, JobStatus, VerifiedVolume};
use lvp_image::builder::Stored;
use lvp_testkit::daemon::Daemon;
use lvp_testkit::require::require;
use serde_json::json;

use crate::support::{MIB, World, completed, image};

const DISK: u64 = 32 * MIB;

async fn verified(daemon: &Daemon, volume: &str) -> JobStatus {
    let body = json!({ "volume_name": volume });
    let job = daemon.submit("/api/v1/verifications", body).await;
    daemon
        .ended(&job.expect("it is accepted"))
        .await
        .expect("it ends")
}

async fn result(daemon: &Daemon, volume: &str) -> VerifiedVolume {
    let status = verified(daemon, volume).await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    status.verification.expect("it has a result")
}

/// The status and text of a refusal, or of what is answered.
async fn answer(daemon: &Daemon, route: &str, body: Option<serde_json::Value>) -> (u16, String) {
    let answer = daemon.call("POST", route, body).await;
    let answer = answer.expect("it answers");
    (answer.status, answer.body.to_string())
}

async fn forget_cached(daemon: &Daemon, digest: &str) {
    let route = format!("/api/v1/cache/images/{digest}");
    let answer = daemon.call("DELETE", &route, None).await;
    assert_eq!(answer.expect("it answers").status, 200);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("it is memory");
    encoder.finish().expect("it is memory")
}

fn change(world: &World, volume: &str, offset: u64) {
    let file = File::options().write(true).open(world.home.volume(volume));
    let file = file.expect("it opens");
    file.write_all_at(&[1; 10], offset).expect("it is written");
}

#[tokio::test]
async fn a_written_volume_is_compared_with_its_image_and_later_without_it() {
    let world = World::new().await.with("VOLUME_CLONE", "never");
    let url = world.put("a.qcow2", &image(DISK, 100, 61).build());
    let daemon = world.start();
    let digest = completed(&daemon, &url, "vm", 2 * DISK).await.image_digest;
    let digest = digest.expect("it has one");
    completed(&daemon, &url, "other", DISK).await;
    // Not while somebody waits for an answer: it takes the whole image.
    let route = "/api/v1/volumes/vm/verify";
    let (status, text) = answer(&daemon, route, None).await;
    assert_eq!(status, 409, "{text}");
    assert!(text.contains("POST /api/v1/verifications"), "{text}");

    let found = result(&daemon, "vm").await;
    assert!(found.matches && found.image_digest == digest, "{found:?}");
    assert_eq!(found.disk_bytes, DISK);
    // What the image holds is known from here on.
    let (status, text) = answer(&daemon, route, None).await;
    assert_eq!(status, 200, "{text}");

    forget_cached(&daemon, &digest).await;
    let found = result(&daemon, "other").await;
    assert!(found.matches, "{found:?}");
    change(&world, "other", 5 * 4096);
    let found = result(&daemon, "other").await;
    assert!(!found.matches && found.differences.is_empty(), "{found:?}");
    // What is after the disk of a volume that was written is no concern of the image's.
    change(&world, "vm", DISK + 4096);
    assert!(result(&daemon, "vm").await.matches);
    // Nothing was left behind in the cache.
    assert!(world.home.cache_files().is_empty());
}

#[tokio::test]
async fn where_a_written_volume_differs_is_told_by_its_image() {
    let world = World::new().await.with("VOLUME_CLONE", "never");
    let mut builder = image(DISK, 100, 62);
    builder.write(7 * MIB, &[5; 1 << 16], Stored::Compressed);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    completed(&daemon, &url, "vm", DISK).await;
    change(&world, "vm", 7 * MIB + 8192);
    let found = result(&daemon, "vm").await;
    assert!(!found.matches, "{found:?}");
    let parts: Vec<_> = found.differences.iter().collect();
    assert_eq!(parts.len(), 1, "{found:?}");
    assert_eq!((parts[0].offset, parts[0].length), (7 * MIB + 8192, 4096));
    // Provisioned again, it is right again.
    completed(&daemon, &url, "vm", DISK).await;
    assert!(result(&daemon, "vm").await.matches);
}

#[tokio::test]
async fn without_its_image_a_refusal_says_where_to_fetch_it_from() {
    let world = World::new().await.with("VOLUME_CLONE", "never");
    let url = world.put("a.qcow2", &image(DISK, 20, 63).build());
    let daemon = world.start();
    let digest = completed(&daemon, &url, "vm", DISK).await.image_digest;
    forget_cached(&daemon, &digest.expect("it has one")).await;
    let body = json!({ "volume_name": "vm" });
    let (status, text) = answer(&daemon, "/api/v1/verifications", Some(body)).await;
    assert_eq!(status, 409, "{text}");
    let remedy = format!("lvpctl cache fetch {url}");
    assert!(text.contains(&remedy), "{text}");
    let body = json!({ "image_url": url });
    let job = daemon.submit("/api/v1/cache/fetch", body).await;
    let job = job.expect("it is accepted");
    assert_eq!(
        daemon.ended(&job).await.expect("it ends").status,
        JobState::Completed
    );
    assert!(result(&daemon, "vm").await.matches);
}

#[tokio::test]
async fn disks_of_every_kind_of_image_are_found_again() {
    let world = World::new().await.with("VOLUME_CLONE", "never");
    let builder = image(DISK, 50, 64);
    let raw = builder.disk();
    let daemon = world.start();
    // A size that is no multiple of a sector is filled up with zeros.
    let odd = &raw[..raw.len() - 300];
    let images = [
        ("a.raw", raw.clone(), "raw"),
        ("odd.raw", odd.to_vec(), "raw"),
        ("a.raw.gz", gzip(&raw), "raw"),
        ("a.qcow2.gz", gzip(&builder.build()), "qcow2"),
    ];
    for (key, bytes, image_type) in images {
        let url = world.put(key, &bytes);
        let body = json!({
            "image_url": url, "volume_name": key, "volume_size_bytes": DISK, "image_type": image_type,
        });
        let job = daemon.submit("/api/v1/jobs", body).await.expect(key);
        let status = daemon.ended(&job).await.expect("it ends");
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        let found = result(&daemon, key).await;
        assert!(found.matches, "{key}: {found:?}");
        change(&world, key, 3 * MIB);
        let found = result(&daemon, key).await;
        assert!(!found.matches, "{key}: {found:?}");
    }
}

#[tokio::test]
async fn without_the_job_that_wrote_a_volume_nothing_is_said_that_nobody_knows() {
    let world = World::new().await.with("VOLUME_CLONE", "never");
    let url = world.put("a.qcow2", &image(DISK, 50, 65).build());
    let daemon = world.start();
    completed(&daemon, &url, "vm", DISK).await;
    assert!(result(&daemon, "vm").await.matches);
    drop(daemon);
    let database = rusqlite::Connection::open(world.home.path().join("jobs.db")).expect("it opens");
    let deleted = database.execute("DELETE FROM jobs WHERE kind = 'provision'", []);
    assert_eq!(deleted.expect("it is written"), 1);
    drop(database);
    let daemon = world.start();
    // It is found to be a qcow2 file, and so it is.
    assert!(result(&daemon, "vm").await.matches);
    change(&world, "vm", 3 * MIB);
    let status = verified(&daemon, "vm").await;
    assert_eq!(status.status, JobState::Failed, "{status:?}");
    let error = status.error.expect("it has one");
    assert!(error.contains("cannot be told"), "{error}");
}

#[tokio::test]
async fn a_gpt_that_was_moved_is_moved_back_by_the_image() {
    if !require("sgdisk") {
        return;
    }
    let world = World::new().await.with("VOLUME_CLONE", "never");
    let path = world.home.path().join("disk");
    crate::expand::disk(&path, DISK, 512);
    let url = world.put("a.raw", &fs::read(&path).expect("it is read"));
    let daemon = world.start();
    let body = json!({
        "image_url": url, "volume_name": "vm", "volume_size_bytes": 2 * DISK, "image_type": "raw",
        "expand": "gpt",
    });
    let job = daemon.submit("/api/v1/jobs", body).await.expect("accepted");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(result(&daemon, "vm").await.matches);
    change(&world, "vm", 9 * MIB);
    let found = result(&daemon, "vm").await;
    let parts: Vec<_> = found.differences.iter().map(|part| part.offset).collect();
    assert_eq!((found.matches, parts), (false, vec![9 * MIB]));
}
