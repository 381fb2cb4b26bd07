//! Verification of volumes as jobs.

use std::fs;
use std::os::unix::fs::FileExt as _;

use lvp_api::{JobKind, JobState, JobStatus, Stage};
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::require::require;
use serde_json::{Value, json};

use super::{DISK, Sharing};
use crate::support::{completed, image, metric};

/// The size of a volume that takes long enough to read that something can happen meanwhile.
const LARGE: u64 = 8 << 30;

async fn accepted(daemon: &Daemon, volume: &str) -> String {
    let body = json!({ "volume_name": volume, "correlation_id": "nightly" });
    let job = daemon.submit("/api/v1/verifications", body).await;
    job.expect("it is accepted")
}

async fn verified(daemon: &Daemon, volume: &str) -> JobStatus {
    let job = accepted(daemon, volume).await;
    daemon.ended(&job).await.expect("it ends")
}

/// Waits until a job is reading.
async fn is_reading(daemon: &Daemon, job: &str) {
    wait_for("the reading", async || {
        let status = daemon.status(job).await.ok()?;
        assert!(!status.status.is_terminal(), "{status:?}");
        let progress = status.progress?;
        assert!(progress.percent < 100.0);
        let is_read = progress.bytes_processed > 0 && progress.bytes_total == LARGE;
        (is_read && progress.stage == Stage::Verifying).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_volume_is_verified_by_a_job_with_the_result_in_its_status() {
    if !require("xfs") {
        return;
    }
    let world = Sharing::on("xfs").await;
    let builder = image(DISK, 100, 61);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let made = completed(&daemon, &url, "vm", 2 * DISK).await;
    let digest = made.image_digest.expect("it has one");
    for volume in ["vm", &format!("lvp-golden-{digest}-qcow2")] {
        let status = verified(&daemon, volume).await;
        assert_eq!(
            (status.status, status.kind),
            (JobState::Completed, JobKind::Verify)
        );
        assert_eq!(status.volume_name.as_deref(), Some(volume));
        assert_eq!((status.image_url.as_str(), status.image_type), ("", None));
        assert_eq!(status.correlation_id.as_deref(), Some("nightly"));
        let found = status.verification.expect("it has a result");
        assert!(found.matches && found.image_digest == digest, "{found:?}");
    }
    let guest = world.home.volume("vm");
    let file = fs::File::options().write(true).open(&guest);
    let file = file.expect("it opens");
    file.write_all_at(&[1; 10], 5 * 4096)
        .expect("it is written");
    // In use.
    let body = json!({ "volume_name": "vm" });
    let ask = async || {
        let answer = daemon.call("POST", "/api/v1/verifications", Some(body.clone()));
        answer.await.expect("it answers").status
    };
    assert_eq!(ask().await, 409);
    drop(file);
    let status = verified(&daemon, "vm").await;
    assert_eq!(status.status, JobState::Completed);
    let found = status.verification.as_ref().expect("it has a result");
    assert!(!found.matches, "{found:?}");
    let parts: Vec<_> = found
        .differences
        .iter()
        .map(|part| (part.offset, part.length))
        .collect();
    assert_eq!(parts, [(5 * 4096, 4096)]);
    for (name, expected) in [
        (json!("absent"), 404),
        (json!("a b"), 400),
        (Value::Null, 400),
    ] {
        let body = json!({ "volume_name": name });
        let answer = daemon
            .call("POST", "/api/v1/verifications", Some(body))
            .await;
        assert_eq!(answer.expect("it answers").status, expected, "{name}");
    }
    // Whatever reads the volume's jobs by name takes none of these for one that wrote it.
    let again = completed(&daemon, &url, "vm", 2 * DISK).await;
    assert_eq!(again.status, JobState::Completed);
    let listed: Value = daemon.get("/api/v1/jobs?volume=vm").await.expect("a list");
    assert_eq!(listed["total"], 4);
    drop(daemon);
    let daemon = world.start();
    let listed: Value = daemon.get("/api/v1/jobs?volume=vm").await.expect("a list");
    let kinds: Vec<_> = listed["jobs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|job| job["kind"].clone())
        .collect();
    assert_eq!(kinds, ["provision", "verify", "verify", "provision"]);
    assert_eq!(listed["jobs"][1]["verification"]["matches"], false);
}

#[tokio::test]
async fn a_verification_shows_its_progress_and_can_be_cancelled_killed_and_resumed() {
    if !require("xfs") {
        return;
    }
    let world = Sharing::on("xfs").await;
    let builder = image(DISK, 100, 63);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    completed(&daemon, &url, "vm", LARGE).await;
    let job = accepted(&daemon, "vm").await;
    is_reading(&daemon, &job).await;
    // Nobody writes it meanwhile, or reads it twice.
    let body = json!({ "image_url": url, "volume_name": "vm", "volume_size_bytes": LARGE });
    for (route, body) in [
        ("/api/v1/jobs", body),
        ("/api/v1/verifications", json!({ "volume_name": "vm" })),
    ] {
        let answer = daemon.call("POST", route, Some(body)).await;
        let answer = answer.expect("it answers");
        assert_eq!(answer.status, 409, "{answer:?}");
        assert!(answer.body.to_string().contains(&job), "{answer:?}");
    }
    let answer = daemon
        .call("POST", &format!("/api/v1/jobs/{job}/cancel"), None)
        .await;
    assert_eq!(answer.expect("it answers").status, 200);
    let status = daemon.status(&job).await.expect("it is there");
    assert_eq!(
        (status.status, status.verification),
        (JobState::Cancelled, None)
    );

    let answer = daemon
        .call("POST", &format!("/api/v1/jobs/{job}/retry"), None)
        .await;
    let answer = answer.expect("it answers");
    assert_eq!(answer.status, 202, "{answer:?}");
    let job = answer.body["job_id"].as_str().expect("an id").to_owned();
    is_reading(&daemon, &job).await;
    daemon.kill().expect("it is killed");
    let daemon = world.start();
    is_reading(&daemon, &job).await;
    let status = daemon.status(&job).await.expect("it is there");
    assert_eq!((status.kind, status.attempts), (JobKind::Verify, 2));
    let answer = daemon
        .call("POST", &format!("/api/v1/jobs/{job}/cancel"), None)
        .await;
    assert_eq!(answer.expect("it answers").status, 200);
    let listed: lvp_api::VolumeList = daemon.get("/api/v1/volumes").await.expect("a list");
    assert_eq!(listed.volumes[0].state, "ready");
    assert_eq!(
        metric(&daemon, "jobs_total{status=\"cancelled\"}").await,
        Some(1.0)
    );
}
