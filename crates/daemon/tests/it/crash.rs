//! The daemon is killed, and no job is lost.

use lvp_api::JobState;
use lvp_testkit::daemon::wait_for;
use lvp_testkit::fault::{Fault, Rule};

use crate::support::{MIB, World, accepted, fetched, holds, image};

#[tokio::test]
async fn jobs_are_readable_after_a_restart() {
    let world = World::new().await;
    let url = world.put("a.qcow2", &image(32 * MIB, 4, 1).build());
    let daemon = world.start();
    let job = accepted(&daemon, &url, "vm", 32 * MIB).await;
    let before = daemon.ended(&job).await.expect("it ends");
    daemon.kill().expect("it is killed");
    let daemon = world.start();
    assert_eq!(daemon.status(&job).await.expect("it is there"), before);
}

#[tokio::test]
async fn a_job_that_was_running_is_resumed_after_its_durable_bytes() {
    let (world, proxy) = World::with_faults().await;
    let builder = image(256 * MIB, 1500, 1);
    let bytes = builder.build();
    let url = world.put("a.qcow2", &bytes);
    proxy.inject(Rule::new(Fault::Slow(4_000_000)).method("GET"));
    let daemon = world.start();
    let job = accepted(&daemon, &url, "vm", 256 * MIB).await;
    // Which of two jobs that start together fetches for both is random.
    wait_for("the first job to lead", async || {
        world.home.volume("vm").exists().then_some(())
    })
    .await;
    let waiting = accepted(&daemon, &url, "vm-2", 256 * MIB).await;
    let half = bytes.len() as u64 / 2;
    fetched(&daemon, &job, half).await;
    daemon.kill().expect("it is killed");
    assert!(
        !holds(&world.home.volume("vm"), &builder.disk()),
        "the head was written too early"
    );
    let head = std::fs::read(world.home.volume("vm")).expect("the volume is there");
    assert!(
        head[..1 << 20].iter().all(|byte| *byte == 0),
        "the volume looks bootable"
    );

    proxy.clear();
    world.s3.traffic().reset();
    let daemon = world.start();
    for (job, volume) in [(job, "vm"), (waiting, "vm-2")] {
        let status = daemon.ended(&job).await.expect("it ends");
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        assert!(
            holds(&world.home.volume(volume), &builder.disk()),
            "{volume} is wrong"
        );
    }
    // What was durable is not fetched again: one portion between syncs, the ranges in flight.
    let read = world.s3.traffic().object("images/a.qcow2").sent_bytes;
    assert!(
        read < bytes.len() as u64 - half + 80 * MIB,
        "{read} of {}",
        bytes.len()
    );
}

#[tokio::test]
async fn a_stop_waits_for_running_jobs_and_leaves_the_rest_to_be_resumed() {
    let (world, proxy) = World::with_faults().await;
    let world = world.with("SHUTDOWN_GRACE", "100ms");
    let builder = image(256 * MIB, 900, 1);
    let url = world.put("a.qcow2", &builder.build());
    proxy.inject(Rule::new(Fault::Slow(500_000)).method("GET"));
    let daemon = world.start();
    let job = accepted(&daemon, &url, "vm", 256 * MIB).await;
    wait_for("the job to run", async || {
        (daemon.status(&job).await.ok()?.status == JobState::Running).then_some(())
    })
    .await;
    daemon.signal("TERM").expect("it is told");
    let status = daemon.wait().expect("it ends");
    assert!(status.success(), "{status}");
    proxy.clear();
    let daemon = world.start();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(
        (status.status, status.attempts),
        (JobState::Completed, 2),
        "{status:?}"
    );
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
}
