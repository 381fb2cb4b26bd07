//! Which object an image is of, in which version, and that nothing but its verified bytes reach a
//! volume: servers that lie, objects that are replaced, URLs that are signed.

mod urls;

use std::fs;

use lvp_api::{CachedImages, JobState, JobStatus};
use lvp_testkit::daemon::{Daemon, Home, wait_for};
use lvp_testkit::fault::{Fault, FaultProxy, Request, Rule};
use lvp_testkit::s3::S3;
use serde_json::json;

use crate::support::{BINARY, MIB, World, accepted, holds, image};

const DISK: u64 = 32 * MIB;

/// A web host that is not our object storage, behind a proxy.
struct Host {
    server: S3,
    proxy: FaultProxy,
    home: Home,
}

impl Host {
    async fn new() -> Self {
        let server = S3::start_anonymous().await.expect("the server starts");
        let proxy = FaultProxy::start(server.address()).await;
        let proxy = proxy.expect("the proxy starts");
        let host = proxy.endpoint().replace("http://", "");
        let home = Home::new(BINARY, "http://127.0.0.1:1").expect("there is room");
        Self {
            home: home.with("MINIO_ALLOWED_HOSTS", host),
            server,
            proxy,
        }
    }

    fn put(&self, key: &str, bytes: &[u8]) -> String {
        let objects = self.server.objects();
        objects.put("images", key, bytes).expect("it is written");
        format!("{}/images/{key}", self.proxy.endpoint())
    }
}

async fn provision(daemon: &Daemon, url: &str, volume: &str) -> JobStatus {
    let job = accepted(daemon, url, volume, DISK).await;
    daemon.ended(&job).await.expect("it ends")
}

async fn raw(daemon: &Daemon, url: &str, volume: &str, size: u64) -> JobStatus {
    let request = json!({
        "image_url": url, "volume_name": volume, "volume_size_bytes": size, "image_type": "raw",
    });
    let job = daemon.submit("/api/v1/jobs", request).await;
    daemon
        .ended(&job.expect("it is accepted"))
        .await
        .expect("it ends")
}

/// The planner requests blocks, the pass requests ranges that are larger or extend to the end.
fn is_of_plan(request: &Request) -> bool {
    request.range_bytes().is_some_and(|bytes| bytes <= 2 << 20)
}

/// The offset of the only L2 table of an image.
fn map_at(image: &[u8]) -> usize {
    let be64 = |at: usize| u64::from_be_bytes(image[at..at + 8].try_into().expect("8 bytes"));
    let table = |entry: u64| (entry & 0x00ff_ffff_ffff_fe00) as usize;
    table(be64(table(be64(40))))
}

/// The planner's request for the map of this image.
fn reads_map_of(image: &[u8]) -> impl Fn(&Request) -> bool + use<> {
    let map = map_at(image) as u64;
    move |request| {
        let range = request.range_start.zip(request.range_bytes());
        let covers = range.is_some_and(|(at, bytes)| (at..at + bytes).contains(&map));
        covers && is_of_plan(request)
    }
}

/// The same image with two clusters swapped in its map.
fn with_another_map(image: &[u8]) -> Vec<u8> {
    let be64 = |at: usize| u64::from_be_bytes(image[at..at + 8].try_into().expect("8 bytes"));
    let l2 = map_at(image);
    let is_plain = |entry: u64| entry != 0 && entry >> 62 & 1 == 0;
    let plain: Vec<usize> = (0..DISK as usize >> 16)
        .map(|index| l2 + 8 * index)
        .filter(|at| is_plain(be64(*at)))
        .collect();
    let (one, other) = (plain[1], plain[plain.len() - 2]);
    let mut changed = image.to_vec();
    changed[one..one + 8].copy_from_slice(&image[other..other + 8]);
    changed[other..other + 8].copy_from_slice(&image[one..one + 8]);
    changed
}

/// Whether all of the image is asked for.
fn is_whole(request: &Request) -> bool {
    let is_all = matches!(request.header("range"), None | Some("bytes=0-"));
    request.method == "GET" && is_all && request.target == "/images/a.raw"
}

#[tokio::test]
async fn a_volume_is_not_ready_if_its_map_was_read_from_other_bytes_than_were_hashed() {
    let (world, proxy) = World::with_faults().await;
    let builder = image(DISK, 250, 1);
    let bytes = builder.build();
    assert!(bytes.len() > 4 << 20, "{} bytes", bytes.len());
    let url = world.put("a.qcow2", &bytes);
    let daemon = world.start();
    let lie = || Rule::new(Fault::OtherBytes(with_another_map(&bytes).into())).when(is_of_plan);
    proxy.inject(lie());
    let status = provision(&daemon, &url, "vm").await;
    assert_eq!(
        (status.status, status.error_type.as_deref()),
        (JobState::Failed, Some("object_changed")),
        "{status:?}"
    );
    let error = status.error.expect("an error");
    assert!(error.contains("map was read from"), "{error}");
    assert_eq!(world.home.volume_files(), Vec::<String>::new());
    assert_eq!(world.home.cache_files(), Vec::<String>::new());

    // Only once: the job starts again, and completes.
    proxy.clear();
    proxy.inject(lie().when(reads_map_of(&bytes)).times(1));
    let status = provision(&daemon, &url, "vm").await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert_eq!(proxy.injected(), 1);
    let mut notes = status.notes.iter();
    let afresh = notes.any(|note| note.contains("download started over"));
    assert!(afresh, "{:?}", status.notes);
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
}

#[tokio::test]
async fn the_resumed_part_of_a_download_is_also_compared_with_the_map() {
    let (world, proxy) = World::with_faults().await;
    let builder = image(256 * MIB, 1500, 1);
    let bytes = builder.build();
    let url = world.put("a.qcow2", &bytes);
    proxy.inject(Rule::new(Fault::Slow(8_000_000)).when(|request| !is_of_plan(request)));
    let daemon = world.start();
    let job = accepted(&daemon, &url, "vm", 256 * MIB).await;
    wait_for("a part of the image to be durable", async || {
        let files = world.home.cache_files();
        let partial = files.iter().find(|name| name.ends_with(".partial"))?;
        let path = world.home.path().join("cache").join(partial);
        (fs::metadata(path).ok()?.len() > 20 << 20).then_some(())
    })
    .await;
    daemon.kill().expect("it is killed");
    proxy.clear();
    let lie = Fault::OtherBytes(with_another_map(&bytes).into());
    proxy.inject(Rule::new(lie).when(reads_map_of(&bytes)).times(1));
    let daemon = world.start();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    let said = |words: &str| status.notes.iter().any(|note| note.contains(words));
    assert!(said("Resumed the download"), "{:?}", status.notes);
    assert!(said("download started over"), "{:?}", status.notes);
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
}

#[tokio::test]
async fn without_a_strong_validator_no_volume_is_made_from_two_versions() {
    const SIZE: usize = 16 << 20;
    let (old, new) = (vec![b'A'; SIZE], vec![b'B'; SIZE]);
    let weak = || Fault::Header("etag", "W/\"1\"".to_owned());
    let without = || Fault::NoHeader("etag");
    for (name, fault) in [("weak", weak()), ("date", without())] {
        let host = Host::new().await;
        let url = host.put("a.raw", &old);
        let daemon = host.home.start().expect("the daemon starts");
        let replaced = Fault::OtherBytes(new.clone().into());
        // If it were read by ranges, those from the middle on would be of the new version.
        let upper = Rule::new(replaced.clone())
            .when(|request| request.range_start.is_some_and(|start| start > 8 << 20))
            .when(|request| request.range_bytes() > Some(1 << 20))
            .also(fault.clone());
        host.proxy.inject(upper);
        host.proxy.inject(Rule::new(fault.clone()));
        let status = raw(&daemon, &url, name, SIZE as u64).await;
        assert_eq!(status.status, JobState::Completed, "{name}: {status:?}");
        assert!(fs::read(host.home.volume(name)).expect("a volume") == old);
        let whole: Vec<_> = host.proxy.requests();
        let whole = whole.iter().filter(|request| is_whole(request));
        assert_eq!(whole.count(), 1, "{name}");

        // The same request again is not a hit: nothing shows that it is the same version.
        let status = raw(&daemon, &url, name, SIZE as u64).await;
        assert_eq!(status.cache_hit, Some(false), "{name}: {status:?}");
    }
}

#[tokio::test]
async fn an_interrupted_download_that_cannot_be_continued_starts_again_or_fails() {
    const SIZE: usize = 8 << 20;
    let host = Host::new().await;
    let url = host.put("a.raw", &vec![b'A'; SIZE]);
    let daemon = host.home.start().expect("the daemon starts");
    let cut = || {
        Rule::new(Fault::CutAt(SIZE as u64 / 2))
            .when(is_whole)
            .also(Fault::NoHeader("etag"))
    };
    // Replaced meanwhile, and nothing shows that.
    let replaced = Rule::new(Fault::OtherBytes(vec![b'B'; SIZE].into()));
    let replaced = replaced.when(is_whole).also(Fault::NoHeader("etag"));
    host.proxy.inject(cut().times(1));
    host.proxy.inject(replaced.times(1));
    host.proxy.inject(Rule::new(Fault::NoHeader("etag")));
    let status = raw(&daemon, &url, "vm", SIZE as u64).await;
    // The end of the second was looked at by another request, and is of the old version, so it is read once more.
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    let note = "it is unknown whether the rest would be of the same version: the download started \
        over";
    assert!(
        status.notes.iter().any(|found| found.contains(note)),
        "{:?}",
        status.notes
    );
    let requests = host.proxy.requests();
    assert_eq!(
        requests.iter().filter(|request| is_whole(request)).count(),
        3
    );
    let found = fs::read(host.home.volume("vm")).expect("a volume");
    assert!(found == vec![b'A'; SIZE], "a mix of two versions");

    // Every time.
    host.proxy.clear();
    host.proxy.inject(cut());
    host.proxy.inject(Rule::new(Fault::NoHeader("etag")));
    let status = raw(&daemon, &url, "vm-2", SIZE as u64).await;
    assert_eq!(
        (status.status, status.error_type.as_deref()),
        (JobState::Failed, Some("source_unavailable"))
    );
    let error = status.error.expect("an error");
    assert!(error.contains("without a strong ETag"), "{error}");
    assert!(!host.home.volume("vm-2").exists());
}

#[tokio::test]
async fn an_object_longer_than_announced_fails_and_leaves_nothing() {
    const SIZE: usize = 4 << 20;
    let host = Host::new().await;
    let url = host.put("a.raw", &vec![b'A'; SIZE]);
    let daemon = host.home.start().expect("the daemon starts");
    let longer = Fault::Chunked {
        length: 1 << 20,
        extra: 1,
    };
    host.proxy.inject(
        Rule::new(longer)
            .when(is_whole)
            .also(Fault::NoHeader("etag")),
    );
    host.proxy.inject(Rule::new(Fault::NoHeader("etag")));
    let status = raw(&daemon, &url, "vm", SIZE as u64).await;
    assert_eq!(
        (status.status, status.error_type.as_deref()),
        (JobState::Failed, Some("object_changed")),
        "{status:?}"
    );
    assert_eq!(host.home.volume_files(), Vec::<String>::new());
    assert_eq!(host.home.cache_files(), Vec::<String>::new());
}

#[tokio::test]
async fn a_replaced_object_with_an_outdated_sidecar_fails_whether_or_not_the_old_image_is_cached() {
    let mut errors = Vec::new();
    for is_cached in [false, true] {
        let world = World::new().await;
        let builder = image(DISK, 30, 1);
        let url = world.put("a.qcow2", &builder.build());
        let daemon = world.start();
        if is_cached {
            let status = provision(&daemon, &url, "vm").await;
            assert_eq!(status.status, JobState::Completed, "{status:?}");
            let status = provision(&daemon, &url, "vm").await;
            assert_eq!(status.cache_hit, Some(true));
        }
        // Of another size, and of the same.
        for replaced in [image(DISK, 31, 2).build(), {
            let mut bytes = builder.build();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            bytes
        }] {
            let objects = world.s3.objects();
            objects
                .put("images", "a.qcow2", &replaced)
                .expect("it is written");
            let status = provision(&daemon, &url, "vm-2").await;
            assert_eq!(status.status, JobState::Failed, "{is_cached} {status:?}");
            assert_eq!(status.cache_hit, Some(false));
            errors.push((is_cached, status.error_type, status.error));
        }
    }
    let of = |cached: bool| -> Vec<_> {
        let errors = errors.iter().filter(|(is_cached, ..)| *is_cached == cached);
        errors.map(|(_, kind, text)| (kind, text)).collect()
    };
    assert_eq!(of(true), of(false));
    assert_eq!(of(true)[0].0.as_deref(), Some("digest_mismatch"));
}

#[tokio::test]
async fn the_same_image_under_a_second_name_is_read_again_and_kept_once() {
    let world = World::new().await;
    let bytes = image(DISK, 30, 1).build();
    let (first, second) = (world.put("a.qcow2", &bytes), world.put("b.qcow2", &bytes));
    let daemon = world.start();
    for (url, hit) in [
        (&first, false),
        (&second, false),
        (&second, true),
        (&first, true),
    ] {
        let status = provision(&daemon, url, "vm").await;
        assert_eq!(
            (status.status, status.cache_hit),
            (JobState::Completed, Some(hit)),
            "{url}"
        );
    }
    // Beside it there is its unpacked copy by now.
    let mut files = world.home.cache_files();
    files.retain(|name| name.ends_with(".img"));
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(world.s3.traffic().object("images/b.qcow2").sent_bytes > 0);
}
