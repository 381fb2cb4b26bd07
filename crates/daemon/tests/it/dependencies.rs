//! What the probes report about dependencies.

use std::time::{Duration, Instant};

use lvp_api::JobState;
use lvp_testkit::daemon::{Daemon, wait_for};

use crate::support::{MIB, World, ended, image, metric};

/// The value of a dependency's series, once there is one.
async fn up(daemon: &Daemon, name: &str) -> f64 {
    let series = format!("dependencies_up{{dependency=\"{name}\"}}");
    wait_for(name, async || metric(daemon, &series).await).await
}

/// Waits until a dependency is up or down. Returns how long that took.
pub(crate) async fn becomes(daemon: &Daemon, name: &str, expected: f64) -> Duration {
    let since = Instant::now();
    wait_for(name, async || {
        (up(daemon, name).await == expected).then_some(())
    })
    .await;
    since.elapsed()
}

#[tokio::test]
async fn a_dependency_that_goes_down_is_noticed_at_once_by_a_failing_job_and_its_return_is_noticed()
{
    let (world, proxy) = World::with_faults().await;
    let url = world.put("a.qcow2", &image(32 * MIB, 10, 14).build());
    let daemon = world.start();
    for name in ["minio", "dir", "storage"] {
        becomes(&daemon, name, 1.0).await;
    }
    let size = metric(&daemon, r#"volumes_size_bytes{backend="dir"}"#).await;
    assert!(size > Some(0.0), "{size:?}");
    proxy.go_down().await;
    let started = Instant::now();
    let status = ended(&daemon, &url, "vm", 64 * MIB).await;
    assert_eq!(status.status, JobState::Failed, "{status:?}");
    becomes(&daemon, "minio", 0.0).await;
    let took = started.elapsed();
    assert!(took.as_secs() < 10, "it took a whole interval: {took:?}");
    assert!(metric(&daemon, "source_retries_total").await >= Some(1.0));
    let failed = r#"image_errors_total{operation="download",error_type="source_unavailable"}"#;
    assert_eq!(metric(&daemon, failed).await, Some(1.0));
    proxy.come_up().await.expect("the proxy comes up");
    becomes(&daemon, "minio", 1.0).await;
}

#[tokio::test]
async fn a_dependency_that_goes_down_and_returns_is_noticed_within_an_interval_without_any_job() {
    const INTERVAL_AND_A_BIT: Duration = Duration::from_secs(18);
    let (world, proxy) = World::with_faults().await;
    let daemon = world.start();
    becomes(&daemon, "minio", 1.0).await;
    proxy.go_down().await;
    let down = becomes(&daemon, "minio", 0.0).await;
    proxy.come_up().await.expect("the proxy comes up");
    let up = becomes(&daemon, "minio", 1.0).await;
    for took in [down, up] {
        assert!(took < INTERVAL_AND_A_BIT, "{down:?} and {up:?}");
    }
}

#[tokio::test]
async fn a_store_that_does_not_know_the_credentials_is_down() {
    let world = World::new().await.with("MINIO_SECRET_KEY", "not-the-key");
    let daemon = world.start();
    for (name, expected) in [("minio", 0.0), ("storage", 1.0), ("dir", 1.0)] {
        becomes(&daemon, name, expected).await;
    }
    let ready = daemon
        .call("GET", "/readyz", None)
        .await
        .expect("it answers");
    assert_eq!(ready.status, 503, "{ready:?}");
}
