//! Golden volumes and jobs that are paused.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use lvp_api::JobState;
use lvp_testkit::fault::{Fault, Request, Rule};
use lvp_testkit::require::require;
use serde_json::json;

use super::{DISK, Sharing};
use crate::support::{MIB, fetched, holds, image};

#[tokio::test]
async fn a_job_that_makes_a_golden_volume_goes_on_for_an_urgent_one_that_waits_for_it() {
    if !require("xfs") {
        return;
    }
    let (world, proxy) = Sharing::with_faults().await;
    let world = world.with("MAX_CONCURRENT", "1");
    let slow = |request: &Request| {
        request.method == "GET"
            && request.target.contains("packed")
            && !request.target.contains("sha256")
    };
    proxy.inject(Rule::new(Fault::Slow(300_000)).when(slow));
    // It has to be unpacked: it is downloaded to the cache before the golden volume is begun.
    let builder = image(DISK, 400, 61);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
    gzip.write_all(&builder.build()).expect("in memory");
    let url = world.put("packed.gz", &gzip.finish().expect("in memory"));
    let daemon = world.start();
    let submitted = async |volume: &str, priority: &str| {
        let body = json!({
            "image_url": url, "volume_name": volume, "volume_size_bytes": DISK, "priority": priority,
        });
        let job = daemon.submit("/api/v1/jobs", body).await;
        job.expect("it is accepted")
    };
    let low = submitted("low", "low").await;
    fetched(&daemon, &low, MIB).await;
    // It takes the only slot, and then there is nothing that it could do with it.
    let high = submitted("high", "high").await;
    for (job, volume) in [(&high, "high"), (&low, "low")] {
        let status = daemon.ended(job).await.expect("it ends");
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        assert!(
            holds(&world.home.volume(volume), &builder.disk()),
            "{volume}"
        );
    }
}
