//! The cache over the API and on the disk.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use lvp_api::{CachedImages, JobState, Stage};
use lvp_testkit::daemon::wait_for;
use lvp_testkit::fault::{Fault, Rule};
use serde_json::json;

use crate::support::{MIB, World, completed, ended, holds, image};

#[tokio::test]
async fn the_cache_is_filled_listed_used_and_deleted() {
    let world = World::new().await;
    let builder = image(32 * MIB, 30, 1);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let job = daemon
        .submit("/api/v1/cache/fetch", json!({"image_url": url}))
        .await
        .expect("a job");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(
        (status.status, status.volume_name),
        (JobState::Completed, None)
    );

    let images: CachedImages = daemon.get("/api/v1/cache/images").await.expect("a list");
    assert_eq!((images.count, images.offset, images.limit), (1, 0, 100));
    let image = &images.images[0];
    assert_eq!(image.size, builder.build().len() as u64);
    assert_eq!(Some(&image.checksum), status.image_digest.as_ref());
    let none: CachedImages = daemon
        .get("/api/v1/cache/images?offset=1")
        .await
        .expect("a list");
    assert_eq!((none.count, none.images.len()), (1, 0));

    let status = ended(&daemon, &url, "vm", 32 * MIB).await;
    assert_eq!(
        (status.status, status.cache_hit),
        (JobState::Completed, Some(true))
    );

    let route = format!("/api/v1/cache/images/{}", image.key);
    let answer = daemon
        .call("DELETE", &route, None)
        .await
        .expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, json!({"status": "deleted", "key": image.key}));
    assert_eq!(world.home.cache_files(), Vec::<String>::new());
    assert_eq!(
        daemon
            .call("DELETE", &route, None)
            .await
            .expect("an answer")
            .status,
        404
    );
}

#[tokio::test]
async fn a_cached_file_that_changed_on_the_disk_is_fetched_again() {
    let world = World::new().await;
    let builder = image(32 * MIB, 30, 1);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let job = daemon
        .submit("/api/v1/cache/fetch", json!({"image_url": url}))
        .await
        .expect("a job");
    let path = daemon
        .ended(&job)
        .await
        .expect("it ends")
        .image_path
        .expect("a path");
    let mut bytes = fs::read(&path).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).expect("it is damaged");

    let status = ended(&daemon, &url, "vm", 32 * MIB).await;
    assert_eq!(
        (status.status, status.cache_hit),
        (JobState::Completed, Some(false)),
        "{status:?}"
    );
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
    assert_eq!(fs::read(&path).expect("it is there again"), builder.build());
}

#[tokio::test]
async fn a_cached_file_that_is_changed_while_it_is_copied_makes_no_volume_ready() {
    let world = World::new().await.with("LVM_MAX_WRITE_BYTES_PER_SEC", "2M");
    let builder = image(64 * MIB, 150, 1);
    let bytes = builder.build();
    let url = world.put("a.qcow2", &bytes);
    let daemon = world.start();
    let fetched = daemon
        .submit("/api/v1/cache/fetch", json!({"image_url": url}))
        .await
        .expect("a job");
    let fetched = daemon.ended(&fetched).await.expect("it ends");
    let path = fetched.image_path.expect("a path");

    let job = daemon.provision(&url, "vm", 64 * MIB).await;
    let job = job.expect("it is accepted");
    wait_for("the copy to be under way", async || {
        let progress = daemon.status(&job).await.ok()?.progress?;
        (progress.stage == Stage::Converting && progress.percent > 0.0).then_some(())
    })
    .await;
    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 1;
    let file = File::options().write(true).open(&path).expect("it opens");
    file.write_all_at(&changed, 0).expect("it is written");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(
        (status.status, status.error_type.as_deref()),
        (JobState::Failed, Some("cache")),
        "{status:?}"
    );
    let error = status.error.expect("an error");
    assert!(error.contains("was changed while it was read"), "{error}");
    assert_eq!(world.home.volume_files(), Vec::<String>::new());

    let status = ended(&daemon, &url, "vm", 64 * MIB).await;
    assert_eq!(
        (status.status, status.cache_hit),
        (JobState::Completed, Some(false))
    );
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
}

#[tokio::test]
async fn a_cache_directory_that_was_away_has_forgotten_nothing() {
    let world = World::new().await;
    let builder = image(32 * MIB, 9, 1);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let job = daemon.provision(&url, "vm", 32 * MIB).await;
    daemon.ended(&job.expect("a job")).await.expect("it ends");
    let (cache, away) = (
        world.home.path().join("cache"),
        world.home.path().join("away"),
    );
    fs::rename(&cache, &away).expect("it is moved");
    let job = daemon.provision(&url, "vm", 32 * MIB).await;
    let job = job.expect("a job");
    wait_for("the job to wait", async || {
        let status = daemon.status(&job).await.ok()?;
        let waits = |note: &String| note.starts_with("Waited") && note.contains("is missing");
        status.notes.iter().any(waits).then_some(())
    })
    .await;
    assert!(!cache.exists(), "a look makes nothing");
    fs::rename(&away, &cache).expect("it is moved");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(
        (status.status, status.cache_hit),
        (JobState::Completed, Some(true)),
        "{status:?}"
    );
}

#[tokio::test]
async fn without_a_sidecar_a_changed_object_is_fetched_again() {
    let world = World::new().await;
    let daemon = world.start();
    let url = "s3://images/latest.qcow2";
    for (seed, hit) in [(1, false), (1, true), (2, false)] {
        let builder = image(32 * MIB, 20 + seed, seed);
        if !hit {
            let bytes = builder.build();
            world
                .s3
                .objects()
                .put("images", "latest.qcow2", &bytes)
                .expect("it is written");
        }
        let status = ended(&daemon, url, "vm", 32 * MIB).await;
        assert_eq!(
            (status.status, status.cache_hit),
            (JobState::Completed, Some(hit))
        );
        assert!(holds(&world.home.volume("vm"), &builder.disk()));
    }
}

#[tokio::test]
async fn the_longest_unused_image_makes_room_for_a_new_one() {
    let images = [1, 3, 5].map(|seed| image(32 * MIB, 90, seed).build());
    let limit = images[0].len() * 5 / 2;
    let world = World::new()
        .await
        .with("CACHE_MAX_SIZE_BYTES", &limit.to_string());
    let daemon = world.start();
    for (index, bytes) in images.iter().enumerate() {
        let url = world.put(&format!("{index}.qcow2"), bytes);
        let job = daemon
            .submit("/api/v1/cache/fetch", json!({"image_url": url}))
            .await;
        let status = daemon.ended(&job.expect("a job")).await.expect("it ends");
        assert_eq!(status.status, JobState::Completed, "{status:?}");
    }
    let left: CachedImages = daemon.get("/api/v1/cache/images").await.expect("a list");
    let urls: Vec<_> = left
        .images
        .iter()
        .map(|image| image.image_url.as_str())
        .collect();
    assert_eq!(urls, ["s3://images/2.qcow2", "s3://images/1.qcow2"]);
    assert_eq!(world.home.cache_files().len(), 2);
}

#[tokio::test]
async fn an_image_that_can_never_fit_the_cache_is_refused_with_the_numbers() {
    let world = World::new().await.with("CACHE_MAX_SIZE_BYTES", "1M");
    let bytes = image(32 * MIB, 90, 1).build();
    let url = world.put("a.qcow2", &bytes);
    let daemon = world.start();
    let status = ended(&daemon, &url, "vm", 32 * MIB).await;
    assert_eq!(
        (status.status, status.error_code),
        (JobState::Failed, Some(507)),
        "{status:?}"
    );
    assert!(
        status
            .error
            .expect("an error")
            .contains(&bytes.len().to_string())
    );
    assert_eq!(world.home.volume_files(), Vec::<String>::new());
}

#[tokio::test]
async fn images_that_nobody_used_for_long_and_files_of_nobody_are_swept() {
    let world = World::new()
        .await
        .with("CACHE_EVICTION_INTERVAL", "100ms")
        .with("CACHE_MAX_AGE", "1ms");
    let url = world.put("a.qcow2", &image(32 * MIB, 9, 1).build());
    let cache = world.home.path().join("cache");
    fs::create_dir_all(&cache).expect("it is made");
    let orphans = [
        format!(".lvp-{}.partial", "a".repeat(32)),
        format!("{}.img", "b".repeat(64)),
    ];
    for orphan in &orphans {
        fs::write(cache.join(orphan), b"left by a crash").expect("it is written");
    }
    fs::write(cache.join("somebody-elses.qcow2"), b"not ours").expect("it is written");
    let daemon = world.start();
    let job = daemon
        .submit("/api/v1/cache/fetch", json!({"image_url": url}))
        .await
        .expect("a job");
    assert_eq!(
        daemon.ended(&job).await.expect("it ends").status,
        JobState::Completed
    );
    wait_for("the sweep", async || {
        (world.home.cache_files() == ["somebody-elses.qcow2"]).then_some(())
    })
    .await;
    let images: CachedImages = daemon.get("/api/v1/cache/images").await.expect("a list");
    assert_eq!(images.count, 0);
}

#[tokio::test]
async fn an_image_from_a_server_without_ranges_is_fetched_first_and_the_job_says_so() {
    let (world, proxy) = World::with_faults().await;
    // Its tables are at its end, beyond what comes with the first answer.
    let builder = image(32 * MIB, 400, 1);
    let url = world.put("a.qcow2", &builder.build());
    proxy.inject(Rule::new(Fault::IgnoreRange));
    let daemon = world.start();
    let status = completed(&daemon, &url, "vm", 32 * MIB).await;
    assert!(
        status
            .notes
            .iter()
            .any(|note| note.contains("serve ranges")),
        "{:?}",
        status.notes
    );
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
}
