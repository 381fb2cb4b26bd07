//! The file system fills up while a golden volume is written.

use std::fs::File;

use lvp_api::{JobState, Method};
use lvp_testkit::daemon::wait_for;
use lvp_testkit::fault::{Fault, Rule};
use lvp_testkit::require::require;
use rustix::fs::{FallocateFlags, fallocate};

use super::{DISK, Sharing, golden};
use crate::support::{MIB, completed, fetched, holds, image};

/// Takes all room of a file system.
fn fill(world: &Sharing) -> std::path::PathBuf {
    let path = world.home.path().join("filler");
    let file = File::create(&path).expect("it is made");
    let (mut at, mut piece) = (0, 64 * MIB);
    while piece >= 4096 {
        match fallocate(&file, FallocateFlags::empty(), at, piece) {
            Ok(()) => at += piece,
            Err(_) => piece /= 2,
        }
    }
    path
}

#[tokio::test]
async fn a_disk_that_fills_up_while_a_golden_volume_is_written_leaves_nothing_of_it() {
    if !require("xfs") {
        return;
    }
    let (world, proxy) = Sharing::with_faults().await;
    // The cache has room: what runs out is the volumes'.
    let cache = tempfile::tempdir().expect("a directory");
    let world = world.with("CACHE_DIR", &cache.path().display().to_string());
    let builder = image(4 * DISK, 1200, 47);
    let url = world.put("a.qcow2", &builder.build());
    proxy.inject(Rule::new(Fault::Slow(3_000_000)).method("GET"));
    let daemon = world.start();
    let job = daemon.provision(&url, "vm", 4 * DISK).await;
    let job = job.expect("it is accepted");
    wait_for("the golden volume in the making", async || {
        (world.golden_files().len() == 1).then_some(())
    })
    .await;
    fetched(&daemon, &job, MIB).await;
    let filler = fill(&world);
    proxy.clear();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Failed, "{status:?}");
    assert_eq!(status.error_code, Some(507), "{status:?}");
    assert_eq!(world.golden_files(), Vec::<String>::new());
    assert_eq!(world.home.volume_files(), Vec::<String>::new());
    assert_eq!(golden(&daemon).await.count, 0);

    std::fs::remove_file(filler).expect("it is removed");
    let status = completed(&daemon, &url, "vm", 4 * DISK).await;
    assert_eq!(status.method, Some(Method::Clone), "{status:?}");
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
    drop(daemon);
}
