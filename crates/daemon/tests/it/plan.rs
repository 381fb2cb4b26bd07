//! Plans: what a request would do is reported, and not done.

use lvp_api::Method;
use lvp_api::plan::{CacheState, Plan};
use lvp_testkit::daemon::Daemon;
use lvp_testkit::fault::{Fault, Rule};
use serde_json::{Value, json};

use crate::support::{MIB, World, accepted, completed, fetched, image};

async fn planned(daemon: &Daemon, body: Value) -> Plan {
    let answer = daemon.call("POST", "/api/v1/plan", Some(body)).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_value(answer.body).expect("a plan")
}

fn request(url: &str, volume: &str, bytes: u64) -> Value {
    json!({"image_url": url, "volume_name": volume, "volume_size_bytes": bytes})
}

/// What a plan warns of beside that the volume is no clone.
fn others(plan: &Plan) -> Vec<&String> {
    let warnings = plan.warnings.iter();
    warnings
        .filter(|warning| !warning.starts_with("Not cloned"))
        .collect()
}

#[tokio::test]
async fn a_plan_predicts_what_the_job_does_and_changes_nothing() {
    let world = World::new().await;
    let bytes = image(8 * MIB, 20, 3).build();
    let url = world.put("a.qcow2", &bytes);
    let daemon = world.start();
    let plan = planned(&daemon, request(&url, "vm-1", 16 * MIB)).await;
    assert!(plan.fits, "{plan:?}");
    assert_eq!(plan.format.as_deref(), Some("qcow2"));
    assert_eq!(plan.cache, Some(CacheState::Miss));
    assert_eq!(plan.object_bytes, Some(bytes.len() as u64));
    assert_eq!(plan.bytes_to_fetch, bytes.len() as u64);
    assert_eq!(plan.virtual_bytes, Some(8 * MIB));
    assert_eq!(plan.bytes_to_write, Some(20 << 16));
    assert_eq!(plan.overwrites, None);
    assert_eq!(
        (others(&plan), plan.problems.as_slice()),
        (Vec::new(), &[][..])
    );
    // By how it would be made, whatever the file system can.
    let is_cloned = plan.method == Some(Method::Clone);
    assert_eq!(plan.warnings.is_empty(), is_cloned, "{plan:?}");
    assert!(is_cloned || plan.method == Some(Method::Stream), "{plan:?}");
    assert_eq!(plan.expected_seconds, None, "nothing was measured yet");
    // Nothing was changed.
    let jobs = daemon.call("GET", "/api/v1/jobs", None).await;
    assert_eq!(jobs.expect("an answer").body["total"], json!(0));
    assert!(world.home.volume_files().is_empty() && world.home.cache_files().is_empty());

    let job = completed(&daemon, &url, "vm-1", 8 * MIB).await;
    let job = job.job_id.to_string();
    let plan = planned(&daemon, request(&url, "vm-1", 8 * MIB)).await;
    assert!(plan.fits, "{plan:?}");
    assert_eq!(
        (plan.cache, plan.bytes_to_fetch),
        (Some(CacheState::Hit), 0)
    );
    let old = plan.overwrites.clone().expect("it is there");
    assert_eq!(
        (old.state.as_str(), old.job_id.as_ref()),
        ("ready", Some(&job))
    );
    assert!(
        others(&plan)[0].contains("content would be lost"),
        "{:?}",
        plan.warnings
    );
    let status = daemon.status(&job).await.expect("a status");
    assert_eq!(plan.expected_digest, status.image_digest);
}

#[tokio::test]
async fn a_plan_lists_everything_that_would_make_the_job_fail() {
    let world = World::new().await;
    let url = world.put("a.qcow2", &image(8 * MIB, 20, 3).build());
    world.put("b.qcow2", b"this is no image");
    std::fs::write(world.home.volume("theirs"), vec![0; 8 << 20]).expect("it is written");
    let world = world.with("CACHE_REQUIRE_CHECKSUM", "true");
    let daemon = world.start();
    for (url, volume, bytes, parts) in [
        (
            url.as_str(),
            "vm-1",
            4 * MIB,
            &["disk has 8388608 bytes"][..],
        ),
        ("s3://images/none.qcow2", "vm-1", 8 * MIB, &["404"]),
        (
            "s3://images/b.qcow2",
            "vm-1",
            8 * MIB,
            &["The image is refused"],
        ),
        (&url, "theirs", 8 * MIB, &["lvpctl volumes adopt"]),
        // Both at once.
        (
            "s3://images/none.qcow2",
            "theirs",
            16 * MIB,
            &["404", "adopt", "8 MiB"],
        ),
    ] {
        let plan = planned(&daemon, request(url, volume, bytes)).await;
        assert!(!plan.fits, "{plan:?}");
        for part in parts {
            let told = plan.problems.iter().any(|problem| problem.contains(part));
            assert!(told, "{part}: {:?}", plan.problems);
        }
    }
    let mut body = request(&url, "theirs", 8 * MIB);
    body["adopt"] = json!(true);
    let plan = planned(&daemon, body).await;
    assert!(plan.fits && !others(&plan).is_empty(), "{plan:?}");
    let answer = daemon
        .call("POST", "/api/v1/plan", Some(request(&url, "-", 1)))
        .await;
    assert_eq!(answer.expect("an answer").status, 400);
}

#[tokio::test]
async fn a_plan_for_a_volume_that_is_being_written_says_so() {
    let (world, proxy) = World::with_faults().await;
    let url = world.put("slow.qcow2", &image(64 * MIB, 300, 1).build());
    proxy.inject(
        Rule::new(Fault::Slow(200_000))
            .when(|request| request.target.ends_with("slow.qcow2") && request.method == "GET"),
    );
    let daemon = world.start();
    let job = accepted(&daemon, &url, "vm-1", 64 * MIB).await;
    fetched(&daemon, &job, 0).await;
    let plan = planned(&daemon, request(&url, "vm-1", 64 * MIB)).await;
    assert_eq!(
        (plan.cache, plan.bytes_to_fetch),
        (Some(CacheState::Fetching), 0)
    );
    assert!(!plan.fits);
    assert!(
        plan.problems.iter().any(|problem| problem.contains(&job)),
        "{plan:?}"
    );
}

#[tokio::test]
async fn a_silent_store_delays_no_other_plan_and_none_for_long() {
    let (world, proxy) = World::with_faults().await;
    let url = world.put("a.qcow2", &image(8 * MIB, 20, 3).build());
    let silent = world.put("silent.qcow2", &image(8 * MIB, 20, 3).build());
    proxy.inject(
        Rule::new(Fault::StallAt(0))
            .when(|request| request.target.ends_with("silent.qcow2") && request.method == "GET"),
    );
    let daemon = world.start();
    // Callers that do not wait for their plans occupy places, but not for long.
    let client = reqwest::Client::builder().timeout(std::time::Duration::from_millis(300));
    let client = client.build().expect("a client");
    for _ in 0..8 {
        let plan = client.post(format!("{}/api/v1/plan", daemon.url()));
        let plan = plan.json(&request(&silent, "vm-1", 8 * MIB)).send().await;
        assert!(plan.is_err(), "{plan:?}");
    }
    assert!(planned(&daemon, request(&url, "vm-1", 8 * MIB)).await.fits);
    let answer = daemon
        .call(
            "POST",
            "/api/v1/plan",
            Some(request(&silent, "vm-1", 8 * MIB)),
        )
        .await
        .expect("an answer");
    assert_eq!(answer.status, 503, "{answer:?}");
    let message = answer.body["message"].as_str().expect("a message");
    assert!(
        message.contains("plan could not be made within"),
        "{message}"
    );
}
