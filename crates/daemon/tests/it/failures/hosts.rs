//! Hosts whose volumes may not be used, whose disks are full, and jobs that are stopped.

use std::fs;

use lvp_testkit::fault::{Fault, Rule};
use lvp_testkit::tmpfs::Tmpfs;
use serde_json::json;

use super::{DISK, Told};
use crate::restore::forget_the_end;
use crate::support::{MIB, World, accepted, completed, fetched, image};

pub(super) async fn refusing(told: &mut Told) {
    let world = World::new().await;
    let volumes =
        Tmpfs::mount(&world.home.path().join("volumes"), 96 * MIB).expect("it is mounted");
    let daemon = world.start();
    let url = world.put("debian-12.qcow2", &image(DISK, 40, 3).build());
    let request = || json!({"image_url": url});

    let must_clone = json!({"image_url": url, "clone": "require"});
    told.of("clone_unavailable", &world, &daemon, must_clone)
        .await;

    completed(&daemon, &url, "vm-volume_refused", DISK).await;
    let guest = fs::File::open(world.home.volume("vm-volume_refused")).expect("it opens");
    told.of("volume_refused", &world, &daemon, request()).await;
    drop(guest);

    completed(&daemon, &url, "vm-volume_too_small", DISK).await;
    let larger = json!({"image_url": url, "volume_size_bytes": 2 * DISK});
    told.of("volume_too_small", &world, &daemon, larger).await;

    volumes.fill().expect("it is filled");
    told.of("volume_no_space", &world, &daemon, request()).await;
    drop(daemon);
    drop(volumes);
}

pub(super) async fn full(told: &mut Told) {
    let (world, proxy) = World::with_faults().await;
    let volumes =
        Tmpfs::mount(&world.home.path().join("volumes"), 96 * MIB).expect("it is mounted");
    let url = world.put("debian-12.qcow2", &image(4 * DISK, 1000, 3).build());
    proxy.inject(Rule::new(Fault::Slow(2_000_000)).method("GET"));
    let daemon = world.start();
    let job = accepted(&daemon, &url, "vm-no_space", 4 * DISK).await;
    fetched(&daemon, &job, MIB).await;
    volumes.fill().expect("it is filled");
    let status = daemon.ended(&job).await.expect("it ends");
    told.keep("no_space", &world, status);
    drop(daemon);
    drop(volumes);

    let world = World::new().await.with("CACHE_MAX_SIZE_BYTES", "1M");
    let daemon = world.start();
    let bytes = image(DISK, 200, 3).build();
    let url = world.put("debian-12.qcow2", &bytes);
    told.of("cache_full", &world, &daemon, json!({"image_url": url}))
        .await;

    drop(daemon);

    let world = World::new().await;
    let daemon = world.start();
    let url = world.put("debian-12.qcow2", &bytes);
    fs::remove_dir_all(world.home.path().join("volumes")).expect("it is removed");
    told.of("volume", &world, &daemon, json!({"image_url": url}))
        .await;
}

pub(super) async fn stopped(told: &mut Told) {
    let world = World::new().await;
    let url = world.put("debian-12.qcow2", &image(DISK, 200, 3).build());
    let daemon = world.start();
    let ended = completed(&daemon, &url, "vm-attempts", DISK).await;
    let attempts = ended.job_id.to_string();

    daemon.kill().expect("it is killed");

    fs::remove_file(world.home.volume("vm-attempts")).expect("it is there");
    forget_the_end(&world, &attempts, 5);
    let daemon = world.start();
    let status = daemon.ended(&attempts).await.expect("it ends");
    told.keep("attempts", &world, status);
}
