//! Many requests for one image at once, and clones of large images.
//!
//! `LVP_MANY=100` makes it a hundred requests, which take minutes here.

#![expect(clippy::print_stdout, reason = "what was measured")]

use std::env;
use std::time::{Duration, Instant};

use lvp_api::{JobState, Method};
use lvp_testkit::lvm::{device, tool};

use super::{DISK_MIB, thin};
use crate::support::{MIB, World, completed, holds, image, metric};

/// How many requests there are unless `LVP_MANY` says it.
const FEW: u32 = 8;

/// The disk for a pool that 10 GiB fit in; little of it is ever written.
pub(crate) const LARGE_DISK_MIB: u64 = 11_000;

/// How often clones of each size are timed.
const TIMES: usize = 5;

/// Requests so many volumes at once, and checks each; how long all took.
async fn at_once(world: &World, disk_bytes: u64, method: Option<Method>) -> (u32, Duration) {
    let count = env::var("LVP_MANY").map_or(FEW, |text| text.parse().expect("a number"));
    let builder = image(disk_bytes, disk_bytes / MIB * 8, 1);
    let bytes = builder.build();
    let url = world.put("a.qcow2", &bytes);
    let daemon = world.start();
    let started = Instant::now();
    let mut jobs = Vec::new();
    for number in 0..count {
        let job = daemon
            .provision(&url, &format!("vm-{number}"), disk_bytes)
            .await;
        jobs.push(job.expect("it is accepted"));
    }
    for (number, job) in jobs.iter().enumerate() {
        let status = daemon.ended(job).await.expect("it ends");
        assert_eq!(status.status, JobState::Completed, "{number}: {status:?}");
        if method.is_some() {
            assert_eq!(status.method, method, "{number}: {status:?}");
        }
    }
    let took = started.elapsed();
    for number in 0..count {
        let volume = device(&format!("vm-{number}"));
        assert!(holds(&volume, &builder.disk()), "vm-{number} is wrong");
    }
    let sent = world.s3.traffic().object("images/a.qcow2").sent_bytes;
    let length = bytes.len() as u64;
    assert!(sent < length * 3 / 2, "{sent} bytes were sent of {length}");
    assert_eq!(metric(&daemon, "images_downloaded_total").await, Some(1.0));
    let written = metric(&daemon, "transferred_bytes_total{direction=\"written\"}").await;
    println!(
        "{count} at once: {took:?}; {sent} bytes were sent of {length}, {} were written for disks of {disk_bytes}",
        written.unwrap_or_default()
    );
    (count, took)
}

/// One download, one decode, and clones.
pub(crate) async fn thin_volumes_that_are_requested_at_once_are_clones_of_one_golden_volume() {
    let world = thin::world_on(DISK_MIB, 300, 4).await;
    let (count, _) = at_once(&world, 16 * MIB, Some(Method::Clone)).await;
    let tags = tool("lvs --noheadings -o lv_name,origin vg0");
    let clones = tags.lines().filter(|line| line.contains("lvp-golden-"));
    // The golden volume's own line is one of them.
    assert_eq!(clones.count() as u32, count + 1, "{tags}");
}

/// One download; what is decoded again and again is unpacked.
pub(crate) async fn linear_volumes_that_are_requested_at_once_cost_one_download() {
    let (world, _proxy) = super::world().await;
    at_once(&world, 4 * MIB, None).await;
}

/// A clone of a large image costs what one of a small image costs.
pub(crate) async fn what_a_clone_costs_does_not_depend_on_its_image() {
    const LARGE: u64 = 10 << 30;
    let world = thin::world_on(LARGE_DISK_MIB, 10_500, 16).await;
    let small = world.put("small.qcow2", &image(16 * MIB, 100, 1).build());
    let large = world.put("large.qcow2", &image(LARGE, 1600, 3).build());
    let daemon = world.start();
    let images = [("small", small, 16 * MIB), ("large", large, LARGE)];
    for (name, url, bytes) in &images {
        completed(&daemon, url, &format!("{name}-golden"), *bytes).await;
    }
    let mut times = [const { Vec::new() }; 2];
    for round in 0..TIMES {
        for ((name, url, bytes), times) in images.iter().zip(&mut times) {
            let volume = format!("{name}-{round}");
            let started = Instant::now();
            let status = completed(&daemon, url, &volume, *bytes).await;
            times.push(started.elapsed());
            assert_eq!(status.method, Some(Method::Clone), "{status:?}");
        }
    }
    let [small, large] = times.map(thin::median);
    println!("median of {TIMES}: a clone of 16 MiB takes {small:?}, one of 10 GiB {large:?}");
    assert!(large < 3 * small, "{large:?} and {small:?}");
}
