//! Volumes by cloning, on file systems whose files share extents.

mod clients;
mod crash;
mod full;
mod kills;
mod life;
mod objects;
mod pauses;
mod replace;
mod verify;

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;

use lvp_api::{GoldenVolumes, JobState, JobStatus, Method, VerifiedVolume};
use lvp_testkit::daemon::{Daemon, Home};
use lvp_testkit::fault::FaultProxy;
use lvp_testkit::loopfs::LoopFs;
use lvp_testkit::require::require;
use lvp_testkit::s3::S3;
use serde_json::{Value, json};

use crate::support::{BINARY, MIB, World, address, completed, holds, image, metric};

const DISK: u64 = 32 * MIB;

/// A world whose volumes are on a file system of its own. What runs in it must have ended when this goes.
pub(crate) struct Sharing {
    world: World,
    _file_system: LoopFs,
}

impl Deref for Sharing {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Sharing {
    pub(crate) async fn on(kind: &str) -> Self {
        Self::sized(kind, 0).await
    }

    /// On a file system of at least so many bytes, which takes no more room than is written to it.
    async fn sized(kind: &str, size_bytes: u64) -> Self {
        let s3 = S3::start().await.expect("it starts");
        let file_system = LoopFs::new(kind, size_bytes).expect("it is mounted");
        Self::over(file_system, s3, None)
    }

    async fn with_faults() -> (Self, FaultProxy) {
        let s3 = S3::start().await.expect("it starts");
        let proxy = FaultProxy::start(address(&s3)).await.expect("it starts");
        let endpoint = proxy.endpoint();
        let file_system = LoopFs::new("xfs", 0).expect("it is mounted");
        (Self::over(file_system, s3, Some(&endpoint)), proxy)
    }

    fn over(file_system: LoopFs, s3: S3, endpoint: Option<&str>) -> Self {
        let endpoint = endpoint.unwrap_or(s3.endpoint());
        let home = Home::kept_in(&file_system.path().join("home"), BINARY, endpoint);
        let home = home.expect("there is room for a home");
        let world = World { s3, home };
        Self {
            world,
            _file_system: file_system,
        }
    }

    fn with(self, name: &str, value: &str) -> Self {
        Self {
            world: self.world.with(name, value),
            ..self
        }
    }

    /// Names of what is in the directory of golden files, records left out.
    fn golden_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.golden_dir()).into_iter().flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.into_string().expect("it is text"))
            .filter(|name| !name.ends_with(".json"))
            .collect();
        names.sort();
        names
    }

    fn golden_dir(&self) -> PathBuf {
        self.home.volume(".lvp").join("golden")
    }

    /// Bytes of an image's object that were sent since the last reset.
    fn sent(&self, key: &str) -> u64 {
        let traffic = self.s3.traffic();
        traffic.object(&format!("images/{key}")).sent_bytes
    }
}

async fn asked(daemon: &Daemon, url: &str, volume: &str, more: Value) -> JobStatus {
    let mut body = json!({
        "image_url": url, "volume_name": volume, "volume_size_bytes": DISK,
    });
    let fields = body.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    let job = daemon.submit("/api/v1/jobs", body).await.expect("accepted");
    daemon.ended(&job).await.expect("it ends")
}

async fn golden(daemon: &Daemon) -> GoldenVolumes {
    daemon.get("/api/v1/golden").await.expect("it is listed")
}

async fn forget_cached(daemon: &Daemon, status: &JobStatus) {
    let key = status.image_digest.as_deref().expect("it has one");
    let answer = daemon
        .call("DELETE", &format!("/api/v1/cache/images/{key}"), None)
        .await;
    assert_eq!(answer.expect("it answers").status, 200);
}

fn says(status: &JobStatus, part: &str) -> bool {
    status.notes.iter().any(|note| note.contains(part))
}

async fn verified(daemon: &Daemon, volume: &str) -> Result<VerifiedVolume, (u16, String)> {
    let route = format!("/api/v1/volumes/{volume}/verify");
    let answer = daemon.call("POST", &route, None).await;
    let answer = answer.expect("it answers");
    match answer.status {
        200 => Ok(serde_json::from_value(answer.body).expect("a verification")),
        status => Err((status, answer.body.to_string())),
    }
}

#[tokio::test]
async fn the_first_job_of_an_image_makes_its_golden_volume_and_the_next_reads_no_byte_of_it() {
    for kind in ["xfs", "btrfs"] {
        if !require(kind) {
            continue;
        }
        let world = Sharing::on(kind).await;
        let builder = image(DISK, 200, 1);
        let bytes = builder.build();
        let url = world.put("a.qcow2", &bytes);
        let daemon = world.start();
        let first = completed(&daemon, &url, "vm-1", DISK).await;
        assert_eq!(first.method, Some(Method::Clone), "{first:?}");
        assert!(says(&first, "golden volume on the way"), "{first:?}");
        assert_eq!(first.cache_hit, Some(false));
        assert!(holds(&world.home.volume("vm-1"), &builder.disk()));
        // One pass, what the plan was made from, and what the first answer's connection held when it was ended.
        let sent = world.sent("a.qcow2");
        assert!(sent < bytes.len() as u64 * 2, "{sent}");

        forget_cached(&daemon, &first).await;
        world.s3.traffic().reset();
        let second = completed(&daemon, &url, "vm-2", 2 * DISK).await;
        assert_eq!(second.method, Some(Method::Clone), "{second:?}");
        assert_eq!(second.image_digest, first.image_digest);
        assert_eq!((second.cache_hit, second.image_path), (Some(true), None));
        assert_eq!(world.sent("a.qcow2"), 0);
        assert!(world.home.cache_files().is_empty());
        assert!(holds(&world.home.volume("vm-2"), &builder.disk()));

        // A guest's writes are its own.
        fs::write(world.home.volume("vm-1"), vec![9; 1 << 20]).expect("it is written");
        let third = completed(&daemon, &url, "vm-3", DISK).await;
        assert_eq!(third.method, Some(Method::Clone));
        assert!(holds(&world.home.volume("vm-3"), &builder.disk()));

        let listed = golden(&daemon).await;
        assert_eq!((listed.count, listed.unavailable), (1, None));
        let golden = &listed.volumes[0];
        assert_eq!(Some(&golden.key), first.image_digest.as_ref());
        assert_eq!((golden.clones, golden.disk_bytes), (3, Some(DISK)));
        assert_eq!(
            (golden.image_url.as_str(), golden.in_use),
            (url.as_str(), false)
        );
        assert_eq!(golden.flaw, None);
        for (series, value) in [
            ("golden_volumes", 1.0),
            ("golden_volumes_flawed", 0.0),
            ("clones_total", 3.0),
            ("volumes_made_total{method=\"clone\"}", 3.0),
            ("volumes_made_total{method=\"copy\"}", 0.0),
        ] {
            assert_eq!(metric(&daemon, series).await, Some(value), "{series}");
        }
    }
}

#[tokio::test]
async fn a_hundred_requests_for_a_new_image_are_one_download_one_decode_and_a_hundred_clones() {
    for (kind, has_checksum) in [("xfs", true), ("btrfs", false)] {
        if !require(kind) {
            continue;
        }
        let world = Sharing::on(kind).await.with("MAX_CONCURRENT", "8");
        let builder = image(DISK, 200, 2);
        let bytes = builder.build();
        let url = match has_checksum {
            true => world.put("a.qcow2", &bytes),
            false => {
                let objects = world.s3.objects();
                objects.put("images", "a.qcow2", &bytes).expect("it is put");
                "s3://images/a.qcow2".to_owned()
            }
        };
        let daemon = world.start();
        let mut jobs = Vec::new();
        for number in 0..100 {
            let job = daemon.provision(&url, &format!("vm-{number}"), DISK).await;
            jobs.push(job.expect("it is accepted"));
        }
        for (number, job) in jobs.iter().enumerate() {
            let status = daemon.ended(job).await.expect("it ends");
            assert_eq!(status.status, JobState::Completed, "{status:?}");
            assert_eq!(status.method, Some(Method::Clone), "{status:?}");
            let volume = world.home.volume(&format!("vm-{number}"));
            assert!(holds(&volume, &builder.disk()), "{number}");
        }
        let sent = world.sent("a.qcow2");
        assert!(sent < bytes.len() as u64 * 2, "{sent} of {}", bytes.len());
        let written = metric(&daemon, "transferred_bytes_total{direction=\"written\"}").await;
        let written = written.expect("it is there");
        assert!(written <= DISK as f64, "{written}");
        assert_eq!(metric(&daemon, "clones_total").await, Some(100.0));
        assert_eq!(golden(&daemon).await.volumes[0].clones, 100);
    }
}

#[tokio::test]
async fn a_request_decides_whether_it_clones() {
    if !require("xfs") {
        return;
    }
    let world = Sharing::on("xfs").await;
    let builder = image(DISK, 100, 3);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    for (volume, clone, method) in [
        ("vm-1", "never", Method::Stream),
        ("vm-2", "never", Method::Copy),
        ("vm-3", "require", Method::Clone),
        ("vm-4", "auto", Method::Clone),
    ] {
        let status = asked(&daemon, &url, volume, json!({ "clone": clone })).await;
        assert_eq!(status.method, Some(method), "{status:?}");
        let word = status.clone.map(lvp_api::Cloning::as_str);
        assert_eq!(word, Some(clone));
        assert!(holds(&world.home.volume(volume), &builder.disk()));
    }
    let kinds: lvp_api::VolumeList = daemon.get("/api/v1/volumes").await.expect("a list");
    let kinds: Vec<_> = kinds
        .volumes
        .iter()
        .filter_map(|volume| volume.kind)
        .collect();
    let kinds: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(kinds, ["file", "file", "clone", "clone"]);
    for (clone, name) in [
        ("always", "vm-5"),
        ("auto", "lvp-golden-x"),
        ("auto", "lvp-new-x"),
    ] {
        let body = json!({
            "image_url": url, "volume_name": name, "volume_size_bytes": DISK, "clone": clone,
        });
        let answer = daemon.call("POST", "/api/v1/jobs", Some(body)).await;
        assert_eq!(answer.expect("it answers").status, 400, "{clone} {name}");
    }
}

#[tokio::test]
async fn a_host_that_is_not_to_clone_makes_no_golden_volume_and_refuses_who_must_have_a_clone() {
    if !require("xfs") {
        return;
    }
    let world = Sharing::on("xfs").await;
    let builder = image(DISK, 100, 57);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    completed(&daemon, &url, "vm-1", DISK).await;
    drop(daemon);
    let world = world.with("VOLUME_CLONE", "never");
    let daemon = world.start();
    let why = "volumes.clone is never";
    let status = completed(&daemon, &url, "vm-2", DISK).await;
    assert_eq!(status.method, Some(Method::Copy), "{status:?}");
    assert!(says(&status, why), "{status:?}");
    assert!(holds(&world.home.volume("vm-2"), &builder.disk()));
    let status = asked(&daemon, &url, "vm-3", json!({ "clone": "require" })).await;
    assert_eq!(status.error_type.as_deref(), Some("clone_unavailable"));
    let error = status.error.as_deref().unwrap_or_default();
    assert!(error.contains(why), "{status:?}");
    assert!(!world.home.volume("vm-3").exists());
    let body = json!({
        "image_url": url, "volume_name": "vm-4", "volume_size_bytes": DISK, "clone": "require",
    });
    let plan = daemon.call("POST", "/api/v1/plan", Some(body)).await;
    let plan = plan.expect("it answers").body;
    assert!(plan["problems"].to_string().contains(why), "{plan}");
    let body = json!({ "image_url": url });
    let job = daemon.submit("/api/v1/golden", body).await;
    let status = daemon
        .ended(&job.expect("accepted"))
        .await
        .expect("it ends");
    assert_eq!(status.error_type.as_deref(), Some("clone_unavailable"));
    // What is there from before can be seen, and removed.
    let listed = golden(&daemon).await;
    assert_eq!(listed.count, 1);
    assert!(listed.unavailable.is_some_and(|said| said.contains(why)));
    let route = format!("/api/v1/golden/{}", listed.volumes[0].key);
    let answer = daemon.call("DELETE", &route, None).await;
    assert_eq!(answer.expect("it answers").status, 200);
    assert_eq!(world.golden_files(), Vec::<String>::new());
}

#[tokio::test]
async fn where_files_share_nothing_a_job_says_so_or_fails_if_it_must_clone() {
    // ext4 and tmpfs, where the tests' directories are.
    let world = World::new().await;
    let probe: Option<String> = {
        let daemon = world.start();
        golden(&daemon).await.unavailable
    };
    if probe.is_none() {
        return;
    }
    let builder = image(DISK, 100, 4);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let status = asked(&daemon, &url, "vm-1", json!({ "clone": "require" })).await;
    assert_eq!(status.status, JobState::Failed);
    assert_eq!(status.error_type.as_deref(), Some("clone_unavailable"));
    assert_eq!(status.error_code, Some(422));
    let error = status.error.as_deref().unwrap_or_default();
    assert!(error.contains("cannot share extents"), "{error}");
    assert!(!world.home.volume("vm-1").exists());
    let status = completed(&daemon, &url, "vm-1", DISK).await;
    assert_eq!(status.method, Some(Method::Stream));
    assert!(says(&status, "Not cloned: "), "{status:?}");
    let body = json!({ "image_url": url });
    let job = daemon
        .submit("/api/v1/golden", body)
        .await
        .expect("accepted");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.error_type.as_deref(), Some("clone_unavailable"));
}
