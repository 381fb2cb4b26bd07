//! Which copies are made, which go, and what is swept.

use super::*;

#[tokio::test]
async fn a_copy_takes_no_more_than_the_cache_may_and_goes_before_its_image() {
    if !require("ext4") {
        return;
    }
    // Mostly data that compresses well, so that the disks are what takes the room.
    let builders = [5, 7].map(|seed| nested(600, seed));
    let images = builders.each_ref().map(ImageBuilder::build);
    let both = images[0].len() + images[1].len();
    for (limit, use_, kept) in [
        // Room for both images and no copy.
        (both as u64 + MIB, "auto", [false, false]),
        // Room for one copy: the first is made, and nothing of an image in use goes for the second.
        (both as u64 + 45 * MIB, "auto", [true, false]),
        // The copy that was not used for longer makes room.
        (both as u64 + 45 * MIB, "always", [false, true]),
    ] {
        let world = Plain::new()
            .await
            .with("CACHE_UNPACKED", use_)
            .with("CACHE_MAX_SIZE_BYTES", &limit.to_string());
        let daemon = world.start();
        let urls = [0, 1].map(|at| world.put(&format!("{at}.qcow2"), &images[at]));
        for (url, builder) in urls.iter().zip(&builders) {
            for _ in 0..3 {
                let status = completed(&daemon, url, "vm", DISK).await;
                assert!(!says(&status, "No unpacked copy"), "{status:?}");
                assert!(holds(&world.home.volume("vm"), &builder.disk()));
            }
        }
        let listed = list(&daemon).await;
        let has = |url: &String| {
            let image = listed.images.iter().find(|image| image.image_url == *url);
            image.expect("it is cached").unpacked_bytes > 0
        };
        assert_eq!(urls.each_ref().map(has), kept, "{use_} {limit}");
        assert_eq!(
            world.disks().len(),
            kept.iter().filter(|kept| **kept).count()
        );
        let size = metric(&daemon, "cache_size_bytes").await;
        assert!(size.expect("it is there") <= limit as f64);
        // A download takes the room of the copy first.
        if kept == [true, false] {
            let third = image(DISK, 200, 9).build();
            assert!(third.len() as u64 > MIB && (third.len() as u64) < 40 * MIB);
            fetch(&daemon, &world.put("c.qcow2", &third)).await;
            assert_eq!(list(&daemon).await.count, 3);
            assert_eq!(world.disks(), Vec::<String>::new());
        }
    }
    // With `always`, the note says that it cannot be.
    let world = Plain::new().await.with("CACHE_UNPACKED", "always").with(
        "CACHE_MAX_SIZE_BYTES",
        &(images[0].len() as u64 + MIB).to_string(),
    );
    let daemon = world.start();
    let url = world.put("a.qcow2", &images[0]);
    fetch(&daemon, &url).await;
    let status = completed(&daemon, &url, "vm", DISK).await;
    assert!(
        says(&status, "No unpacked copy of the image was made"),
        "{status:?}"
    );
    assert!(holds(&world.home.volume("vm"), &builders[0].disk()));
    assert_eq!(list(&daemon).await.count, 1);
}

#[tokio::test]
async fn copies_are_not_made_where_volumes_are_cloned_or_when_they_are_not_wanted() {
    for (kind, use_, expected) in [
        ("xfs", "auto", 0),
        ("xfs", "always", 1),
        ("ext4", "never", 0),
    ] {
        if !require(kind) {
            continue;
        }
        let world = Plain::on(kind).await.with("CACHE_UNPACKED", use_);
        let builder = nested(100, 11);
        let url = world.put("a.qcow2", &builder.build());
        let daemon = world.start();
        for number in 0..4 {
            let volume = format!("vm-{number}");
            let body = json!({
                "image_url": url, "volume_name": volume, "volume_size_bytes": DISK,
                "clone": "never",
            });
            let job = daemon.submit("/api/v1/jobs", body).await.expect("accepted");
            let status = daemon.ended(&job).await.expect("it ends");
            assert_eq!(status.status, JobState::Completed, "{status:?}");
            assert!(holds(&world.home.volume(&volume), &builder.disk()));
        }
        assert_eq!(world.disks().len(), expected, "{kind} {use_}");
    }
}

#[tokio::test]
async fn what_is_left_of_copies_is_swept_and_never_removes_those_that_are_there() {
    if !require("ext4") {
        return;
    }
    let world = Plain::new().await.with("CACHE_UNPACKED", "always");
    let builder = nested(100, 13);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    fetch(&daemon, &url).await;
    completed(&daemon, &url, "vm", DISK).await;
    let name = world.disks().remove(0);
    daemon.kill().expect("it is killed");
    let orphans = [
        format!(".lvp-{}-qcow2.disk", "a".repeat(64)),
        format!("{name}.partial"),
        name.replace("-qcow2", "-raw"),
    ];
    for orphan in &orphans {
        fs::write(world.cached(orphan), b"left by a crash").expect("it is written");
    }
    let others = [".lvp-mine.disk", ".lvp-abc-qcow2.disk"];
    for other in others {
        fs::write(world.cached(other), b"somebody's").expect("it is written");
    }
    let daemon = world.start();
    wait_for("the sweep", async || {
        let left = world.disks();
        orphans
            .iter()
            .all(|name| !left.contains(name))
            .then_some(())
    })
    .await;
    let left = world.disks();
    assert!(left.contains(&name), "{left:?}");
    assert!(
        others
            .iter()
            .all(|other| left.iter().any(|name| name == other))
    );
    completed(&daemon, &url, "vm", DISK).await;
    assert_eq!(counted(&daemon).await, (0.0, 1.0));
    drop(daemon);
    let world = world.with("CACHE_UNPACKED", "never");
    let daemon = world.start();
    wait_for("the sweep", async || {
        (!world.disks().contains(&name)).then_some(())
    })
    .await;
    let status = completed(&daemon, &url, "vm", DISK).await;
    assert_eq!(status.method, Some(Method::Copy));
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
}
