//! The quality of progress estimates, measured against the actual time when a job has ended.

use std::time::{Duration, Instant};

use lvp_api::JobState;
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::fault::{Fault, Rule};
use serde_json::json;

use crate::support::{MIB, World};

/// Shares of a job's time and work as they were shown, and when.
struct Course {
    samples: Vec<(Duration, f64)>,
    took: Duration,
}

impl Course {
    async fn of(daemon: &Daemon, url: &str, volume: &str) -> Self {
        let began = Instant::now();
        let body = json!({
            "image_url": url, "volume_name": volume, "volume_size_bytes": 32 * MIB, "image_type": "raw",
        });
        let job = daemon.submit("/api/v1/jobs", body).await.expect("a job");
        let mut samples = Vec::new();
        let took = wait_for("the job's end", async || {
            let status = daemon.status(&job).await.ok()?;
            let seen = began.elapsed();
            if status.status.is_terminal() {
                assert_eq!(status.status, JobState::Completed, "{status:?}");
                return Some(seen);
            }
            let percent = status
                .progress
                .map_or(0.0, |progress| progress.overall_percent);
            samples.push((seen, percent / 100.0));
            None
        })
        .await;
        assert!(samples.len() >= 10, "the job is too short: {took:?}");
        Self { samples, took }
    }

    /// How far the share that was shown was from the share of the time, on average.
    fn error(&self) -> f64 {
        let took = self.took.as_secs_f64();
        let error = |(seen, shown): &(Duration, f64)| (seen.as_secs_f64() / took - shown).abs();
        self.samples.iter().map(error).sum::<f64>() / self.samples.len() as f64
    }
}

/// A server that serves no ranges has the two stages one after the other, so that their weights
/// matter; writing is slow enough here that the default weights are far off.
#[tokio::test]
async fn estimates_learn_from_the_last_jobs() {
    let (world, proxy) = World::with_faults().await;
    // With a mirror, even one that is down, the first answer has no bytes; and without ranges the image is downloaded first.
    let world = world
        .with("LVM_MAX_WRITE_BYTES_PER_SEC", "12M")
        .with("MINIO_MIRRORS", "http://127.0.0.1:9");
    proxy.inject(Rule::new(Fault::IgnoreRange));
    let urls = [(1, 20), (2, 20), (3, 14), (4, 26)].map(|(seed, size_mib): (u8, _)| {
        let bytes = vec![seed; size_mib << 20];
        world.put(&format!("{seed}.img"), &bytes)
    });
    let daemon = world.start();
    let mut errors = Vec::new();
    for (index, url) in urls.iter().enumerate() {
        let course = Course::of(&daemon, url, &format!("vm-{index}")).await;
        errors.push(course.error());
    }
    let (first, later) = errors.split_first().expect("there are jobs");
    let mut later = later.to_vec();
    later.sort_by(f64::total_cmp);
    let median = later[later.len() / 2];
    assert!(median < 0.15 && median < first / 2.0, "{errors:?}");
    // From the cache it is one stage alone, from 0 to 100, whatever the weights are.
    let hit = Course::of(&daemon, &urls[0], "vm-hit").await;
    assert!(hit.error() < 0.15, "{}", hit.error());
    let shown: Vec<f64> = hit.samples.iter().map(|(_, shown)| *shown).collect();
    assert!(
        shown.first() < Some(&0.3) && shown.last() > Some(&0.7),
        "{shown:?}"
    );
}
