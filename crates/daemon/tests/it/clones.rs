//! Volumes by cloning, on file systems whose files share extents.

mod clients;
mod full;
mod kills;

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;

use lvp_api::{GoldenVolumes, JobState, JobStatus, Method, VerifiedVolume};
use lvp_testkit::daemon::{Daemon, Home, wait_for};
use lvp_testkit::fault::{Fault, FaultProxy, Rule};
use lvp_testkit::loopfs::LoopFs;
use lvp_testkit::require::require;
use lvp_testkit::s3::S3;
use serde_json::{Value, json};

use crate::restore::{back_up, check_recorded, forget_the_end, restore};
use crate::support::{BINARY, MIB, World, address, completed, ended, holds, image, metric};

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
        Self::over(kind, S3::start().await.expect("it starts"), None)
    }

    async fn with_faults() -> (Self, FaultProxy) {
        let s3 = S3::start().await.expect("it starts");
        let proxy = FaultProxy::start(address(&s3)).await.expect("it starts");
        let endpoint = proxy.endpoint();
        (Self::over("xfs", s3, Some(&endpoint)), proxy)
    }

    fn over(kind: &str, s3: S3, endpoint: Option<&str>) -> Self {
        let file_system = LoopFs::new(kind, 0).expect("it is mounted");
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
        // One pass, and what the plan was made from.
        let sent = world.sent("a.qcow2");
        assert!(sent < bytes.len() as u64 * 3 / 2, "{sent}");

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
        assert!(
            sent < bytes.len() as u64 * 3 / 2,
            "{sent} of {}",
            bytes.len()
        );
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

#[tokio::test]
async fn a_volume_is_replaced_at_once_and_keeps_its_content_until_then() {
    if !require("xfs") {
        return;
    }
    let (world, proxy) = Sharing::with_faults().await;
    let (first, second) = (image(DISK, 100, 5), image(DISK, 300, 6));
    let (old, new) = (
        world.put("old.qcow2", &first.build()),
        world.put("new.qcow2", &second.build()),
    );
    let daemon = world.start();
    completed(&daemon, &old, "vm", DISK).await;
    let volume = world.home.volume("vm");
    let before = fs::metadata(&volume).expect("it is there");

    // While the new image is fetched, and when that is cancelled.
    proxy.inject(Rule::new(Fault::Slow(100_000)).method("GET"));
    let job = daemon.provision(&new, "vm", DISK).await.expect("accepted");
    wait_for("the golden volume in the making", async || {
        (world.golden_files().len() == 2).then_some(())
    })
    .await;
    assert!(holds(&volume, &first.disk()));
    let answer = daemon
        .call("POST", &format!("/api/v1/jobs/{job}/cancel"), None)
        .await;
    assert_eq!(answer.expect("it answers").status, 200);
    assert!(holds(&volume, &first.disk()));
    assert_eq!(world.golden_files().len(), 1, "nothing half made is left");
    proxy.clear();

    // While a guest has it.
    let guest = fs::File::open(&volume).expect("it opens");
    let refused = ended(&daemon, &new, "vm", DISK).await;
    assert_eq!(refused.error_type.as_deref(), Some("volume_refused"));
    assert!(holds(&volume, &first.disk()));
    drop(guest);

    let status = completed(&daemon, &new, "vm", DISK).await;
    assert_eq!(status.method, Some(Method::Clone));
    assert!(holds(&volume, &second.disk()));
    let after = fs::metadata(&volume).expect("it is there");
    assert_ne!(before.ino(), after.ino());
    assert_eq!(before.len(), after.len());
    assert_eq!(world.golden_files().len(), 2, "no clone waits");

    // A larger image does not fit, and the volume stays.
    let large = world.put("large.qcow2", &image(2 * DISK, 10, 7).build());
    let refused = ended(&daemon, &large, "vm", DISK).await;
    assert_eq!(refused.error_type.as_deref(), Some("volume_too_small"));
    assert!(holds(&volume, &second.disk()));
    assert_eq!(world.golden_files().len(), 2);
}

#[tokio::test]
async fn a_kill_while_the_golden_volume_is_made_leaves_nothing_that_is_used() {
    if !require("xfs") {
        return;
    }
    for is_resumed in [true, false] {
        kill_the_maker(is_resumed).await;
    }
}

async fn kill_the_maker(is_resumed: bool) {
    let (world, proxy) = Sharing::with_faults().await;
    let builder = image(DISK, 400, 8);
    let url = world.put("a.qcow2", &builder.build());
    proxy.inject(Rule::new(Fault::Slow(300_000)).method("GET"));
    let daemon = world.start();
    let job = daemon.provision(&url, "vm", DISK).await.expect("accepted");
    let follower = daemon
        .provision(&url, "vm-2", DISK)
        .await
        .expect("accepted");
    wait_for("the golden volume in the making", async || {
        let listed = golden(&daemon).await.volumes;
        let volume = listed.into_iter().next()?;
        assert_eq!(volume.flaw.as_deref(), Some("is not finished"));
        assert!(volume.in_use);
        Some(())
    })
    .await;
    daemon.kill().expect("it is killed");
    assert!(!world.home.volume("vm").exists());

    if is_resumed {
        // The next start goes on with both.
        proxy.clear();
        let daemon = world.start();
        for (job, volume) in [(&job, "vm"), (&follower, "vm-2")] {
            let status = daemon.ended(job).await.expect("it ends");
            assert_eq!(status.method, Some(Method::Clone), "{status:?}");
            assert!(holds(&world.home.volume(volume), &builder.disk()));
        }
        let listed = golden(&daemon).await.volumes;
        assert_eq!((listed.len(), &listed[0].flaw), (1, &None));
    } else {
        // Nobody goes on, so it is swept.
        let arguments = ["db", "cancel-unfinished", "--config", "/dev/null"];
        let output = world.home.run(&arguments).expect("it starts");
        assert!(output.status.success(), "{output:?}");
        let _daemon = world.start();
        wait_for("the sweep", async || {
            world.golden_files().is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_clone_that_a_kill_left_unfinished_is_made_anew_and_one_that_waited_is_swept() {
    if !require("xfs") {
        return;
    }
    let world = Sharing::on("xfs").await;
    let builder = image(DISK, 100, 17);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let job = daemon.provision(&url, "vm", DISK).await.expect("accepted");
    let digest = daemon.ended(&job).await.expect("it ends").image_digest;
    let digest = digest.expect("it has one");
    daemon.kill().expect("it is killed");

    // As if it had been killed before the clone said ready, with whatever in it.
    let record = world.home.volume(".lvp").join("vm.json");
    let text = fs::read_to_string(&record).expect("it has a record");
    let mut json: Value = serde_json::from_str(&text).expect("JSON");
    let fields = json.as_object_mut().expect("an object");
    fields.remove("image").expect("it is ready");
    fields.insert("state".to_owned(), "populating".into());
    fields.insert("created".to_owned(), true.into());
    fs::write(&record, json.to_string()).expect("it is written");
    fs::write(world.home.volume("vm"), b"half").expect("it is written");
    // And another one while it was to replace a volume; its job is unknown.
    let waits = world
        .golden_dir()
        .join(format!("lvp-new-{}", lvp_api::JobId::random()));
    fs::write(&waits, b"half").expect("it is written");
    forget_the_end(&world, &job, 1);

    let daemon = world.start();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert_eq!(status.method, Some(Method::Clone), "{status:?}");
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
    wait_for("the sweep", async || (!waits.exists()).then_some(())).await;

    // One that had said so is only recorded.
    daemon.kill().expect("it is killed");
    forget_the_end(&world, &job, 1);
    let daemon = world.start();
    let status = daemon.ended(&job).await.expect("it ends");
    check_recorded(&status, &digest);
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
}

#[tokio::test]
async fn a_golden_volume_that_the_database_does_not_know_is_used_once_the_object_was_read() {
    if !require("xfs") {
        return;
    }
    let world = Sharing::on("xfs").await;
    let builder = image(DISK, 100, 9);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let copy = back_up(&world, "nightly.db");
    completed(&daemon, &url, "vm", DISK).await;
    daemon.kill().expect("it is killed");
    restore(&world, &copy);
    world.s3.traffic().reset();
    let daemon = world.start();
    wait_for("the golden volume", async || {
        let listed = golden(&daemon).await;
        listed.volumes.first()?.made_at.clone()
    })
    .await;
    // Its digest is announced, but nobody has read this object.
    let second = completed(&daemon, &url, "vm-2", DISK).await;
    assert_eq!(second.method, Some(Method::Clone));
    assert!(!says(&second, "golden volume on the way"), "{second:?}");
    assert!(world.sent("a.qcow2") > 0);
    assert!(holds(&world.home.volume("vm-2"), &builder.disk()));
    world.s3.traffic().reset();
    completed(&daemon, &url, "vm-3", DISK).await;
    assert_eq!(world.sent("a.qcow2"), 0);
}

#[tokio::test]
async fn an_object_with_other_bytes_is_never_served_from_the_golden_volume_of_the_former_ones() {
    if !require("xfs") {
        return;
    }
    let world = Sharing::on("xfs").await;
    let (first, second) = (image(DISK, 100, 11), image(DISK, 100, 13));
    let url = world.put("a.qcow2", &first.build());
    let daemon = world.start();
    completed(&daemon, &url, "vm-1", DISK).await;
    // Without its sidecar it is not what it should be; with it, it is another image.
    let objects = world.s3.objects();
    objects
        .put("images", "a.qcow2", &second.build())
        .expect("it is put");
    let status = ended(&daemon, &url, "vm-2", DISK).await;
    assert_eq!(
        status.error_type.as_deref(),
        Some("digest_mismatch"),
        "{status:?}"
    );
    assert!(!world.home.volume("vm-2").exists());
    objects.put_sidecar("images", "a.qcow2").expect("it is put");
    let status = completed(&daemon, &url, "vm-2", DISK).await;
    assert_eq!(status.method, Some(Method::Clone));
    assert!(holds(&world.home.volume("vm-2"), &second.disk()));
    // A checksum of the request that is not the image's.
    let wrong = format!("sha256:{}", "0".repeat(64));
    let status = asked(&daemon, &url, "vm-3", json!({ "checksum": wrong })).await;
    assert_eq!(status.status, JobState::Failed, "{status:?}");
    let wrong = format!("sha512:{}", "0".repeat(128));
    let status = asked(&daemon, &url, "vm-3", json!({ "checksum": wrong })).await;
    assert_eq!(
        status.error_type.as_deref(),
        Some("digest_mismatch"),
        "{status:?}"
    );
    assert!(!world.home.volume("vm-3").exists());
}

#[tokio::test]
async fn a_sha512_is_compared_before_the_first_clone_and_remembered() {
    if !require("xfs") {
        return;
    }
    let world = Sharing::on("xfs").await;
    let bytes = image(DISK, 100, 12).build();
    let url = world.put("a.qcow2", &bytes);
    let daemon = world.start();
    completed(&daemon, &url, "vm-1", DISK).await;
    let sha512 = <sha2::Sha512 as sha2::Digest>::digest(&bytes);
    let sha512 = sha512
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    let checksum = json!({ "checksum": format!("sha512:{sha512}") });
    // From the cached file.
    let status = asked(&daemon, &url, "vm-2", checksum.clone()).await;
    assert_eq!(status.method, Some(Method::Clone), "{status:?}");
    assert_eq!(status.cache_hit, Some(true));
    forget_cached(&daemon, &status).await;
    world.s3.traffic().reset();
    let status = asked(&daemon, &url, "vm-3", checksum).await;
    assert_eq!(status.method, Some(Method::Clone), "{status:?}");
    assert_eq!(world.sent("a.qcow2"), 0);
}

#[tokio::test]
async fn golden_volumes_are_made_ahead_listed_removed_and_made_anew_when_they_are_flawed() {
    if !require("btrfs") {
        return;
    }
    let world = Sharing::on("btrfs").await.with("GOLDEN_MAX_COUNT", "2");
    let builders: Vec<_> = (0..3).map(|seed| image(DISK, 50, 21 + 2 * seed)).collect();
    let urls: Vec<_> = (0..3)
        .map(|number| world.put(&format!("{number}.qcow2"), &builders[number].build()))
        .collect();
    let daemon = world.start();
    let make = async |url: &str| {
        let body = json!({ "image_url": url });
        let job = daemon
            .submit("/api/v1/golden", body)
            .await
            .expect("accepted");
        let status = daemon.ended(&job).await.expect("it ends");
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        assert_eq!(status.kind.as_str(), "golden");
        status
    };
    let made = make(&urls[0]).await;
    assert_eq!((made.method, made.volume_name.clone()), (None, None));
    // It is there: nothing is fetched or written.
    world.s3.traffic().reset();
    make(&urls[0]).await;
    assert_eq!(world.sent("0.qcow2"), 0);
    let status = completed(&daemon, &urls[0], "vm-0", DISK).await;
    assert_eq!(status.method, Some(Method::Clone));
    assert_eq!(world.sent("0.qcow2"), 0);

    let cached: lvp_api::CachedImages = daemon.get("/api/v1/cache/images").await.expect("a list");
    assert!(cached.images[0].golden);

    // The longest unused goes.
    make(&urls[1]).await;
    completed(&daemon, &urls[0], "vm-0b", DISK).await;
    make(&urls[2]).await;
    let keys = async || {
        let listed = golden(&daemon).await.volumes;
        listed
            .into_iter()
            .map(|volume| volume.image_url)
            .collect::<Vec<_>>()
    };
    assert_eq!(keys().await, [urls[2].clone(), urls[0].clone()]);
    assert_eq!(metric(&daemon, "golden_dropped_total").await, Some(1.0));

    // One that somebody wrote to.
    let name = format!(
        "lvp-golden-{}-qcow2",
        made.image_digest.as_deref().expect("one")
    );
    fs::write(world.golden_dir().join(&name), b"changed").expect("root may");
    let listed = golden(&daemon).await.volumes;
    assert!(
        listed.iter().any(|volume| volume.flaw.is_some()),
        "{listed:?}"
    );
    let status = completed(&daemon, &urls[0], "vm-0c", DISK).await;
    assert_eq!(status.method, Some(Method::Clone));
    assert!(says(&status, "golden volume on the way"), "{status:?}");
    assert!(holds(&world.home.volume("vm-0c"), &builders[0].disk()));
    assert!(
        daemon
            .log_text()
            .iter()
            .any(|line| line.contains("will be made anew"))
    );

    // Removing it leaves its clones.
    let key = made.image_digest.expect("it has one");
    let remove = async |key: &str| {
        let route = format!("/api/v1/golden/{key}");
        let answer = daemon.call("DELETE", &route, None).await;
        answer.expect("it answers").status
    };
    assert_eq!(remove(&key).await, 200);
    assert_eq!(remove(&key).await, 404);
    assert_eq!(remove("x").await, 400);
    assert_eq!(keys().await, [urls[2].clone()]);
    assert!(holds(&world.home.volume("vm-0c"), &builders[0].disk()));
}

#[tokio::test]
async fn a_golden_volume_gives_way_before_a_request_is_refused_for_want_of_room() {
    if !require("xfs") {
        return;
    }
    let world = Sharing::on("xfs").await;
    // Of bytes that take room.
    let builder = image(64 * MIB, 900, 30);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let body = json!({ "image_url": url });
    let job = daemon
        .submit("/api/v1/golden", body)
        .await
        .expect("accepted");
    daemon.ended(&job).await.expect("it ends");
    assert_eq!(golden(&daemon).await.count, 1);
    let room = rustix::fs::statvfs(world.home.path()).expect("it has room");
    let free = room.f_bavail * room.f_frsize;
    let other = world.put("b.qcow2", &image(DISK, 4, 31).build());
    let put = async |url: &str, size_bytes: u64, clone: &str| {
        let body = json!({
            "image_url": url, "volume_name": "vm", "volume_size_bytes": size_bytes, "clone": clone,
        });
        let job = daemon.submit("/api/v1/jobs", body).await.expect("accepted");
        daemon.ended(&job).await.expect("it ends")
    };
    // Not for what would not fit even then.
    for (url, clone) in [(&url, "auto"), (&url, "require"), (&other, "never")] {
        let status = put(url, free + 1024 * MIB, clone).await;
        assert_eq!(status.status, JobState::Failed, "{status:?}");
        let error = status.error.expect("it says why");
        assert!(error.contains("free") && error.contains("needs"), "{error}");
        assert_eq!(golden(&daemon).await.count, 1, "{clone}");
    }
    let status = put(&other, free + 4 * MIB, "never").await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert_eq!(golden(&daemon).await.count, 0);
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
async fn a_volume_is_compared_with_what_was_written_to_it() {
    if !require("xfs") {
        return;
    }
    let world = Sharing::on("xfs").await;
    let builder = image(DISK, 100, 15);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let written = asked(&daemon, &url, "vm-0", json!({ "clone": "never" })).await;
    assert_eq!(written.status, JobState::Completed);
    // Nobody has recorded what it is.
    let (status, text) = verified(&daemon, "vm-0").await.expect_err("it is refused");
    assert_eq!(status, 409, "{text}");
    assert!(text.contains("golden make"), "{text}");
    let status = completed(&daemon, &url, "vm-1", 2 * DISK).await;
    let digest = status.image_digest.expect("it has one");
    let golden_name = format!("lvp-golden-{digest}-qcow2");
    for volume in ["vm-0", "vm-1", &golden_name] {
        let found = verified(&daemon, volume).await.expect("it is read");
        assert!(found.matches && found.differences.is_empty(), "{found:?}");
        assert_eq!((&found.image_digest, found.disk_bytes), (&digest, DISK));
        assert_eq!(found.expected_digest, found.found_digest);
    }

    // A guest's writes: within the image's disk, and behind it.
    let guest = world.home.volume("vm-1");
    let file = fs::File::options().write(true).open(guest);
    let file = file.expect("it opens");
    file.write_all_at(&[1; 10], 5 * 4096 + 7).expect("written");
    file.write_all_at(&[1; 10], DISK + 3 * 4096)
        .expect("written");
    file.sync_all().expect("synced");
    let (status, text) = verified(&daemon, "vm-1").await.expect_err("it is open");
    assert_eq!(status, 409, "{text}");
    drop(file);
    let found = verified(&daemon, "vm-1").await.expect("it is read");
    assert!(!found.matches);
    assert_ne!(found.expected_digest, found.found_digest);
    let parts: Vec<_> = found
        .differences
        .iter()
        .map(|part| (part.offset, part.length))
        .collect();
    assert_eq!(parts, [(5 * 4096, 4096), (DISK + 3 * 4096, 4096)]);
    for (volume, expected) in [("absent", 404), ("..", 404), ("a%20b", 400)] {
        let (status, text) = verified(&daemon, volume).await.expect_err("there is none");
        assert_eq!(status, expected, "{volume}: {text}");
    }
}
